"""The rules of the model: pure functions that answer with a reason.

Names follow RFC 1035 §2.3.4 (63 octets a label, 253 a name as text) and the letters,
digits and hyphens of RFC 952 and RFC 1123 §2.1; dnspython would accept `-bad`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, assert_never

from sestrack.errors import BadInput, NotFound, Refused, UsageError
from sestrack.model import Conclusion, Dimension, DomainStatus, Entry, SenderStatus, Verdict

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sestrack.model import Sender, Settings, TraceDomain

MAX_NAME = 253
MIN_PREFIX = 3
MAX_LABEL = 63
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_PREFIX = re.compile(r"(?!-)[a-z0-9-]{3,63}(?<!-)")


def check_name(kind: str, name: str, hint: str = "type a name like news.example.com") -> str:
    """Return a domain name as DNS has it: lower case, A-labels, no trailing dot.

    A URL stands for its host.  Raises `BadInput` if it is no name: `kind` is what it should
    have been.
    """
    cleaned = name.strip()
    scheme, slashes, rest = cleaned.partition("://")
    if slashes and scheme.lower() in {"http", "https"}:
        cleaned = rest.partition("/")[0].partition(":")[0]
    if not cleaned.isascii():
        cleaned = _a_labels(kind, cleaned)
    cleaned = cleaned.removesuffix(".").lower()
    if len(cleaned) > MAX_NAME:
        msg = f"the {kind} {cleaned[:40]!r}… has {len(cleaned)} octets; a name has at most 253"
        raise BadInput(msg, hint)
    labels = cleaned.split(".")
    if len(labels) < 2 or not all(_LABEL.fullmatch(label) for label in labels):  # noqa: PLR2004
        msg = f"the {kind} {name!r} is not a domain name"
        raise BadInput(msg, hint)
    if labels[-1].isdigit():
        msg = f"the {kind} {name!r} is an address, and a name is wanted"
        raise BadInput(msg, hint)
    return cleaned


def _a_labels(kind: str, name: str) -> str:
    """Write an internationalised name in A-labels (RFC 5891), mapped as browsers do (UTS 46)."""
    import idna  # seldom needed, and its tables are large

    try:
        return idna.encode(name, uts46=True).decode()
    except idna.IDNAError as error:
        msg = f"the {kind} {name!r} is not a domain name: {error}"
        raise BadInput(msg, "type its xn-- form if you know it") from None


def sender_domain_of(sender: str) -> str:
    """Return the sender domain of a domain, an address, or `Name <address>`."""
    address = sender.strip().removesuffix(">")
    return check_name("sender", address.rpartition("@")[2].rpartition("<")[2])


def split_name(name: str, primary: str | None, senders: Collection[Sender]) -> tuple[str, str]:
    """Return the prefix and the primary domain of a trace domain that is to be made.

    `name` is a prefix, or the whole name where that can mean one thing only.  Raises
    `Refused`, or `UsageError` if the primary domain must be said.
    """
    if primary is not None:
        primary = check_name("primary domain", primary)
    if "." not in name.strip().removesuffix("."):
        chosen = choose_primary(primary, senders)
        return check_prefix(name, chosen), chosen
    whole = check_name("trace domain", name)
    primaries = {s.primary for s in senders if s.status is SenderStatus.VERIFIED}
    if whole in primaries or whole == primary:
        msg = f"{whole} is the top of its zone, where no CNAME can stand (RFC 1034 §3.6.2)"
        raise Refused(msg, f"sestrack domain create trace --primary {whole}")
    under = next((p for p in sorted(primaries) if whole.endswith("." + p)), None)
    pending = next((s for s in senders if whole.endswith(f".{s.primary}")), None)
    if under is None and pending and primary in {None, pending.primary}:
        msg = f"the sender domain {pending.domain}, which {whole} would be under, is not verified"
        raise Refused(msg, f"sestrack sender verify {pending.domain}")
    if under is None or primary not in {None, under}:
        msg = f"{whole} is not under {primary or 'the primary domain of a verified sender domain'}"
        chosen = primary if primary in primaries else next(iter(sorted(primaries)), "")
        label, _, rest = whole.partition(".")
        label = label if _PREFIX.fullmatch(label) else "trace"
        add = f"sestrack sender add {rest if '.' in rest else whole}"
        create = f"sestrack domain create {label} --primary {chosen}"
        raise Refused(msg, f"{create}  # or {add}" if chosen else add)
    prefix = whole.removesuffix("." + under)
    if "." in prefix:
        msg = f"a trace domain is one label before {under}, and {prefix} is more"
        raise Refused(msg, f"sestrack domain create {prefix.partition('.')[0]} --primary {under}")
    return check_prefix(prefix, under), under


def named_domain(name: str, domains: Collection[TraceDomain]) -> str:
    """Return the name of a trace domain, given in whole, as a URL, or by its prefix alone.

    Raises `BadInput` if it is no name, `NotFound` if no domain has the prefix, `UsageError` if
    several have.
    """
    prefix = name.strip().lower()
    having = [domain.name for domain in domains if domain.prefix == prefix]
    if len(having) > 1:
        msg = f"{len(having)} trace domains have the prefix {prefix}"
        raise UsageError(msg, "one of " + ", ".join(having[:5]))
    if not having and "." not in prefix:
        msg = f"no trace domain has the prefix {name!r}"
        wanted = prefix if _PREFIX.fullmatch(prefix) else "trace"
        raise NotFound(msg, instead_of(wanted, domains))
    return having[0] if having else check_name("trace domain", name)


def instead_of(name: str, domains: Collection[object]) -> str:
    """Return what to type where a trace domain was named that is none: the first one is made."""
    return "sestrack domain list" if domains else f"sestrack domain create {name}"


def check_prefix(prefix: str, primary: str) -> str:
    """Return the prefix in lower case.  Raises `Refused` with the reason if it is none."""
    cleaned = prefix.strip().removesuffix(".").lower()
    hint = f"sestrack domain create trace --primary {primary}"
    if not cleaned.isascii() or cleaned.startswith("xn--"):
        reason = "is not plain ASCII, which blockers and mail programs need"
    elif not MIN_PREFIX <= len(cleaned) <= MAX_LABEL:
        characters = "1 character" if len(cleaned) == 1 else f"{len(cleaned)} characters"
        reason = f"has {characters}; a prefix has 3 to 63"
    elif cleaned.startswith("-") or cleaned.endswith("-"):
        reason = "begins or ends with a hyphen"
    elif not _PREFIX.fullmatch(cleaned):
        reason = "has characters other than letters, digits and hyphens"
    elif cleaned.isdigit():
        reason = "is all digits"
    elif len(cleaned) + 1 + len(primary) > MAX_NAME:
        reason = f"makes a name of more than {MAX_NAME} octets with {primary}"
    else:
        return cleaned
    msg = f"the prefix {prefix!r} {reason}"
    raise Refused(msg, hint)


def prefix_warning(prefix: str) -> str:
    """Return advice about a prefix that is allowed, "" for none."""
    if prefix[0].isdigit():
        return f"the prefix {prefix!r} does not begin with a letter; some filters mistrust that"
    if prefix in _TAKEN:
        return f"the prefix {prefix!r} often has records already: beside a CNAME there are none"
    return ""


_TAKEN = {"www", "mail", "smtp", "imap", "pop", "mx", "ftp", "ns", "webmail", "autodiscover"}
"""What is usually there (RFC 1034 §3.6.2: a name with a CNAME has nothing else)."""


def choose_primary(primary: str | None, senders: Collection[Sender]) -> str:
    """Return the primary domain to make a trace domain under.

    Raises `Refused` if it is not that of a verified sender domain, `UsageError` if none
    is given and there are several.
    """
    verified = sorted({s.primary for s in senders if s.status is SenderStatus.VERIFIED})
    if primary is None:
        if len(verified) == 1:
            return verified[0]
        if verified:
            msg = f"--primary is missing, and there are {len(verified)}: {', '.join(verified)}"
            raise UsageError(msg, f"--primary {verified[0]}")
        msg = "there is no verified sender domain to take the primary domain of"
        first = next((f"verify {sender.domain}" for sender in senders), "add news.example.com")
        raise Refused(msg, f"sestrack sender {first}")
    if primary in verified:
        return primary
    own = next((sender for sender in senders if sender.domain == primary), None)
    if own is not None and own.primary != primary:
        msg = f"{primary} is a sender domain, and its primary domain is {own.primary}"
        raise Refused(msg, f"--primary {own.primary}")
    pending = [sender.domain for sender in senders if sender.primary == primary]
    if pending:
        msg = f"the sender domain {pending[0]} under {primary} is not verified"
        raise Refused(msg, f"sestrack sender verify {pending[0]}")
    msg = f"{primary} is not the primary domain of a sender domain"
    if verified:
        msg += f": {', '.join(verified)}"
        raise Refused(msg, f"--primary {verified[0]}")
    raise Refused(msg, f"sestrack sender add {primary}")


def usable(name: str, domain: TraceDomain | None) -> Verdict:
    """May new tracking URLs be made under this trace domain?"""
    if domain is None:
        return Verdict(False, "no-domain", f"there is no trace domain {name}")  # noqa: FBT003
    match domain.status:
        case DomainStatus.VERIFIED:
            return Verdict(True, "verified", f"{name} is verified")  # noqa: FBT003
        case DomainStatus.PENDING:
            words = f"the trace domain {name} is not verified yet"
        case DomainStatus.FAILING:
            words = f"the trace domain {name} is failing ({domain.last_state})"
        case DomainStatus.RETIRED:
            words = f"the trace domain {name} is retired"
        case _ as never:  # pragma: no cover
            assert_never(never)
    return Verdict(False, f"domain-{domain.status}", words)  # noqa: FBT003


MAX_FAILURES, FAILURES_SECONDS = 3, 3600
MAX_REFUSALS, REFUSALS_SECONDS = 2, 300
"""A person looks again at once, with the same wrong resolver."""


def after_check(
    domain: TraceDomain, check: Conclusion, dns: Conclusion, now: int, *, dns_only: bool
) -> TraceDomain:
    """Return a trace domain as it stands after a check, of which `dns` is the part about DNS.

    Passing trouble never demotes at once: only the third failure in a row does, an hour or
    more after the first; the second definite no in a row does, or one after it, when the trouble
    began five minutes before.  Nothing makes pending worse, and what is retired stays so.  With
    `dns_only` nobody
    asked over HTTPS: a yes then leaves a domain that was verified over HTTPS before as it is,
    be it verified or failing.
    """
    over_https = bool(domain.verified_at) and not domain.dns_only
    retired = domain.status is DomainStatus.RETIRED
    domain = domain._replace(checked_at=now)
    if dns is Conclusion.YES:
        domain = domain._replace(dns_verified=True)
    if check is Conclusion.YES and dns_only and over_https:
        return domain  # DNS cannot say whether what HTTPS showed, good or bad, is still so
    if check is Conclusion.YES:
        return domain._replace(
            status=domain.status if retired else DomainStatus.VERIFIED,
            dns_only=dns_only,
            verified_at=domain.verified_at or now,
            last_ok_at=now,
            failures=0,
            refusals=0,
            failing_since=0,
        )
    domain = domain._replace(
        failures=domain.failures + 1,
        refusals=domain.refusals + 1 if check is Conclusion.NO else 0,
        failing_since=domain.failing_since or now,
    )
    seconds = now - domain.failing_since
    refused = domain.refusals >= MAX_REFUSALS and seconds >= REFUSALS_SECONDS
    failed = domain.failures >= MAX_FAILURES and seconds >= FAILURES_SECONDS
    if domain.status is DomainStatus.VERIFIED and (refused or failed):
        domain = domain._replace(status=DomainStatus.FAILING)
    if refused and dns is Conclusion.NO:
        domain = domain._replace(dns_verified=False)
    return domain


def effective(settings: Settings, sender: str) -> Verdict:
    """Which settings apply to mail of this sender domain, known to us or not, and why."""
    if not settings.enabled or settings.dimension is None:
        return _no("not-enabled", "tracking is not enabled")
    dimension, own = settings.dimension, settings.senders.get(sender)
    because = f"dimension is {dimension}"
    match dimension:
        case Dimension.ACCOUNT:
            entry, code, whose = settings.account, "account", "the account's settings"
        case Dimension.ACCOUNT_DOMAIN:
            if own is not None:
                entry, code, whose = own, "own-entry", "own entry"
            else:
                entry, code, whose = settings.account, "account", "the account's settings"
        case Dimension.DOMAIN:
            if own is None:
                return _no("no-entry", f"{because} and {sender} has no entry")
            entry, code, whose = own, "own-entry", "own entry"
        case _ as never:  # pragma: no cover
            assert_never(never)
    if entry is None:
        return _no("no-account", f"{because} and there are no account settings")
    if not entry.enabled:
        return _no("entry-disabled", f"{because}, {whose}: disabled")
    if not (entry.click or entry.open):
        return _no("nothing-on", f"{because}, {whose}: neither clicks nor opens")
    return Verdict(True, code, f"{because}, {whose}", entry)  # noqa: FBT003


def tracked(
    settings: Settings,
    sender: Sender | None,
    sender_name: str,
    domains: Mapping[str, TraceDomain],
) -> Verdict:
    """Is mail of this sender domain tracked now?  The whole answer, with its reason."""
    verdict = effective(settings, sender_name)
    if verdict.entry is None:
        return verdict
    if sender is None:
        return _no("unknown-sender", f"{sender_name} is not a sender domain of this store")
    if sender.status is not SenderStatus.VERIFIED:
        return _no("sender-pending", f"the sender domain {sender_name} is not verified yet")
    domain_verdict = usable(verdict.entry.domain, domains.get(verdict.entry.domain))
    if not domain_verdict.yes:
        return _no(domain_verdict.code, domain_verdict.words)
    return verdict


def check_settings(
    settings: Settings,
    domains: Mapping[str, TraceDomain],
    in_use: Collection[str],
) -> None:
    """Raise `Refused` if the settings cannot be saved.

    `in_use` are the trace domains that the settings named before: one that fails since
    does not keep other changes from being saved; none keeps tracking from being disabled.
    """
    entries = [("account", settings.account)] if settings.account else []
    entries += [(f'sender."{name}"', entry) for name, entry in settings.senders.items()]
    for table, entry in entries:
        if not settings.enabled and entry.domain in in_use:
            continue
        _check_entry(f"[{table}]", entry, domains, in_use)
    if not settings.enabled:
        return
    if settings.dimension is None:
        msg = "tracking cannot be enabled without a dimension"
        hint = _enable_hint(settings, domains)
        if "--dimension" in hint:
            hint += "  # or --dimension account+domain, domain"
        else:
            msg += " and a verified trace domain"
        raise Refused(msg, hint)
    applied = dict(settings.senders) if settings.dimension is not Dimension.ACCOUNT else {}
    if settings.dimension is not Dimension.DOMAIN:
        if settings.account is None:
            msg = f"dimension is {settings.dimension} and there is no [account] table"
            raise Refused(msg, _enable_hint(settings, domains))
        applied[""] = settings.account
    for sender, entry in applied.items():
        if entry.enabled:
            check_choices(settings, sender, domains)


def check_choices(
    settings: Settings,
    sender: str,
    domains: Mapping[str, TraceDomain],
    declined: Collection[str] = (),
) -> None:
    """Raise `Refused` if a sender's entry, or with "" the account's, could track nothing.

    `declined` are "click" and "open" if they were just switched off: no hint switches them on.
    """
    entry = _entry(settings, sender)
    if entry.domain and (entry.click or entry.open):
        return
    table = f'[sender."{sender}"]' if sender else "[account]"
    lack = "tracks neither clicks nor opens" if entry.domain else "has no trace domain"
    msg = f"{table} {lack}"
    raise Refused(msg, _enable_hint(settings, domains, sender, declined))


def _entry(settings: Settings, sender: str) -> Entry:
    """Return a sender's own entry, or with "" the account's; an empty one if there is none."""
    return (settings.senders.get(sender) if sender else settings.account) or Entry()


def _check_entry(
    table: str, entry: Entry, domains: Mapping[str, TraceDomain], in_use: Collection[str]
) -> None:
    if not entry.domain:
        return
    verdict = usable(entry.domain, domains.get(entry.domain))
    if verdict.yes or (verdict.code == "domain-failing" and entry.domain in in_use):
        return
    msg = f"{table} cannot use {entry.domain}: {verdict.words}"
    if verdict.code in {"domain-pending", "domain-failing"}:
        raise Refused(msg, f"sestrack domain verify {entry.domain}")
    raise Refused(msg, instead_of(entry.domain, domains))


def _enable_hint(
    settings: Settings,
    domains: Mapping[str, TraceDomain],
    sender: str = "",
    declined: Collection[str] = (),
) -> str:
    """Return what gives all that it lacks to the account, or to a sender's own entry.

    `settings` are those that could not be saved: what they do say stands in the command.
    """
    entry = _entry(settings, sender)
    verified = [d for d in domains.values() if d.status is DomainStatus.VERIFIED]
    verified.sort(key=lambda d: not f".{sender}".endswith(f".{d.primary}"))  # its own before others
    domain = entry.domain or next((d.name for d in verified), "")
    if not domain:
        begun = (n for n, d in domains.items() if d.status is not DomainStatus.RETIRED)
        name = next(begun, "")
        return f"sestrack domain verify {name}" if name else "sestrack domain create trace"
    # with a sender alone, tracking as a whole stays as it is
    wanted = [kind for kind in ("click", "open") if getattr(entry, kind)]
    wanted = wanted or [kind for kind in ("click", "open") if kind not in declined]
    if not wanted:
        return f"sestrack settings disable{f' --sender {sender}' * bool(sender)}"
    dimension = settings.dimension or (None if sender else Dimension.ACCOUNT)
    if sender and dimension is Dimension.ACCOUNT:
        dimension = Dimension.ACCOUNT_DOMAIN  # or its entry is not used
    return " ".join([
        "sestrack settings enable", *[f"--sender {sender}"] * bool(sender),
        *[f"--dimension {dimension}"] * (settings.enabled and dimension is not None),
        f"--domain {domain}", *(f"--{kind}" for kind in wanted),
    ])  # fmt: skip


def _no(code: str, words: str) -> Verdict:
    return Verdict(False, code, words)  # noqa: FBT003
