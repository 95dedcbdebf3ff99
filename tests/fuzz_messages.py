"""A coverage-guided fuzzer of messages; not part of the tests.

    pip install atheris
    python tests/fuzz_messages.py FOLDER -max_len=6000 -timeout=20

FOLDER keeps the inputs that reached something new.  Checked are, for whatever octets: no
exception; not one octet outside the rewritten parts changed; each part decodes to the
original with the holes filled; no line of a 7bit part becomes too long.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-not-found,unused-ignore]

with atheris.instrument_imports(include=["sestrack"]):
    from test_messages import COPY, check_only_parts_changed, rewritten

    from sestrack.mail import mime, transfer


def one(data: bytes) -> None:
    """Rewrite a message and check what came of it."""
    done = rewritten(data, plain=True)
    if done.data == data:
        return
    check_only_parts_changed(data, done)
    after = {part.number: part for part in mime.read(done.data).parts}
    for part, content, template in done.parts:
        result, at, kept = template.render(COPY), 0, 0
        if not template.encoding:
            for hole in template.holes:
                token = hole.before + COPY + hole.after
                piece = content[kept : hole.start] + token
                assert result.startswith(piece, at)
                at, kept = at + len(piece), hole.end
            assert result[at:] == content[kept:]
        new = after[part.number]
        if (
            new.encoding not in {"base64", "quoted-printable"}
            and longest(content) <= transfer.MAX_LINE
        ):
            assert longest(done.data[new.start : new.end]) <= transfer.MAX_LINE + 1


def longest(data: bytes) -> int:
    """Return the length of the longest line."""
    return max(map(len, data.split(b"\n")))


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
