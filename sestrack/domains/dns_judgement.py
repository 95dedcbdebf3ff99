"""What DNS says of a trace domain or a sender domain, and what that means: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, assert_never

from sestrack.domains.facts import Outcome
from sestrack.domains.findings import Check, Finding, Level, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sestrack.domains.facts import CaaFacts, NameFacts, ServerFacts, TxtFacts


class Target(NamedTuple):
    """Where the CNAME of a trace domain should lead."""

    name: str
    former: str = ""
    """Accepted too, until `name` is seen."""

    @property
    def accepted(self) -> tuple[str, ...]:
        """Both, the one that is wanted first."""
        return (self.name, self.former) if self.former else (self.name,)


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
            return _doubled(Check.CNAME, name, doubled.name, expected)
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
    if not servers or all(is_trouble(server.outcome) for server in servers):
        asked = ", ".join(server.server for server in servers)
        found = f"no name server answers: {asked}" if asked else "no name server is found"
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
        advice = (
            "look at the zone's servers: an authority that cannot read CAA records issues no "
            "certificate (RFC 8659 §3)"
        )
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


def _doubled(check: Check, name: str, doubled: str, expected: str) -> Finding:
    found = f"the record stands at {doubled}: its zone was appended twice"
    advice = f"enter the name as {name}. (with the dot), or without the zone's name"
    return Finding(check, State.DOUBLED_NAME, found, expected, advice)


def judge_txt(facts: TxtFacts, wanted: str, doubled: TxtFacts | None = None) -> Finding:
    """Judge the TXT records that are to prove a sender domain."""
    expected = f'TXT "{wanted}"'
    publish = f'publish this record, then verify again: {facts.name}. 3600 IN TXT "{wanted}"'
    if trouble := _trouble(Check.TXT, facts.outcome, facts.detail, expected):
        return trouble
    if doubled is not None and wanted in doubled.texts:
        return _doubled(Check.TXT, facts.name, doubled.name, expected)
    if facts.outcome is Outcome.NO_SUCH_NAME:
        found = f"the name {facts.name} does not exist"
        return Finding(Check.TXT, State.NO_SUCH_NAME, found, expected, publish)
    if wanted in facts.texts:
        return Finding(Check.TXT, State.OK, expected, expected)
    if facts.texts:
        found = "TXT " + ", ".join(f'"{text}"' for text in facts.texts)
        return Finding(Check.TXT, State.WRONG_TEXT, found, expected, publish)
    return Finding(Check.TXT, State.NO_TXT, f"{facts.name} has no TXT record", expected, publish)


def is_trouble(outcome: Outcome) -> bool:
    """Did the question get no answer that can be relied on?"""
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
