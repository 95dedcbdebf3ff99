"""The values of the model.  Named tuples: the pipe of `rewrite` pays for every import."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Dimension(StrEnum):
    """Who the settings apply to."""

    ACCOUNT = "account"
    ACCOUNT_DOMAIN = "account+domain"
    DOMAIN = "domain"


class SenderStatus(StrEnum):
    """Has the sender domain been proven to be ours?"""

    PENDING = "pending"
    VERIFIED = "verified"


class DomainStatus(StrEnum):
    """May tracking URLs be made under the trace domain?"""

    PENDING = "pending"
    VERIFIED = "verified"
    FAILING = "failing"
    RETIRED = "retired"


class Conclusion(StrEnum):
    """What a check of a trace domain comes to: usable, not now to be told, or not."""

    YES = "usable"
    LATER = "later"
    NO = "no"


class Sender(NamedTuple):
    """A sender domain.  Times are seconds since 1970, UTC; 0 is never."""

    domain: str
    primary: str
    proof: str
    """The text of the TXT record that proves it."""
    status: SenderStatus
    assumed: bool
    """Verified by the administrator's word alone."""
    created_at: int
    verified_at: int


class TraceDomain(NamedTuple):
    """A trace domain.  Times are seconds since 1970, UTC; 0 is never."""

    name: str
    prefix: str
    primary: str
    status: DomainStatus
    plain_http: bool
    port: int
    """0 for the scheme's own."""
    created_at: int
    verified_at: int
    checked_at: int
    last_ok_at: int
    last_state: str
    """What the last check found: a state of `sestrack.domains.findings`, "" before."""
    target: str
    """Where its CNAME should lead: the edge, or the host of a CDN in front of it."""
    former_target: str = ""
    """Accepted too, until `target` is seen."""
    dns_verified: bool = False
    """DNS leads to us, as far as is known: a certificate may be asked for."""
    dns_only: bool = False
    """Verified without asking over HTTPS."""
    failures: int = 0
    """Checks in a row that did not say yes."""
    refusals: int = 0
    """Checks in a row that said a definite no."""
    failing_since: int = 0
    """When the first of the failures was."""
    certificate_ends: int = 0
    """When the first of its certificates ends, of those seen last; 0 when none was."""

    @property
    def standing(self) -> str:
        """The status in words, and whether it rests on DNS alone."""
        only = self.status is DomainStatus.VERIFIED and self.dns_only
        return f"{self.status} (DNS only)" if only else str(self.status)

    @property
    def base(self) -> str:
        """What its tracking URLs begin with."""
        scheme = "http" if self.plain_http else "https"
        port = f":{self.port}" if self.port else ""
        return f"{scheme}://{self.name}{port}/"


class Entry(NamedTuple):
    """One table of the settings: the account's, or a sender domain's own."""

    domain: str = ""
    click: bool = False
    open: bool = False
    enabled: bool = True


class Settings(NamedTuple):
    """The tracking settings."""

    enabled: bool
    dimension: Dimension | None
    account: Entry | None
    senders: dict[str, Entry]


class Verdict(NamedTuple):
    """An answer with its reason."""

    yes: bool
    code: str
    words: str
    entry: Entry | None = None
    """The settings that apply, if any do."""
