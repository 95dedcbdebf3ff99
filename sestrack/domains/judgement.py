"""What facts mean for a trace domain as a whole: pure, no I/O, no clock.

The resolver and the probe gather (`facts.py`), `dns_judgement.py` and `https_judgement.py`
judge each check, this module what they come to, the commands speak.  A trace domain is usable
when its CNAME leads to the target, or to the same addresses, and HTTPS at every address answers
as us; other addresses than the target's (a CDN in front) are as good when HTTPS does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sestrack.domains.dns_judgement import (
    Target,
    is_trouble,
    judge_caa,
    judge_cname,
    judge_edge,
    judge_servers,
    judge_wildcard,
)
from sestrack.domains.findings import Check, Finding, Level, State
from sestrack.domains.https_judgement import is_about_certificate, judge_http
from sestrack.model import Conclusion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sestrack.domains.facts import DomainFacts


@dataclass(frozen=True, slots=True)
class Report:
    """The findings about a trace domain, and what they come to."""

    findings: tuple[Finding, ...]
    conclusion: Conclusion
    dns: Conclusion
    """The same for DNS alone: may a certificate be asked for?"""
    dns_only: bool
    target_seen: bool
    """The CNAME leads to the wanted target, not to the former one."""

    @property
    def decisive(self) -> Finding:
        """The finding to tell first: that of the CNAME if all is well, else the gravest."""
        if self.conclusion is Conclusion.YES:
            return next(f for f in self.findings if f.check is Check.CNAME)
        return max(self.findings, key=lambda finding: _GRAVITY[finding.level])

    @property
    def state(self) -> State:
        """The one state to keep."""
        return self.decisive.state

    @property
    def certificate_ends(self) -> int:
        """When the first of the certificates that were shown ends; 0 if none was."""
        return min((f.certificate_ends for f in self.findings if f.certificate_ends), default=0)


_GRAVITY = {Level.OK: 0, Level.WARNING: 1, Level.LATER: 2, Level.NO: 3}


def judge(facts: DomainFacts, target: Target, base: str, now: int) -> Report:
    """Judge a trace domain whose URLs begin with `base`; `now` is in seconds since 1970."""
    edge = judge_edge(facts.edge)
    cname = judge_cname(facts.name, target, facts.edge, facts.doubled)
    if target.former in facts.name.chain and edge.level is not Level.OK:
        edge = replace(edge, weighs=Level.WARNING, advice=_no_way_yet(facts.name.name, target))
    rest: list[Finding] = []
    if facts.servers is not None:
        servers = judge_servers(facts.servers, cname, facts.name, target, facts.edge)
        rest.append(servers)
        if servers.state is State.PROPAGATING:
            # the record is there: only resolvers do not know it yet
            cname = replace(cname, weighs=Level.LATER)
    if facts.wildcard is not None and not is_trouble(facts.wildcard.outcome):
        rest.append(judge_wildcard(facts.wildcard, facts.name.name))
    https = _judge_https(facts, cname, base, now)
    if facts.caa is not None:
        wanting = any(is_about_certificate(finding.state) for finding in https)
        rest.append(judge_caa(facts.caa, facts.name.name, wanting=wanting))
    if cname.state is State.PROXIED and facts.https and _conclude(https) is Conclusion.YES:
        cname = replace(cname, weighs=Level.OK, advice="")
    return Report(
        (edge, cname, *rest, *https),
        conclusion=_conclude([edge, cname, *rest, *https]),
        dns=_conclude([edge, cname]),
        dns_only=facts.https is None,
        target_seen=target.name in facts.name.chain,
    )


def _no_way_yet(name: str, target: Target) -> str:
    """Say what to do about a target that leads nowhere, while readers take the former one."""
    return (
        f"{name} still leads to {target.former}, and readers with it; if {target.name} is "
        f"mistyped: sestrack domain accelerate {name} --via HOST, or --off to stay"
    )


def _judge_https(facts: DomainFacts, cname: Finding, base: str, now: int) -> list[Finding]:
    check, expected = Check(base.partition(":")[0]), f"{base} answers as us"
    if facts.https is None:
        found = "left out: usable on DNS alone"
        return [Finding(check, State.NOT_CHECKED, found, expected)]
    findings = [judge_http(fact, facts.name.name, expected, now) for fact in facts.https]
    decides = cname.level is Level.OK or cname.state is State.PROXIED
    if decides and all(finding.state is State.NOT_CHECKED for finding in findings):
        # nobody has said no, but nobody yes either
        advice = "verify from a machine that reaches the addresses"
        if cname.level is Level.OK:
            advice += ", or with --no-http"
        found = "; ".join(f.found for f in findings) or "no address is known to ask at"
        return [Finding(check, State.NOT_CHECKED, found, expected, advice, 0, Level.LATER)]
    return findings


def _conclude(findings: Sequence[Finding]) -> Conclusion:
    levels = {finding.level for finding in findings}
    if Level.NO in levels:
        return Conclusion.NO
    return Conclusion.LATER if Level.LATER in levels else Conclusion.YES
