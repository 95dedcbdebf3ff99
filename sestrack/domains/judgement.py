"""What facts mean for a trace domain or a sender domain: pure, no I/O, no clock.

The resolver and the probe gather (`facts.py`), this module and `https_judgement.py` judge,
the commands speak.  A trace domain is usable when its CNAME leads to the target, or to the
same addresses, and HTTPS at every address answers as us; other addresses than the target's
(a CDN in front) are as good when HTTPS does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, assert_never

from sestrack.domains.facts import Outcome
from sestrack.domains.findings import Check, Finding, Level, State
from sestrack.domains.https_judgement import is_about_certificate, judge_http
from sestrack.model import Conclusion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sestrack.domains.facts import CaaFacts, DomainFacts, NameFacts, ServerFacts, TxtFacts


class Target(NamedTuple):
    """Where the CNAME of a trace domain should lead."""

    name: str
    former: str = ""
    """Accepted too, until `name` is seen."""

    @property
    def accepted(self) -> tuple[str, ...]:
        """Both, the one that is wanted first."""
        return (self.name, self.former) if self.former else (self.name,)


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
    rest: list[Finding] = []
    if facts.servers is not None:
        servers = judge_servers(facts.servers, cname, facts.name, target, facts.edge)
        rest.append(servers)
        if servers.state is State.PROPAGATING:
            # the record is there: only resolvers do not know it yet
            cname = replace(cname, weighs=Level.LATER)
    if facts.wildcard is not None and not _is_trouble(facts.wildcard.outcome):
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


# -- each check --------------------------------------------------------------------------


def judge_edge(facts: NameFacts) -> Finding:
    """Judge the target itself: a record that points to it is of no use if it leads nowhere."""
    name = facts.name
    expected = f"{name} has an address"
    if trouble := _trouble(Check.EDGE, facts.outcome, facts.detail, expected):
        return trouble
    give = f"give {name} an A or AAAA record: the records of the trace domains are not to blame"
    path = " -> ".join((name, *facts.chain))
    if facts.outcome is Outcome.LOOP:
        return Finding(Check.EDGE, State.LOOP, f"a CNAME loop: {path}", expected, give)
    if facts.outcome is Outcome.NO_SUCH_NAME:
        found = f"the name {name} does not exist"
        return Finding(Check.EDGE, State.NO_SUCH_NAME, found, expected, give)
    if facts.target_missing:
        found = f"CNAME {path}, and {facts.chain[-1]} has no address"
        return Finding(Check.EDGE, State.TARGET_MISSING, found, expected, give)
    if not facts.addresses and not facts.chain:
        return Finding(Check.EDGE, State.NO_ADDRESS, f"{name} has no address", expected, give)
    leads = f"{path}: {', '.join(facts.addresses)}" if facts.addresses else path
    return Finding(Check.EDGE, State.OK, leads, expected)


def judge_cname(
    facts: NameFacts, target: Target, edge: NameFacts, doubled: NameFacts | None = None
) -> Finding:
    """Judge the CNAME of a trace domain."""
    name = facts.name
    expected = f"CNAME {target.name}"
    record = f"{name}. 3600 IN CNAME {target.name}."
    publish = f"publish this record, then verify again: {record}"
    instead = f"replace the record by this one: {record}"
    if trouble := _trouble(Check.CNAME, facts.outcome, facts.detail, expected):
        return trouble
    path = " -> ".join((name, *facts.chain))
    if facts.outcome is Outcome.LOOP:
        return Finding(Check.CNAME, State.LOOP, f"a CNAME loop: {path}", expected, instead)
    if not facts.chain and not facts.addresses:
        if doubled is not None and not set(target.accepted).isdisjoint(doubled.chain):
            found = f"the record stands at {doubled.name}: its zone was appended twice"
            advice = f"enter the name as {name}. (with the dot), or without the zone's name"
            return Finding(Check.CNAME, State.DOUBLED_NAME, found, expected, advice)
        if facts.outcome is Outcome.NO_SUCH_NAME:
            found = "the name does not exist"
            return Finding(Check.CNAME, State.NO_SUCH_NAME, found, expected, publish)
        return Finding(Check.CNAME, State.NO_CNAME, "the name has no CNAME", expected, publish)
    if not facts.chain:
        return _judge_addresses(facts, edge, expected, instead)
    reached = next((hop for hop in facts.chain if hop in target.accepted), "")
    if reached:
        advice = f"when {target.name} answers, {instead}" if reached == target.former else ""
        if facts.chain[0] == reached:
            return Finding(Check.CNAME, State.OK, f"CNAME {reached}", expected, advice)
        return Finding(Check.CNAME, State.OK_CHAIN, f"CNAME {path}", expected, advice)
    if facts.target_missing:
        found = f"CNAME {path}, which does not exist or has no address"
        return Finding(Check.CNAME, State.TARGET_MISSING, found, expected, instead)
    cdn = f"sestrack domain accelerate {name} --via {facts.chain[0]}"
    advice = f"{instead}; or, if that is a CDN in front of us: {cdn}"
    return Finding(Check.CNAME, State.WRONG_TARGET, f"CNAME {path}", expected, advice)


def _judge_addresses(facts: NameFacts, edge: NameFacts, expected: str, instead: str) -> Finding:
    """Judge a name that has addresses and no CNAME: the zone's server may have followed it."""
    addresses = ", ".join(facts.addresses)
    if set(facts.addresses) <= set(edge.addresses):
        found = f"{addresses}, the same as {edge.name}"
        return Finding(Check.CNAME, State.OK_FLATTENED, found, expected)
    found = f"{addresses} instead of a CNAME, and not of {edge.name}; only HTTPS can tell"
    advice = f"{instead}; or make HTTPS answer as us through the proxy"
    return Finding(Check.CNAME, State.PROXIED, found, expected, advice)


def judge_servers(
    servers: Sequence[ServerFacts], cname: Finding, name: NameFacts, target: Target, edge: NameFacts
) -> Finding:
    """Judge what the zone's name servers say, each for itself."""

    def has(server: ServerFacts) -> bool:
        first = server.chain[:1]
        if first:
            reaches = cname.level is Level.OK and first == name.chain[:1]
            return first[0] in target.accepted or reaches
        return bool(server.addresses) and set(server.addresses) <= set(edge.addresses)

    expected = "every name server of the zone has the record"
    having = [server for server in servers if has(server)]
    lacking = [f"{server.server} ({_says(server)})" for server in servers if not has(server)]
    count = f"{len(having)} of {len(servers)} name servers have the record"
    if not servers or all(_is_trouble(server.outcome) for server in servers):
        found = f"not one of the {len(servers)} name servers answers" if servers else "none found"
        advice = "asked directly, on port 53; a firewall may be between"
        return Finding(Check.SERVERS, State.NOT_CHECKED, found, expected, advice)
    if not having and cname.level is not Level.OK:
        return Finding(Check.SERVERS, State.ALL_WITHOUT, count, expected)
    without = f"{count}; without: {', '.join(lacking)}" if lacking else count
    if cname.level is Level.OK:
        if not lacking:
            return Finding(Check.SERVERS, State.OK, count, expected)
        advice = "readers get now one answer, now the other: look at the zone's transfer"
        return Finding(Check.SERVERS, State.SOME_WITHOUT, without, expected, advice)
    advice = (
        "look at the zone's transfer to the others"
        if lacking
        else "nothing: resolvers remember the old answer for a while (the last number of the SOA)"
    )
    if name.outcome in {Outcome.BOGUS, Outcome.SERVER_FAILURE, Outcome.REFUSED, Outcome.SILENCE}:
        return Finding(Check.SERVERS, State.OK, count, expected)
    return Finding(Check.SERVERS, State.PROPAGATING, without, expected, advice)


def _says(server: ServerFacts) -> str:
    if server.outcome is not Outcome.ANSWER:
        return server.detail or server.outcome.value
    return ", ".join((*server.chain[:1], *server.addresses)) or "no record"


def judge_wildcard(facts: NameFacts, name: str) -> Finding:
    """Judge what a name that nobody made leads to; `facts.name` is the zone asked."""
    expected = f"no wildcard under {facts.name}"
    leads = ", ".join((*facts.chain, *facts.addresses))
    if not leads:
        return Finding(Check.WILDCARD, State.OK, "none", expected)
    advice = f"a record deleted or mistyped goes unnoticed: {name} needs one of its own"
    return Finding(
        Check.WILDCARD, State.WILDCARD, f"*.{facts.name} leads to {leads}", expected, advice
    )


def judge_caa(facts: CaaFacts, name: str, *, wanting: bool) -> Finding:
    """Judge who may issue certificates; `wanting`: there is none yet that holds."""
    expected = "an authority may issue a certificate"
    if facts.outcome not in {Outcome.ANSWER, Outcome.NO_SUCH_NAME}:
        found = f"the CAA records cannot be told: {facts.outcome}{_behind(facts.detail)}"
        advice = "an authority that meets this refuses (RFC 8659 §3): look at the zone's servers"
        return Finding(Check.CAA, State.CAA_UNKNOWN, found, expected, advice)
    if not facts.restricts:
        return Finding(Check.CAA, State.OK, "any authority may issue", expected)
    through = "" if f".{name}".endswith(f".{facts.owner}") else ", which the CNAME leads to"
    if not facts.issuers:
        found = f"CAA at {facts.owner}{through}: nobody may issue"
        advice = f'allow yours: {facts.owner}. 3600 IN CAA 0 issue "letsencrypt.org"'
        return Finding(Check.CAA, State.CAA_FORBIDS, found, expected, advice)
    found = f"CAA at {facts.owner}{through}: {', '.join(facts.issuers)} may issue"
    if not wanting:
        return Finding(Check.CAA, State.OK, found, expected)
    advice = f'if yours is another, allow it: {facts.owner}. 3600 IN CAA 0 issue "letsencrypt.org"'
    return Finding(Check.CAA, State.CAA_LIMITED, found, expected, advice)


def judge_txt(facts: TxtFacts, wanted: str) -> Finding:
    """Judge the TXT records that are to prove a sender domain."""
    expected = f'TXT "{wanted}"'
    publish = f'publish this record, then verify again: {facts.name}. 3600 IN TXT "{wanted}"'
    if trouble := _trouble(Check.TXT, facts.outcome, facts.detail, expected):
        return trouble
    if facts.outcome is Outcome.NO_SUCH_NAME:
        found = f"the name {facts.name} does not exist"
        return Finding(Check.TXT, State.NO_SUCH_NAME, found, expected, publish)
    if wanted in facts.texts:
        return Finding(Check.TXT, State.OK, expected, expected)
    if facts.texts:
        found = "TXT " + ", ".join(f'"{text}"' for text in facts.texts)
        return Finding(Check.TXT, State.WRONG_TEXT, found, expected, publish)
    return Finding(Check.TXT, State.NO_TXT, f"{facts.name} has no TXT record", expected, publish)


def _is_trouble(outcome: Outcome) -> bool:
    return outcome not in {Outcome.ANSWER, Outcome.NO_SUCH_NAME, Outcome.LOOP}


def _trouble(check: Check, outcome: Outcome, detail: str, expected: str) -> Finding | None:
    """Judge a question that got no answer; None if it got one."""
    behind = _behind(detail)
    match outcome:
        case Outcome.SILENCE:
            advice = "nothing is changed; verify again later, or name a server with --resolver IP"
            found = f"no answer from DNS{behind}"
            return Finding(check, State.TIMEOUT, found, expected, advice)
        case Outcome.SERVER_FAILURE:
            advice = "the zone's name servers fail; verify again later"
            found = f"DNS answers with a failure{behind}"
            return Finding(check, State.SERVFAIL, found, expected, advice)
        case Outcome.REFUSED:
            advice = "the resolver does not answer us: name another with --resolver IP"
            found = f"the name server refuses to answer{behind}"
            return Finding(check, State.REFUSED, found, expected, advice)
        case Outcome.BOGUS:
            advice = "sign the zone again, or mend the DS record at its parent"
            found = f"the zone's DNSSEC signatures do not hold{behind}"
            return Finding(check, State.DNSSEC_BOGUS, found, expected, advice)
        case Outcome.ANSWER | Outcome.NO_SUCH_NAME | Outcome.LOOP:
            return None
        case _ as never:  # pragma: no cover
            assert_never(never)


def _behind(detail: str) -> str:
    return f" ({detail})" if detail else ""
