"""What is found out about a domain: values without any judgement.

`resolver.py` and `probe.py` gather them, `dns_judgement.py` and `https_judgement.py` judge
them.  Names are in lower case, without a trailing dot; addresses as text; times are seconds
since 1970, UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sestrack.domains.challenge import Answered


class Outcome(StrEnum):
    """How a question to DNS ended."""

    ANSWER = "answer"
    NO_SUCH_NAME = "no-such-name"
    SERVER_FAILURE = "server-failure"
    REFUSED = "refused"
    BOGUS = "bogus"
    """The signatures of DNSSEC do not hold: extended errors 6 to 12 and 27 (RFC 8914 §4)."""
    SILENCE = "silence"
    LOOP = "loop"


@dataclass(frozen=True, slots=True)
class NameFacts:
    """Where a name leads."""

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


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What one authoritative name server says of a name, asked directly."""

    server: str
    outcome: Outcome
    chain: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CaaFacts:
    """Which authorities may issue certificates for a name (RFC 8659)."""

    outcome: Outcome
    owner: str = ""
    """Where the relevant records stand; "" if there are none."""
    issuers: tuple[str, ...] = ()
    """Who may issue; none, although there are records, is nobody."""
    restricts: bool = False
    """There is an `issue` record."""
    detail: str = ""


class HttpOutcome(StrEnum):
    """How far a request to one address came."""

    ANSWER = "answer"
    CERTIFICATE = "certificate"
    """The certificate does not hold."""
    TLS = "tls"
    """There was no agreement on TLS."""
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    NO_ROUTE = "no-route"
    """This machine has no network of that family."""
    TIMEOUT = "timeout"
    RESET = "reset"
    NOT_HTTP = "not-http"


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """The certificate of a server."""

    names: tuple[str, ...]
    issuer: str
    not_before: int
    not_after: int
    sent: int
    """How many certificates came with it, itself counted."""


@dataclass(frozen=True, slots=True)
class HttpFacts:
    """What one address answers to the challenge."""

    address: str
    outcome: HttpOutcome
    plain: bool = False
    """Asked without TLS."""
    detail: str = ""
    verify_code: int = 0
    """Of OpenSSL, X509_V_ERR_…; 0 for a certificate that holds."""
    certificate: CertificateFacts | None = None
    status: int = 0
    location: str = ""
    server: str = ""
    age: str = ""
    answered: Answered = Answered.FOREIGN
    asked_host: str = ""
    """The host that our server was asked for, where it answered."""


@dataclass(frozen=True, slots=True)
class DomainFacts:
    """Everything that was found out about a trace domain.  None: it was not asked."""

    name: NameFacts
    edge: NameFacts
    """Of the target that the CNAME should have."""
    doubled: NameFacts | None = None
    """The name with its zone appended twice, as panels do (postal#677)."""
    servers: tuple[ServerFacts, ...] | None = None
    caa: CaaFacts | None = None
    wildcard: NameFacts | None = None
    https: tuple[HttpFacts, ...] | None = None
