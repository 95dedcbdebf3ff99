"""What an address of a trace domain answers over HTTPS, and what that means: pure.

A certificate is judged by the code that OpenSSL verified it with (X509_V_ERR_… of
`openssl/x509_vfy.h`, explained in openssl-verification-options(1)).
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, assert_never

from sestrack.domains.challenge import Answered
from sestrack.domains.facts import HttpOutcome
from sestrack.domains.findings import Check, Finding, State
from sestrack.times import utc

if TYPE_CHECKING:
    from sestrack.domains.facts import HttpFacts

EXPIRING_DAYS = 14
"""Days before its end at which a certificate should have been renewed."""
_DAY = 86_400


class _Code(IntEnum):
    """X509_V_ERR_…"""

    NOT_YET_VALID = 9
    EXPIRED = 10
    SELF_SIGNED = 18
    SELF_SIGNED_IN_CHAIN = 19
    NO_ISSUER = 20
    NO_ISSUER_OF_FIRST = 21
    NAME_MISMATCH = 62


class _Words(NamedTuple):
    state: State
    found: str
    advice: str


def is_about_certificate(state: State) -> bool:
    """Is it for want of a certificate that HTTPS does not answer?"""
    return state.value.startswith("cert-")


def judge_http(facts: HttpFacts, name: str, expected: str, now: int) -> Finding:
    """Judge one address of the trace domain `name`; `expected` are the words for what should be."""
    check = Check.HTTP if facts.plain else Check.HTTPS
    state, found, advice = _judge_outcome(facts, name)
    ends = facts.certificate.not_after if facts.certificate else 0
    if state is State.OK and ends:
        days = (ends - now) // _DAY
        found += f"; the certificate ends {utc(ends)[:10]}, in {days} days"
        if days < EXPIRING_DAYS:
            state, advice = State.CERT_EXPIRING, "see why it was not renewed: the front end's log"
    return Finding(check, state, f"{facts.address}: {found}", expected, advice, ends)


def _judge_outcome(facts: HttpFacts, name: str) -> _Words:
    outcome, detail = facts.outcome, f" ({facts.detail})" if facts.detail else ""
    front = f"sestrack domain accelerate {name} --for caddy"
    match outcome:
        case HttpOutcome.ANSWER:
            return _judge_answer(facts, name)
        case HttpOutcome.CERTIFICATE:
            return _judge_certificate(facts, name)
        case HttpOutcome.REFUSED:
            found = "the connection is refused: nobody listens there"
            advice = f"sestrack serve  # on the port of its URLs; or what stands before: {front}"
            return _Words(State.CONNECT_REFUSED, found, advice)
        case HttpOutcome.UNREACHABLE:
            advice = "take this address out of DNS, or mend the way to it"
            return _Words(State.UNREACHABLE, f"cannot be reached{detail}", advice)
        case HttpOutcome.NO_ROUTE:
            found = "not asked: this machine has no network of that kind"
            return _Words(State.NOT_CHECKED, found, "")
        case HttpOutcome.TIMEOUT:
            advice = "open the port in the firewall; verify again later"
            return _Words(State.TIMEOUT, f"no answer in time{detail}", advice)
        case HttpOutcome.RESET:
            found = f"the connection is cut{detail}"
            return _Words(State.CONNECTION_RESET, found, "see the front end's log")
        case HttpOutcome.TLS:
            if facts.detail in _NO_CERTIFICATE_YET:
                found = f"no certificate for {name} yet (TLS alert: {facts.detail})"
                return _Words(State.CERT_PENDING, found, f"wait for it, or set it up: {front}")
            advice = f"TLS 1.2 or 1.3 is wanted: {front}"
            return _Words(State.TLS_FAILED, f"no agreement on TLS{detail}", advice)
        case HttpOutcome.NOT_HTTP:
            found = f"what answers does not speak HTTP{detail}"
            return _Words(State.NOT_OUR_SERVER, found, f"pass this host on to us: {front}")
        case _ as never:  # pragma: no cover
            assert_never(never)


def _judge_answer(facts: HttpFacts, name: str) -> _Words:
    match facts.answered:
        case Answered.OURS:
            return _Words(State.OK, "answers as us", "")
        case Answered.OTHER_HOST:
            found = f"we are reached, but asked for the host {facts.asked_host}"
            advice = (
                "keep the Host header: proxy_set_header Host $host; "
                f"sestrack domain accelerate {name} --for nginx"
            )
            return _Words(State.HOST_REWRITTEN, found, advice)
        case Answered.OTHER_NONCE:
            age = f" (Age: {facts.age})" if facts.age else ""
            advice = "switch caching off for this host: opens and clicks would not reach us"
            return _Words(State.STALE_CHALLENGE, f"an old answer from a cache{age}", advice)
        case Answered.OTHER_KEYS:
            advice = "serve this store there, or verify with the store that is served"
            return _Words(State.NOT_OUR_SERVER, "a sestrack with other keys answers", advice)
        case Answered.NOT_FOUND:
            advice = f"the front end changes the path or the host; expected: Host {name}, GET path"
            return _Words(State.REACHED_BUT_404, "we are reached, but not with this URL", advice)
        case Answered.FOREIGN:
            pass
        case _ as never:  # pragma: no cover
            assert_never(never)
    if facts.location:
        advice = "answer here without a redirect: readers' links would lead astray"
        found = f"redirects ({facts.status}) to {facts.location}"
        return _Words(State.REDIRECTED, found, advice)
    if facts.status in _FRONT_END_ALONE:
        who = f" ({facts.server})" if facts.server else ""
        found = f"the front end answers {facts.status}{who}: it does not reach sestrack serve"
        advice = "start sestrack serve, or see the front end's log"
        return _Words(State.FRONT_END_ERROR, found, advice)
    who = f", says {facts.server}" if facts.server else ""
    found = f"another server answers ({facts.status}{who})"
    advice = f"pass this host on to sestrack serve: sestrack domain accelerate {name} --for nginx"
    return _Words(State.NOT_OUR_SERVER, found, advice)


def _judge_certificate(facts: HttpFacts, name: str) -> _Words:
    certificate = facts.certificate
    named = ", ".join(certificate.names[:3]) if certificate else ""
    issuer = certificate.issuer if certificate else ""
    renew = "renew it: the front end's log tells why it was not"
    match facts.verify_code:
        case _Code.NAME_MISMATCH:
            found = f"the certificate is for {named or 'another name'}"
            advice = f"get one for {name}, and choose it by the name asked for (SNI)"
            return _Words(State.CERT_NAME_MISMATCH, found, advice)
        case _Code.EXPIRED:
            ended = utc(certificate.not_after)[:10] if certificate else ""
            return _Words(State.CERT_EXPIRED, f"the certificate ended {ended}".rstrip(), renew)
        case _Code.NOT_YET_VALID:
            begins = utc(certificate.not_before) if certificate else ""
            found = f"the certificate begins {begins}".rstrip()
            return _Words(State.CERT_NOT_YET_VALID, found, "set the clock here, or there")
        case _Code.SELF_SIGNED:
            advice = f"get one from an authority: sestrack domain accelerate {name} --for caddy"
            return _Words(State.CERT_SELF_SIGNED, "the certificate is self-signed", advice)
        case _Code.SELF_SIGNED_IN_CHAIN | _Code.NO_ISSUER | _Code.NO_ISSUER_OF_FIRST:
            if certificate and certificate.sent == 1:
                found = f"the certificate comes without that of its issuer ({issuer})"
                advice = (
                    "serve the full chain (fullchain.pem), not the certificate alone; if it is "
                    "of an authority of your own: SSL_CERT_FILE=root.pem"
                )
                return _Words(State.CERT_INCOMPLETE_CHAIN, found, advice)
            found = f"the certificate is from an authority that is not known ({issuer})"
            advice = "get one that readers trust; for trials: SSL_CERT_FILE=root.pem"
            return _Words(State.CERT_UNTRUSTED_ROOT, found, advice)
        case _:
            found = f"the certificate does not hold: {facts.detail}"
            return _Words(State.CERT_INVALID, found, renew)


_FRONT_END_ALONE = {502, 503, 504, 521, 522, 523, 524}
"""What is said by a front end that gets no answer from the server behind it (RFC 9110 §15.6.3
to §15.6.5); above 520 by Cloudflare.  A restart of ours looks so, and passes."""
_NO_CERTIFICATE_YET = {"unrecognized name", "internal error", "handshake failure"}
"""What servers say that choose a certificate by name and have none: nginx, Caddy, HAProxy
(RFC 8446 §6.2, RFC 6066 §3)."""
