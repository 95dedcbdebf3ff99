"""Look at trace domains as a whole: gather the facts, many at once, judge, and note it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import uvloop

from sestrack.domains.dns_judgement import Target, judge_cname
from sestrack.domains.facts import DomainFacts, Outcome
from sestrack.domains.findings import Level
from sestrack.domains.judgement import Report, judge
from sestrack.domains.probe import Prober
from sestrack.domains.resolver import Resolver
from sestrack.model import Conclusion, DomainStatus
from sestrack.rules import after_check

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sestrack.model import TraceDomain
    from sestrack.store import Store

AT_ONCE = 100
"""Domains; more lose packets, and each costs a second."""


MAX_ADDRESSES = 16
"""Asked over HTTPS of one domain."""


class SurveyOptions(NamedTuple):
    """How trace domains are to be looked at."""

    resolver: str | None = None
    """`IP[:PORT]`; None is the system's."""
    authoritative: bool = False
    """Ask each authoritative name server, even if the resolver's answer is good."""
    authority_port: int = 53
    http: bool = True
    """Ask over HTTPS too."""


def check(
    opened: Store,
    domains: Sequence[TraceDomain],
    how: SurveyOptions,
    now: int,
    step: Callable[[], None] = lambda: None,
) -> list[tuple[TraceDomain, Report]]:
    """Report on each of `domains`; they come as they stand after it, which `note` keeps.

    A front end that gets certificates when they are asked for (`tracker/ask.py`) must know
    that DNS is right before HTTPS can be: that alone is kept at once.
    """
    unknown = [d for d in domains if how.http and not d.dns_verified and not d.plain_http]
    if unknown:
        reports = uvloop.run(survey(unknown, how, None, now))
        well = [report.dns is Conclusion.YES for report in reports]
        opened.note_dns(d.name for d, yes in zip(unknown, well, strict=True) if yes)
    # a dict's view would be a method of the same name
    prober = Prober([key.secret for key in opened.keys()]) if how.http else None  # noqa: SIM118
    reports = uvloop.run(survey(domains, how, prober, now, step))
    return [
        (_after(domain, report, now), report)
        for domain, report in zip(domains, reports, strict=True)
    ]


def note(opened: Store, checked: Sequence[tuple[TraceDomain, Report]]) -> None:
    """Keep what was found, of all domains or of none."""
    opened.note_checks((domain, report.decisive.found) for domain, report in checked)


def _after(domain: TraceDomain, report: Report, now: int) -> TraceDomain:
    after = after_check(domain, report.conclusion, report.dns, now, dns_only=report.dns_only)
    if report.target_seen:
        after = after._replace(former_target="")
    if report.certificate_ends:  # what was seen is not forgotten while nothing answers
        after = after._replace(certificate_ends=report.certificate_ends)
    if report.dns_only and after.status is DomainStatus.FAILING:
        return after  # what made it so is not what DNS alone has seen
    return after._replace(last_state=report.state)


async def survey(
    domains: Sequence[TraceDomain],
    how: SurveyOptions,
    prober: Prober | None,
    now: int,
    step: Callable[[], None] = lambda: None,
) -> list[Report]:
    """Report on each of `domains`, in their order; without a prober on DNS alone."""
    resolver = Resolver.of(how.resolver, how.authority_port)
    room = asyncio.Semaphore(AT_ONCE)

    async def look(domain: TraceDomain) -> Report:
        async with room:
            target = Target(domain.target, domain.former_target)
            facts = await _gather(domain, target, resolver, how, prober)
        step()
        return judge(facts, target, domain.base, now)

    return list(await asyncio.gather(*map(look, domains)))


async def _gather(
    domain: TraceDomain,
    target: Target,
    resolver: Resolver,
    how: SurveyOptions,
    prober: Prober | None,
) -> DomainFacts:
    name = domain.name
    own, edge, wildcard = await asyncio.gather(
        resolver.name(name, both=prober is not None),
        resolver.target(target.name),
        resolver.wildcard(domain.primary),
    )
    well = judge_cname(own, target, edge).level is Level.OK
    doubled = servers = caa = https = None
    if not well and own.outcome in {Outcome.ANSWER, Outcome.NO_SUCH_NAME} and not own.chain:
        doubled = await resolver.name(f"{name}.{domain.primary}", both=False)
    if how.authoritative or not (well or own.outcome in {Outcome.SILENCE, Outcome.BOGUS}):
        servers = await resolver.servers(name, domain.primary)
    if prober is not None:
        if not domain.plain_http and own.outcome is not Outcome.SILENCE:
            caa = await resolver.caa(name)
        addresses = own.addresses[:MAX_ADDRESSES]
        https = tuple(
            await asyncio.gather(
                *(
                    prober.ask(name, address, plain=domain.plain_http, port=domain.port)
                    for address in addresses
                )
            )
        )
    return DomainFacts(own, edge, doubled, servers, caa, wildcard, https)
