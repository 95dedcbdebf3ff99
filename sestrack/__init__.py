"""Open and click tracking for e-mail under one's own domain.

The package is one command, `sestrack`; `sestrack.cli` is its door.  The map of
the modules, and which may import which, is in the README and is held by
`tests/test_imports.py`.
"""

__version__ = "0.1.0"
