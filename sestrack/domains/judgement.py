"""What DNS facts mean for a trace domain or a sender domain: pure, no I/O.

The resolver gathers (`resolver.py`), this module judges, the commands speak.  States are
those an administrator can act on; each comes with what was found, what was expected and
what to do next.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never


class Outcome(StrEnum):
    """How a question to DNS ended."""

    ANSWER = "answer"
    NO_SUCH_NAME = "no-such-name"
    SERVER_FAILURE = "server-failure"
    SILENCE = "silence"
    LOOP = "loop"


@dataclass(frozen=True, slots=True)
class CnameFacts:
    """What DNS says of a name.  Names are in lower case, without a trailing dot."""

    name: str
    outcome: Outcome
    chain: tuple[str, ...] = ()
    """The targets of the CNAMEs, in order."""
    addresses: tuple[str, ...] = ()
    target_missing: bool = False
    """The last target does not exist, or has no address."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TxtFacts:
    """The TXT records of a name."""

    name: str
    outcome: Outcome
    texts: tuple[str, ...] = ()
    detail: str = ""


class State(StrEnum):
    """What a check comes to."""

    OK = "ok"
    OK_CHAIN = "ok-chain"
    WRONG_TARGET = "wrong-target"
    ADDRESS = "address"
    NO_SUCH_NAME = "no-such-name"
    NO_CNAME = "no-cname"
    LOOP = "cname-loop"
    TARGET_MISSING = "target-missing"
    WRONG_TEXT = "wrong-text"
    NO_TXT = "no-txt"
    SERVFAIL = "servfail"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Finding:
    """A state with its words."""

    state: State
    found: str
    expected: str
    advice: str

    @property
    def usable(self) -> bool:
        """DNS leads to us."""
        return self.state in {State.OK, State.OK_CHAIN}

    @property
    def transient(self) -> bool:
        """It could not be told; asking again may."""
        return self.state in {State.SERVFAIL, State.TIMEOUT}

    @property
    def absent(self) -> bool:
        """The record is not there, or not yet."""
        return self.state in {State.NO_SUCH_NAME, State.NO_CNAME, State.NO_TXT}


def judge_cname(facts: CnameFacts, edge: str) -> Finding:
    """Judge the CNAME of a trace domain that is to lead to `edge`."""
    expected = f"CNAME {edge}"
    record = f"{facts.name}. 3600 IN CNAME {edge}."
    publish = f"publish this record, then verify again: {record}"
    path = " -> ".join((facts.name, *facts.chain))
    match facts.outcome:
        case Outcome.SILENCE:
            return _silent(facts.detail, expected)
        case Outcome.SERVER_FAILURE:
            return _failing(facts.detail, expected)
        case Outcome.LOOP:
            found, advice = f"a CNAME loop: {path}", f"replace the CNAME by this one: {record}"
            return Finding(State.LOOP, found, expected, advice)
        case Outcome.NO_SUCH_NAME:
            return Finding(State.NO_SUCH_NAME, "the name does not exist", expected, publish)
        case Outcome.ANSWER:
            pass
        case _ as never:  # pragma: no cover
            assert_never(never)
    if not facts.chain:
        if facts.addresses:
            found = f"address {', '.join(facts.addresses)} instead of a CNAME"
            advice = f"replace the address record by: {record}"
            return Finding(State.ADDRESS, found, expected, advice)
        return Finding(State.NO_CNAME, "the name has no CNAME", expected, publish)
    if edge not in facts.chain:
        advice = f"replace the CNAME by this one: {record}"
        return Finding(State.WRONG_TARGET, f"CNAME {path}", expected, advice)
    if facts.target_missing:
        found = f"CNAME {path}, and {facts.chain[-1]} has no address"
        advice = f"the record is right; give {facts.chain[-1]} an A or AAAA record"
        return Finding(State.TARGET_MISSING, found, expected, advice)
    if facts.chain[0] == edge:
        return Finding(State.OK, f"CNAME {edge}", expected, "")
    return Finding(State.OK_CHAIN, f"CNAME {path}", expected, "")


def judge_txt(facts: TxtFacts, wanted: str) -> Finding:
    """Judge the TXT records that are to prove a sender domain."""
    expected = f'TXT "{wanted}"'
    publish = f'publish this record, then verify again: {facts.name}. 3600 IN TXT "{wanted}"'
    match facts.outcome:
        case Outcome.SILENCE:
            return _silent(facts.detail, expected)
        case Outcome.SERVER_FAILURE | Outcome.LOOP:
            return _failing(facts.detail, expected)
        case Outcome.NO_SUCH_NAME:
            found = f"the name {facts.name} does not exist"
            return Finding(State.NO_SUCH_NAME, found, expected, publish)
        case Outcome.ANSWER:
            pass
        case _ as never:  # pragma: no cover
            assert_never(never)
    if wanted in facts.texts:
        return Finding(State.OK, expected, expected, "")
    if facts.texts:
        found = "TXT " + ", ".join(f'"{text}"' for text in facts.texts)
        return Finding(State.WRONG_TEXT, found, expected, publish)
    return Finding(State.NO_TXT, f"{facts.name} has no TXT record", expected, publish)


def _silent(detail: str, expected: str) -> Finding:
    advice = "nothing is changed; verify again later, or name a server with --resolver IP"
    return Finding(State.TIMEOUT, f"no answer from DNS{_behind(detail)}", expected, advice)


def _failing(detail: str, expected: str) -> Finding:
    advice = (
        "the zone's name servers fail, or its signatures; nothing is changed, verify again later"
    )
    return Finding(State.SERVFAIL, f"DNS answers with a failure{_behind(detail)}", expected, advice)


def _behind(detail: str) -> str:
    return f" ({detail})" if detail else ""
