"""Did you mean?  What a mistyped word was near to, and the command line as it was meant.

A guess is offered only if it is near (`difflib`, whose measure is 1 for the same and 0 for
nothing in common); a wrong guess sends a person the wrong way.
"""

from __future__ import annotations

import difflib
import shlex
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from sestrack.engines.addresses import shown
from sestrack.errors import NotFound, Refused, SestrackError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from sestrack.model import Sender, TraceDomain
    from sestrack.store import Store

_Failure = TypeVar("_Failure", bound=SestrackError)
NEAR_WORD = 0.65
"""For commands and options, which are few: `ls` is still `list`, and `bogus` not `jobs`."""
NEAR_NAME = 0.85
"""For names: `shop.example.com` and `news.example.com` are two, not one mistyped."""


def nearest(word: str, words: Collection[str], near: float = NEAR_WORD) -> str:
    """Return the word that was meant, "" if none is near."""
    # the hyphens that all options begin with make none of them nearer
    plain = {each.lstrip("-"): each for each in words}
    found = difflib.get_close_matches(word.lstrip("-"), plain, 1, near)
    return plain[found[0]] if found else ""


def corrected(wrong: str, right: str, arguments: Sequence[str], otherwise: str = "") -> str:
    """Return the command line as it was meant, to be typed; `otherwise` if it is not plain."""
    words = list(arguments)
    for position, word in enumerate(words):
        if word == wrong:
            words[position] = right
        elif word.startswith(f"{wrong}="):
            words[position] = right + word.removeprefix(wrong)
        elif word.startswith("-") and word.partition("=")[2] == wrong:
            words[position] = word.removesuffix(wrong) + right
        else:
            continue
        return line_of(words)
    return otherwise


def moved_behind(option: str, arguments: Sequence[str], *, flag: bool) -> str:
    """Return the command line with an option, and its value unless it is a flag, at its end."""
    taken, rest = _taken_out(option, arguments, flag=flag)
    return line_of([*rest, *taken])


def moved_before(option: str, arguments: Sequence[str]) -> str:
    """Return the command line with an option and its value before the command."""
    taken, rest = _taken_out(option, arguments, flag=False)
    return line_of([*taken, *rest])


def _taken_out(option: str, arguments: Sequence[str], *, flag: bool) -> tuple[list[str], list[str]]:
    words = list(arguments)
    begin = next(n for n, word in enumerate(words) if word.partition("=")[0] == option)
    end = begin + 1 + (not flag and words[begin] == option)
    return words[begin:end], [*words[:begin], *words[end:]]


def line_of(words: Sequence[str]) -> str:
    """Write a command line to be typed; a password that stood in it does not."""
    return shlex.join(["sestrack", *map(_without_password, words)])


def _without_password(word: str) -> str:
    name, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    return name + equals + (shown(value) if "://" in value else value)


def with_option(hint: str, arguments: Sequence[str], message: str = "") -> str:
    """Put the options that a hint is, or begins with, into the command line.

    Of one that was given several times, the value that the message quotes is replaced.  What is
    not options, each with a value or one alone, and alternatives to it, is returned as it is.
    """
    try:
        name, *values = shlex.split(hint.partition(", or ")[0])
    except ValueError:
        return hint
    words = list(arguments)
    if len(values) == 3 and values[1].startswith("--"):  # noqa: PLR2004 - two options
        first = shlex.split(with_option(shlex.join([name, values[0]]), words, message))[1:]
        return with_option(shlex.join(values[1:]), first, message)
    if name == "--store" and len(values) == 1 and not hint.partition(", or ")[1]:
        if name in {word.partition("=")[0] for word in words}:
            _, words = _taken_out(name, words, flag=False)
        return line_of([name, *values, *words])
    if name == "--store" or len(values) > 1 or "--" in words or "|" in hint or name.endswith(","):
        return hint
    places = [
        n for n, word in enumerate(words) if word.partition("=")[0] in {name, _SHORT.get(name)}
    ]
    if len(places) > 1:
        places = [n for n in places if repr(_value(words, n)) in message]
        if len(places) != 1:
            return hint
    begin = places[0] if places else len(words)
    whole = words[begin : begin + 1]  # "--name", and not "--name=value"
    end = begin + 1 + (len(values) if name in whole or _SHORT.get(name) in whole else 0)
    words[begin:end] = [name, *values]
    return line_of(words)


_SHORT = {"--output": "-o"}
"""Options that hints are, and that can be typed in a shorter form."""


def _value(words: Sequence[str], place: int) -> str:
    """Return the value of the option at a place, "" for none."""
    _, equals, value = words[place].partition("=")
    return value if equals else "".join(words[place + 1 : place + 2])


def guess(
    name: str, words: Collection[str], failure: _Failure, *, corrects: bool = True
) -> _Failure:
    """Return the failure with what was meant, or as it is.

    Unless `corrects`, no command is made of it: a name that is to be removed is typed by hand.
    """
    found = nearest(name, words, NEAR_NAME)
    if found:
        failure.message += f"; did you mean {found}?"
        failure.meant = (name, found) if corrects else None
    return failure


@contextmanager
def sender_domain(opened: Store, name: str, instead: str = "") -> Iterator[None]:
    """Guess which sender domain was meant, if it is not found.

    With `instead` that is the hint, and not the command with the name that was meant.
    """
    try:
        yield
    except NotFound as failure:
        failure.hint = instead or failure.hint
        known = [sender.domain for sender in opened.senders()]
        raise guess(name, known, failure, corrects=not instead) from None


@contextmanager
def primary_domain(name: str | None, senders: Collection[Sender]) -> Iterator[None]:
    """Guess which primary domain was meant, if one is named that no sender domain has."""
    try:
        yield
    except Refused as failure:
        primaries = {sender.primary for sender in senders}
        if name is None or name in primaries:
            raise
        raise guess(name, primaries, failure) from None


@contextmanager
def trace_domain(name: str, domains: Collection[TraceDomain], instead: str = "") -> Iterator[None]:
    """Guess which trace domain was meant by a name, or a prefix; `instead` as above."""
    try:
        yield
    except NotFound as failure:
        failure.hint = instead or failure.hint
        words = [domain.name if "." in name else domain.prefix for domain in domains]
        raise guess(name, words, failure, corrects=not instead) from None
