"""The rules of the model, as tables."""

from __future__ import annotations

import pytest

from sestrack.errors import BadInput, NotFound, Refused, SestrackError, UsageError
from sestrack.model import (
    Conclusion,
    Dimension,
    DomainStatus,
    Entry,
    Sender,
    SenderStatus,
    Settings,
    TraceDomain,
)
from sestrack.rules import (
    after_check,
    check_choices,
    check_name,
    check_prefix,
    check_settings,
    choose_primary,
    effective,
    named_domain,
    prefix_warning,
    sender_domain_of,
    split_name,
    tracked,
    usable,
)

ON = Entry("trace.example.com", click=True, open=True)
OWN = Entry("trace.example.org", click=True)
OFF = Entry("trace.example.com", click=True, enabled=False)
NOTHING = Entry("trace.example.com")


def a_domain(name: str, status: DomainStatus) -> TraceDomain:
    """Make a trace domain in a state."""
    prefix, _, primary = name.partition(".")
    return TraceDomain(
        name, prefix, primary, status, False, 0, 1, 1, 1, 1, "wrong-target", "edge.example.net"
    )


def a_sender(domain: str, primary: str, status: SenderStatus) -> Sender:
    """Make a sender domain in a state."""
    return Sender(domain, primary, "proof", status, False, 1, 0)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        pytest.param("News.Example.COM.", "news.example.com", id="lower case, no trailing dot"),
        pytest.param("xn--bcher-kva.example", "xn--bcher-kva.example", id="an xn-- name"),
        pytest.param("-bad.example.com", None, id="a hyphen first"),
        pytest.param("bad-.example.com", None, id="a hyphen last"),
        pytest.param("localhost", None, id="one label"),
        pytest.param("a..b", None, id="an empty label"),
        pytest.param("Bücher.example", "xn--bcher-kva.example", id="Unicode"),
        pytest.param("news。example.com", "news.example.com", id="another full stop"),
        pytest.param("bü cher.example", None, id="Unicode that is no name"),
        pytest.param("192.0.2.1", None, id="an address"),
        pytest.param("*.example.com", None, id="a wildcard"),
        pytest.param("a" * 64 + ".example", None, id="a label of 64"),
        pytest.param(".".join(["a" * 60] * 5), None, id="more than 253 octets"),
        pytest.param("https://News.example.com/a?b", "news.example.com", id="a URL"),
        pytest.param("http://news.example.com:8080", "news.example.com", id="a URL with a port"),
        pytest.param("ftp://news.example.com", None, id="a URL of another kind"),
    ],
)
def test_names(name: str, wanted: str | None) -> None:
    """A domain name is taken in its plain form, or refused with its value."""
    if wanted is None:
        with pytest.raises(BadInput, match="sender"):
            check_name("sender domain", name)
    else:
        assert check_name("sender domain", name) == wanted


@pytest.mark.parametrize(
    "sender", ["news.example.com", "ada@news.example.com", "Ada <ada@News.Example.com>"]
)
def test_sender_domain_of_an_address(sender: str) -> None:
    """A sender may be given as a domain or as an address in it."""
    assert sender_domain_of(sender) == "news.example.com"


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        pytest.param("Trace", "", id="lower-cased"),
        pytest.param("t-1", "", id="three characters"),
        pytest.param("ab", "3 to 63", id="two characters"),
        pytest.param("a" * 64, "3 to 63", id="64 characters"),
        pytest.param("-abc", "hyphen", id="a hyphen first"),
        pytest.param("abc-", "hyphen", id="a hyphen last"),
        pytest.param("12345", "digits", id="all digits"),
        pytest.param("a_b_c", "other than", id="an underscore"),
        pytest.param("xn--abc", "ASCII", id="an xn-- label"),
        pytest.param("spür", "ASCII", id="not ASCII"),
    ],
)
def test_prefixes(prefix: str, reason: str) -> None:
    """A prefix is good, or is refused with the reason."""
    if reason:
        with pytest.raises(Refused, match=reason):
            check_prefix(prefix, "example.com")
    else:
        assert check_prefix(prefix, "example.com") == prefix.lower()


def test_characters_are_counted_as_people_do() -> None:
    """One character, two characters."""
    with pytest.raises(Refused, match="has 1 character; a prefix"):
        check_prefix("a", "example.com")
    with pytest.raises(Refused, match="has 2 characters; a prefix"):
        check_prefix("ab", "example.com")


def test_without_a_verified_sender_the_pending_one_is_named() -> None:
    """What is there already is to be verified; only where there is none is one to be added."""
    pending = a_sender("shop.example.org", "example.org", SenderStatus.PENDING)
    with pytest.raises(Refused) as caught:
        choose_primary(None, [pending])
    assert caught.value.hint == "sestrack sender verify shop.example.org"
    with pytest.raises(Refused) as caught:
        choose_primary(None, [])
    assert caught.value.hint == "sestrack sender add news.example.com"


def test_a_prefix_that_makes_too_long_a_name() -> None:
    """The whole name is at most 253 octets."""
    with pytest.raises(Refused, match="253"):
        check_prefix("a" * 60, ".".join(["b" * 60] * 4))


def test_a_prefix_is_advised_to_begin_with_a_letter() -> None:
    """A digit first is a warning only."""
    assert "letter" in prefix_warning("1abc")
    assert prefix_warning("abc") == ""


SENDERS = [
    a_sender("news.example.com", "example.com", SenderStatus.VERIFIED),
    a_sender("shop.example.org", "example.org", SenderStatus.PENDING),
]


@pytest.mark.parametrize(
    ("given", "senders", "wanted"),
    [
        pytest.param(None, SENDERS, "example.com", id="there is one"),
        pytest.param("example.com", SENDERS, "example.com", id="named"),
        pytest.param("example.org", SENDERS, Refused, id="of a pending sender domain"),
        pytest.param("example.net", SENDERS, Refused, id="of no sender domain"),
        pytest.param("example.net", [], Refused, id="no sender domain at all"),
        pytest.param(None, [], Refused, id="none to choose from"),
        pytest.param(
            None,
            [*SENDERS, a_sender("a.test.net", "test.net", SenderStatus.VERIFIED)],
            UsageError,
            id="several to choose from",
        ),
    ],
)
def test_choosing_the_primary_domain(
    given: str | None, senders: list[Sender], wanted: str | type[SestrackError]
) -> None:
    """The primary domain is that of a verified sender domain."""
    if isinstance(wanted, str):
        assert choose_primary(given, senders) == wanted
    else:
        with pytest.raises(wanted):
            choose_primary(given, senders)


@pytest.mark.parametrize("status", list(DomainStatus))
def test_only_a_verified_trace_domain_is_usable(status: DomainStatus) -> None:
    """Every other state has its reason."""
    verdict = usable("trace.example.com", a_domain("trace.example.com", status))
    assert verdict.yes == (status is DomainStatus.VERIFIED)
    assert "trace.example.com" in verdict.words
    assert not usable("trace.example.com", None).yes


EFFECTIVE = [
    ("not enabled", False, Dimension.ACCOUNT, ON, {}, "not-enabled"),
    ("no dimension", True, None, ON, {}, "not-enabled"),
    ("account", True, Dimension.ACCOUNT, ON, {}, "account"),
    ("account, own entry kept but not used", True, Dimension.ACCOUNT, ON, {"d.x": OWN}, "account"),
    ("account without settings", True, Dimension.ACCOUNT, None, {}, "no-account"),
    ("account disabled", True, Dimension.ACCOUNT, OFF, {}, "entry-disabled"),
    ("account tracks nothing", True, Dimension.ACCOUNT, NOTHING, {}, "nothing-on"),
    ("account+domain, own", True, Dimension.ACCOUNT_DOMAIN, ON, {"d.x": OWN}, "own-entry"),
    ("account+domain, other", True, Dimension.ACCOUNT_DOMAIN, ON, {"e.x": OWN}, "account"),
    ("account+domain, own off", True, Dimension.ACCOUNT_DOMAIN, ON, {"d.x": OFF}, "entry-disabled"),
    ("domain, own", True, Dimension.DOMAIN, ON, {"d.x": OWN}, "own-entry"),
    ("domain, none", True, Dimension.DOMAIN, ON, {"e.x": OWN}, "no-entry"),
]


@pytest.mark.parametrize(
    ("enabled", "dimension", "account", "senders", "code"),
    [pytest.param(*row[1:], id=row[0]) for row in EFFECTIVE],
)
def test_effective_settings(
    enabled: bool,
    dimension: Dimension | None,
    account: Entry | None,
    senders: dict[str, Entry],
    code: str,
) -> None:
    """Each dimension answers for each sender domain, with the reason."""
    verdict = effective(Settings(enabled, dimension, account, senders), "d.x")
    assert verdict.code == code
    assert verdict.yes == (code in {"account", "own-entry"})
    assert verdict.words
    if verdict.yes:
        assert verdict.entry == (OWN if code == "own-entry" else ON)


TRACKED = Settings(True, Dimension.ACCOUNT, ON, {})


@pytest.mark.parametrize(
    ("settings", "status", "domain", "code"),
    [
        pytest.param(TRACKED, "verified", "verified", "account", id="all is well"),
        pytest.param(
            TRACKED._replace(enabled=False), "verified", "verified", "not-enabled", id="off"
        ),
        pytest.param(TRACKED, None, "verified", "unknown-sender", id="an unknown sender"),
        pytest.param(TRACKED, "pending", "verified", "sender-pending", id="a pending sender"),
        pytest.param(TRACKED, "verified", "failing", "domain-failing", id="a failing domain"),
        pytest.param(TRACKED, "verified", "retired", "domain-retired", id="a retired domain"),
        pytest.param(TRACKED, "verified", None, "no-domain", id="no such trace domain"),
    ],
)
def test_whether_mail_is_tracked(
    settings: Settings, status: str | None, domain: str | None, code: str
) -> None:
    """Settings, sender domain and trace domain all have their say."""
    sender = a_sender("n.x", "x", SenderStatus(status)) if status else None
    domains = {ON.domain: a_domain(ON.domain, DomainStatus(domain))} if domain else {}
    verdict = tracked(settings, sender, "n.x", domains)
    assert (verdict.code, verdict.yes) == (code, code == "account")


GOOD = {ON.domain: a_domain(ON.domain, DomainStatus.VERIFIED)}
PENDING = {ON.domain: a_domain(ON.domain, DomainStatus.PENDING)}
FAILING = {ON.domain: a_domain(ON.domain, DomainStatus.FAILING)}
RETIRED = {ON.domain: a_domain(ON.domain, DomainStatus.RETIRED)}


@pytest.mark.parametrize(
    ("settings", "domains", "in_use", "reason"),
    [
        pytest.param(TRACKED, GOOD, set(), "", id="good"),
        pytest.param(TRACKED._replace(enabled=False), GOOD, set(), "", id="good, and disabled"),
        pytest.param(TRACKED, PENDING, set(), "not verified", id="a pending domain"),
        pytest.param(TRACKED, FAILING, set(), "failing", id="a failing domain, newly named"),
        pytest.param(TRACKED, FAILING, {ON.domain}, "", id="a failing domain that was in use"),
        pytest.param(TRACKED, RETIRED, {ON.domain}, "retired", id="a retired domain"),
        pytest.param(TRACKED, {}, set(), "no trace domain", id="an unknown domain"),
        pytest.param(
            TRACKED._replace(enabled=False), PENDING, set(), "not verified",
            id="a pending domain, while disabled",
        ),
        pytest.param(TRACKED._replace(dimension=None), GOOD, set(), "dimension", id="no dimension"),
        pytest.param(TRACKED._replace(account=None), GOOD, set(), "account", id="no account"),
        pytest.param(TRACKED._replace(account=None), {}, set(), "account", id="nothing at all"),
        pytest.param(TRACKED._replace(account=NOTHING), GOOD, set(), "neither", id="nothing on"),
        pytest.param(TRACKED._replace(account=Entry(click=True)), GOOD, set(), "no trace domain",
                     id="no domain named"),
        pytest.param(TRACKED._replace(account=Entry(enabled=False)), GOOD, set(), "",
                     id="an entry that is off may be empty"),
        pytest.param(Settings(True, Dimension.DOMAIN, None, {"n.x": NOTHING}), GOOD, set(),
                     "neither", id="an own entry with nothing on"),
        pytest.param(Settings(True, Dimension.DOMAIN, None, {}), GOOD, set(), "", id="no entry yet"),
        pytest.param(Settings(True, Dimension.ACCOUNT, ON, {"n.x": NOTHING}), GOOD, set(), "",
                     id="an entry that is not used"),
    ],
)  # fmt: skip
def test_which_settings_can_be_saved(
    settings: Settings, domains: dict[str, TraceDomain], in_use: set[str], reason: str
) -> None:
    """Enabling needs a dimension, a verified trace domain, and clicks or opens."""
    if reason:
        with pytest.raises(Refused, match=reason):
            check_settings(settings, domains, in_use)
    else:
        check_settings(settings, domains, in_use)


SENDERS = [
    a_sender("news.example.com", "example.com", SenderStatus.VERIFIED),
    a_sender("shop.example.org", "example.org", SenderStatus.VERIFIED),
    a_sender("news.example.net", "example.net", SenderStatus.PENDING),
]


@pytest.mark.parametrize(
    ("name", "primary", "wanted"),
    [
        ("trace", "example.com", ("trace", "example.com")),
        ("Trace.", "Example.COM.", ("trace", "example.com")),
        ("trace.example.com", None, ("trace", "example.com")),
        ("https://Trace.Example.com/", None, ("trace", "example.com")),
        ("trace.example.com.", "example.com", ("trace", "example.com")),
        ("trace.example.com", "example.org", "not under example.org"),
        ("example.com", None, "no CNAME can stand"),
        ("a.news.example.com", None, "one label before example.com"),
        ("trace.example.net", None, "is not verified"),
        ("trace.co.uk", None, "not under"),
        ("trace", "news.example.com", "its primary domain is example.com"),
        ("trace", "co.uk", "not the primary domain"),
        ("trace", None, "--primary is missing"),
        ("trace", "example.net", "not verified"),
        ("b\u00fccher", "example.com", "plain ASCII"),
    ],
)
def test_names_people_type(name: str, primary: str | None, wanted: tuple[str, str] | str) -> None:
    """What can mean one thing only is accepted, else the error says what to type."""
    if isinstance(wanted, tuple):
        assert split_name(name, primary, SENDERS) == wanted
        return
    with pytest.raises(SestrackError, match=wanted) as caught:
        split_name(name, primary, SENDERS)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("trace.example.com", "trace.example.com"),
        ("https://trace.example.com/x", "trace.example.com"),
        ("only", "only.example.com"),
        ("Trace", UsageError),
        ("other", NotFound),
        ("b_d.-x", BadInput),
        ("unknown.example.com", "unknown.example.com"),
    ],
)
def test_a_trace_domain_by_its_prefix(name: str, wanted: str | type[Exception]) -> None:
    """A prefix that one trace domain has is enough."""
    names = ("trace.example.com", "trace.example.org", "only.example.com")
    domains = [a_domain(each, DomainStatus.VERIFIED) for each in names]
    if isinstance(wanted, str):
        assert named_domain(name, domains) == wanted
    else:
        with pytest.raises(wanted):
            named_domain(name, domains)


@pytest.mark.parametrize(
    ("declined", "end"),
    [
        ((), "settings enable --sender news.b.example --dimension domain --domain t.b.example --click --open"),
        (("open",), "settings enable --sender news.b.example --dimension domain --domain t.b.example --click"),
        (("click", "open"), "settings disable --sender news.b.example"),
    ],
)  # fmt: skip
def test_the_hint_for_an_entry_that_lacks_all(declined: tuple[str, ...], end: str) -> None:
    """It names a trace domain of the sender's own, and switches nothing on that was declined."""
    names = ("a.a.example", "t.b.example")
    domains = {name: a_domain(name, DomainStatus.VERIFIED) for name in names}
    settings = Settings(True, Dimension.DOMAIN, None, {"news.b.example": Entry()})
    with pytest.raises(Refused) as failure:
        check_choices(settings, "news.b.example", domains, declined)
    assert failure.value.hint == f"sestrack {end}"


YES, LATER, NO = Conclusion.YES, Conclusion.LATER, Conclusion.NO
PENDING, VERIFIED, FAILING = DomainStatus.PENDING, DomainStatus.VERIFIED, DomainStatus.FAILING
RETIRED = DomainStatus.RETIRED


@pytest.mark.parametrize(
    ("before", "checks", "after"),
    [
        pytest.param(PENDING, [(0, YES)], VERIFIED, id="a first yes verifies"),
        pytest.param(PENDING, [(0, NO), (9, NO), (9999, NO)], PENDING, id="nothing makes pending worse"),
        pytest.param(VERIFIED, [(0, NO)], VERIFIED, id="one definite no does not demote"),
        pytest.param(VERIFIED, [(0, NO), (300, NO)], FAILING, id="two do"),
        pytest.param(VERIFIED, [(0, NO), (1, NO), (299, NO)], VERIFIED, id="unless somebody only looked again"),
        pytest.param(VERIFIED, [(at, NO) for at in range(0, 301, 60)], FAILING, id="however often one looks"),
        pytest.param(VERIFIED, [(0, LATER), (900, NO)], VERIFIED, id="one behind passing trouble does not"),
        pytest.param(VERIFIED, [(0, LATER), (900, NO), (901, NO)], FAILING, id="two behind long trouble do"),
        pytest.param(VERIFIED, [(0, NO), (60, YES), (90, NO)], VERIFIED, id="a yes between begins anew"),
        pytest.param(VERIFIED, [(0, LATER), (60, LATER), (120, LATER)], VERIFIED, id="three failures within minutes do not"),
        pytest.param(VERIFIED, [(0, LATER), (3600, LATER)], VERIFIED, id="two failures in an hour do not"),
        pytest.param(VERIFIED, [(0, LATER), (60, LATER), (3600, LATER)], FAILING, id="three over an hour do"),
        pytest.param(VERIFIED, [(0, LATER), (60, LATER), (3500, YES), (3600, LATER)], VERIFIED, id="but in a row"),
        pytest.param(VERIFIED, [(0, NO), (1800, LATER), (3600, NO)], FAILING, id="failures of both kinds count"),
        pytest.param(FAILING, [(0, LATER)], FAILING, id="failing stays"),
        pytest.param(FAILING, [(0, YES)], VERIFIED, id="until a yes"),
    ],
)  # fmt: skip
def test_states_over_time(
    before: DomainStatus, checks: list[tuple[int, Conclusion]], after: DomainStatus
) -> None:
    """Passing trouble never demotes at once."""
    domain = a_domain("trace.example.com", before)._replace(last_ok_at=5)
    for at, conclusion in checks:
        domain = after_check(domain, conclusion, conclusion, 1000 + at, dns_only=False)
    assert domain.status is after
    assert domain.checked_at == 1000 + checks[-1][0]
    good = [1000 + at for at, conclusion in checks if conclusion is YES]
    assert domain.last_ok_at == (good[-1] if good else 5)


@pytest.mark.parametrize(
    ("before", "was_dns_only", "status", "dns_only", "failures"),
    [
        pytest.param(PENDING, False, VERIFIED, True, 0, id="a first yes verifies, on DNS alone"),
        pytest.param(VERIFIED, True, VERIFIED, True, 0, id="verified on DNS alone stays so"),
        pytest.param(FAILING, True, VERIFIED, True, 0, id="so does what failed since"),
        pytest.param(VERIFIED, False, VERIFIED, False, 2, id="verified over HTTPS stays so, its failures too"),
        pytest.param(FAILING, False, FAILING, False, 2, id="failing over HTTPS is not made well"),
        pytest.param(RETIRED, False, RETIRED, False, 2, id="retired stays so"),
    ],
)  # fmt: skip
def test_a_yes_of_dns_alone(
    before: DomainStatus, was_dns_only: bool, status: DomainStatus, dns_only: bool, failures: int
) -> None:
    """What HTTPS has shown, good or bad, is for HTTPS to change."""
    domain = a_domain("trace.example.com", before)._replace(
        dns_only=was_dns_only, failures=2, verified_at=0 if before is PENDING else 1
    )
    after = after_check(domain, YES, YES, 1000, dns_only=True)
    assert (after.status, after.dns_only, after.failures) == (status, dns_only, failures)
    assert (after.checked_at, after.dns_verified) == (1000, True)
    whole = after_check(after, YES, YES, 1001, dns_only=False)
    assert whole.status is (RETIRED if before is RETIRED else VERIFIED)
    assert (whole.dns_only, whole.failures) == (False, 0)


@pytest.mark.parametrize(
    ("checks", "wanted"),
    [
        pytest.param([(NO, YES)], True, id="HTTPS that fails leaves it: it needs a certificate"),
        pytest.param([(YES, YES), (LATER, LATER), (LATER, LATER)], True, id="trouble leaves it"),
        pytest.param([(YES, YES), (NO, NO)], True, id="one no leaves it"),
        pytest.param([(YES, YES), (NO, NO), (NO, NO)], False, id="two take it"),
        pytest.param(
            [(YES, YES), (LATER, LATER), (NO, NO)], True, id="one no behind trouble leaves it"
        ),
        pytest.param([(NO, LATER)], False, id="what was never so is not"),
    ],
)
def test_dns_verified(checks: list[tuple[Conclusion, Conclusion]], wanted: bool) -> None:
    """Whether a certificate may be asked for depends on DNS alone."""
    domain = a_domain("trace.example.com", PENDING)
    for number, (conclusion, dns) in enumerate(checks):
        domain = after_check(domain, conclusion, dns, 1000 + 300 * number, dns_only=False)
    assert domain.dns_verified is wanted
