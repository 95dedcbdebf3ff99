"""What comes next in the life of a trace domain, as a command that can be typed.

None of them changes what is in force for another sender domain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sestrack.model import Dimension, DomainStatus, SenderStatus

if TYPE_CHECKING:
    from collections.abc import Collection

    from sestrack.model import Sender, Settings, TraceDomain
    from sestrack.store import Store


def of_sender(opened: Store, sender: Sender) -> str:
    """Return what comes after the proof of a sender domain; "" if all is done."""
    under = [
        domain
        for domain in opened.trace_domains()
        if domain.primary == sender.primary and domain.status is not DomainStatus.RETIRED
    ]
    settings = opened.settings()
    for domain in under:
        if domain.status is DomainStatus.VERIFIED:
            if settings.enabled and settings.dimension is Dimension.DOMAIN:
                return "" if sender.domain in settings.senders else _own(domain, sender, settings)
            return of_trace_domain(domain, settings, opened.senders())
    if under:
        return f"sestrack domain verify {under[0].name}"
    return f"sestrack domain create trace --primary {sender.primary}"


def of_trace_domain(domain: TraceDomain, settings: Settings, senders: Collection[Sender]) -> str:
    """Return what puts a verified trace domain to use; "" if settings that are enabled name it."""
    entries = [*([settings.account] if settings.account else []), *settings.senders.values()]
    if not entries:
        return f"sestrack settings enable --dimension account --domain {domain.name} --click --open"
    if not settings.enabled:  # by somebody, who may have had a reason
        return "sestrack settings show"
    if domain.name in {entry.domain for entry in entries}:
        return ""
    if settings.dimension is not Dimension.ACCOUNT:
        for sender in senders:
            if (
                sender.primary == domain.primary
                and sender.status is SenderStatus.VERIFIED
                and sender.domain not in settings.senders
            ):
                return _own(domain, sender, settings)
    return "sestrack settings edit"


def _own(domain: TraceDomain, sender: Sender, settings: Settings) -> str:
    """Return what gives a sender domain an entry of its own."""
    begun = " --click --open" if settings.dimension is Dimension.DOMAIN else ""
    return f"sestrack settings enable --sender {sender.domain} --domain {domain.name}{begun}"
