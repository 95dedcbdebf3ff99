"""Every way sestrack can fail, on one page.

    SestrackError                     one line of words, a hint that can be typed, an exit code
    ├── Refused                   1   the check says no; a rule of the model forbids it
    ├── UsageError                2   the command line is wrong, or would need a terminal
    ├── BadInput                 65   input is not what it claims: TOML, URL, key file
    │   └── ForgedToken          65   a tracking URL that we did not seal
    ├── NotFound                 66   no such file, sender domain, trace domain
    ├── CannotListen             69   the address to serve on cannot be had
    ├── CannotCreate             73   a file that should be written cannot be
    ├── InputOutputError         74   reading or writing failed half-way
    ├── TryAgain                 75   later: DNS silent, record not there yet, store busy
    ├── NoPermission             77   file permissions
    └── NotSetUp                 78   no store, no key, no edge

Anything else that escapes is a bug of ours and leaves with 70.  The numbers are
those of sysexits.h, which mail software understands: Postfix's pipe(8) retries
after 75 and bounces after any other.

An error is raised where it is noticed and becomes words in one place only,
`cli.boundary`.
"""

EXIT_NO = 1
EXIT_USAGE = 2
EXIT_BUG = 70


class SestrackError(Exception):
    """An error with a message for a person.

    `message` names the thing and its value; `hint`, if any, is the next command
    to type or the one fact that helps.
    """

    code = EXIT_BUG
    meant: tuple[str, str] | None = None
    """A word that was typed, and the one that seems to have been meant."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Refused(SestrackError):
    """The check says no, or a rule of the model refuses."""

    code = EXIT_NO


class UsageError(SestrackError):
    """The command line is wrong, or there would have to be a terminal."""

    code = EXIT_USAGE


class BadInput(SestrackError):
    """Input is not what it claims to be: bad TOML, a forged URL, binary data."""

    code = 65


class ForgedToken(BadInput):
    """A token that none of our keys sealed for this place."""


class NotFound(SestrackError):
    """There is no such file, sender domain, trace domain or message."""

    code = 66


class CannotListen(SestrackError):
    """The address to serve on cannot be had."""

    code = 69


class CannotCreate(SestrackError):
    """A file that should be written cannot be made."""

    code = 73


class InputOutputError(SestrackError):
    """Reading or writing failed after it had begun: the disk is full."""

    code = 74


class TryAgain(SestrackError):
    """Later: DNS is silent, the record is not there yet, the store is busy or away."""

    code = 75


class NoPermission(SestrackError):
    """The permissions of a file, or the rights in a database, forbid it."""

    code = 77


class NotSetUp(SestrackError):
    """No store, no key, no edge; or the configuration of the store is wrong."""

    code = 78


def meanings() -> dict[int, list[str]]:
    """Return each exit code, the least first, with the sentences that say what it means."""
    kinds = [
        kind
        for kind in globals().values()
        if isinstance(kind, type)
        and issubclass(kind, SestrackError)
        # what is below another error is a special case of it, and has its code
        and kind.__base__ is SestrackError
    ]
    codes = {0: ["done; the answer is yes; nothing to do."], EXIT_BUG: ["a bug of ours."]}
    for kind in kinds:
        codes.setdefault(kind.code, []).append((kind.__doc__ or "").partition("\n")[0])
    return dict(sorted(codes.items()))
