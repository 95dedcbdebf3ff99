"""What a check of a domain can come to: states, how much each weighs, and their words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Check(StrEnum):
    """What is looked at, in the order in which it is told."""

    EDGE = "edge"
    CNAME = "cname"
    SERVERS = "name servers"
    WILDCARD = "wildcard"
    CAA = "caa"
    HTTPS = "https"
    HTTP = "http"
    """In place of https, for a trace domain with plain http."""
    TXT = "txt"


class Level(StrEnum):
    """How much a state weighs."""

    OK = "ok"
    WARNING = "warning"
    """Worth a look; the domain is usable."""
    LATER = "later"
    """It could not be told, or is not so yet; asking again may tell."""
    NO = "no"


class State(StrEnum):
    """What a check comes to."""

    OK = "ok"
    # DNS
    OK_CHAIN = "ok-chain"
    OK_FLATTENED = "ok-flattened"
    PROXIED = "proxied"
    WRONG_TARGET = "wrong-target"
    NO_SUCH_NAME = "no-such-name"
    NO_CNAME = "no-cname"
    NO_ADDRESS = "no-address"
    TARGET_MISSING = "target-missing"
    LOOP = "cname-loop"
    DOUBLED_NAME = "doubled-name"
    PROPAGATING = "propagating"
    DNSSEC_BOGUS = "dnssec-bogus"
    SERVFAIL = "servfail"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    WRONG_TEXT = "wrong-text"
    NO_TXT = "no-txt"
    WILDCARD = "wildcard"
    ALL_WITHOUT = "none"
    """No name server has the record."""
    SOME_WITHOUT = "some-without"
    CAA_LIMITED = "caa-limited"
    CAA_FORBIDS = "caa-forbids"
    CAA_UNKNOWN = "caa-unknown"
    # HTTPS
    NOT_CHECKED = "not-checked"
    CONNECT_REFUSED = "connect-refused"
    UNREACHABLE = "unreachable"
    CONNECTION_RESET = "connection-reset"
    FRONT_END_ERROR = "front-end-error"
    CERT_PENDING = "cert-pending"
    TLS_FAILED = "tls-handshake-failed"
    CERT_NAME_MISMATCH = "cert-name-mismatch"
    CERT_EXPIRED = "cert-expired"
    CERT_EXPIRING = "cert-expiring"
    CERT_NOT_YET_VALID = "cert-not-yet-valid"
    CERT_SELF_SIGNED = "cert-self-signed"
    CERT_UNTRUSTED_ROOT = "cert-untrusted-root"
    CERT_INCOMPLETE_CHAIN = "cert-incomplete-chain"
    CERT_INVALID = "cert-invalid"
    REDIRECTED = "redirected"
    HOST_REWRITTEN = "host-rewritten"
    REACHED_BUT_404 = "reached-but-404"
    NOT_OUR_SERVER = "not-our-server"
    STALE_CHALLENGE = "stale-challenge"

    @property
    def level(self) -> Level:
        """How much it weighs; what stands in no list is a definite no."""
        return _LEVELS.get(self, Level.NO)


_LEVELS = {
    **dict.fromkeys((State.OK, State.OK_CHAIN, State.OK_FLATTENED, State.ALL_WITHOUT), Level.OK),
    **dict.fromkeys(
        (
            State.WILDCARD, State.SOME_WITHOUT, State.CAA_LIMITED, State.CAA_FORBIDS,
            State.CAA_UNKNOWN, State.CERT_EXPIRING, State.NOT_CHECKED,
        ),
        Level.WARNING,
    ),
    **dict.fromkeys(
        (
            State.PROXIED, State.PROPAGATING, State.SERVFAIL, State.REFUSED, State.TIMEOUT,
            State.CONNECT_REFUSED, State.UNREACHABLE, State.CONNECTION_RESET,
            State.FRONT_END_ERROR, State.CERT_PENDING,
        ),
        Level.LATER,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """A state with its words."""

    check: Check
    state: State
    found: str
    expected: str
    advice: str = ""
    """What to do; "" where nothing is to be done."""
    certificate_ends: int = 0
    """When the certificate that was shown ends, in seconds since 1970; 0 for none."""
    weighs: Level | None = None
    """Other than its state does by itself."""

    @property
    def level(self) -> Level:
        """How much it weighs."""
        return self.weighs or self.state.level

    @property
    def absent(self) -> bool:
        """The record is not there, or not yet."""
        return self.state in _ABSENT


_ABSENT = {State.NO_SUCH_NAME, State.NO_CNAME, State.NO_TXT}
