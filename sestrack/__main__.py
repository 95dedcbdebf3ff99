"""`python -m sestrack` is the command `sestrack`."""

from sestrack.cli import main

if __name__ == "__main__":
    main()
