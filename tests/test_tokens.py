"""Tokens: the format is for ever."""

from __future__ import annotations

import re

import pytest

from sestrack.errors import BadInput, ForgedToken
from sestrack.tokens import Copy, Key, Link, LinkSealer, open_copy, open_link, seal_copy

SECRET = bytes(range(64))
KEY = Key.from_secret(1, SECRET)
HOST = "trace.example.com"
COPY = Copy("news.example.com", "june", "ada@example.org", 1_780_300_800)
LINK = Link(3, "https://www.example.com/sale?from=june#top")
SEALER = LinkSealer.of(KEY, HOST, COPY.sender, COPY.message)

# pinned: mail already sent has tokens like these
VECTOR_R = b"Qdz4na_XhHMg1GUYmRoJPNqD5A0FvMVjucvwrzgCKO~Gyh6KByjr9YgZe0ZnfCg5n~fanDuWVq98Ow"
VECTOR_L = b"QUNhaBlvJlFbaxxZgSGqgn~Yg1m9yRHgb9a7K_o0ZCRH_8N0uN_vjJJNuSGZ9wi_ew"


def test_vectors() -> None:
    """The same inputs give these tokens, and these tokens give the same."""
    assert seal_copy(KEY, HOST, COPY) == VECTOR_R
    assert SEALER.seal(LINK.number, LINK.url) == VECTOR_L
    assert open_copy([KEY], HOST, VECTOR_R) == COPY
    assert open_link([KEY], HOST, COPY, VECTOR_L) == LINK


@pytest.mark.parametrize("token", [VECTOR_R, VECTOR_L], ids=["R", "L"])
def test_one_flipped_bit_anywhere_is_refused(token: bytes) -> None:
    """Every bit of the text counts, the unused ones of the last character too."""
    for position in range(len(token)):
        for bit in range(8):
            forged = bytearray(token)
            forged[position] ^= 1 << bit
            with pytest.raises(ForgedToken):
                open_copy([KEY], HOST, bytes(forged))
            with pytest.raises(ForgedToken):
                open_link([KEY], HOST, COPY, bytes(forged))


@pytest.mark.parametrize("token", [b"", b"Q", b"QQ==", VECTOR_R[:-1], VECTOR_R + b"A", b"Q" * 9999])
def test_what_is_no_token_is_refused(token: bytes) -> None:
    """Truncated, lengthened, empty, oversized."""
    with pytest.raises(ForgedToken):
        open_copy([KEY], HOST, token)


def test_a_token_is_good_in_its_place_only() -> None:
    """Another trace domain, the other kind, another message, another sender: refused."""
    for host, token in ((HOST, VECTOR_L), ("trace.example.org", VECTOR_R)):
        with pytest.raises(ForgedToken):
            open_copy([KEY], host, token)
    for copy in (COPY._replace(message="july"), COPY._replace(sender="shop.example.com")):
        with pytest.raises(ForgedToken):
            open_link([KEY], HOST, copy, VECTOR_L)
    with pytest.raises(ForgedToken):
        open_link([KEY], "trace.example.org", COPY, VECTOR_L)
    with pytest.raises(ForgedToken):
        open_link([KEY], HOST, COPY, VECTOR_R)


def test_old_keys_keep_reading() -> None:
    """Rotating adds a key; two whose ids share a mark are told apart by trying."""
    new = Key.from_secret(65, bytes(64))
    assert new.mark == KEY.mark
    assert open_copy([new, KEY], HOST, VECTOR_R) == COPY
    with pytest.raises(ForgedToken):
        open_copy([new], HOST, VECTOR_R)


@pytest.mark.parametrize("length", range(60))
def test_the_text_is_safe_anywhere(length: int) -> None:
    """The alphabet has no `-`, and the last character is a letter or a digit."""
    copy = COPY._replace(recipient="a" * length)
    token = seal_copy(KEY, HOST, copy)
    assert re.fullmatch(rb"Q[A-Za-z0-9_~]*[A-Za-z0-9]", token)
    assert open_copy([KEY], HOST, token) == copy


@pytest.mark.parametrize(
    "url",
    ["http://a.example", "HTTPS://A.example/", "https://bücher.example/é?q=ü#ß", "https://www.x.y"],
)
@pytest.mark.parametrize("number", [0, 31, 32, 5000])
def test_links_come_back(url: str, number: int) -> None:
    """Any number, any URL, as it was written."""
    token = SEALER.seal(number, url)
    assert open_link([KEY], HOST, COPY, token) == Link(number, url)


@pytest.mark.parametrize(
    "copy",
    [
        COPY._replace(recipient="a" * 256),
        COPY._replace(recipient="a\nb"),
        COPY._replace(message=""),
        COPY._replace(message="\udc80"),
        COPY._replace(minted=-1),
        COPY._replace(minted=2**32),
    ],
)
def test_what_does_not_fit_is_refused(copy: Copy) -> None:
    """Too long, control characters, no label, out of time."""
    with pytest.raises(BadInput):
        seal_copy(KEY, HOST, copy)


def test_no_word_can_be_read_from_a_token() -> None:
    """The octets hold no part of the address."""
    assert b"ada" not in VECTOR_R.lower()
