"""Whole messages: splicing by offsets beside the standard library's way, in one run.

Every contestant gets the same messages and puts the same rewritten HTML into them.  The
library's way is `message_from_bytes`, `set_content` for each HTML part, `as_bytes`.  Told are
messages a second, and in how many a byte outside the HTML parts changed.

    python benchmarks/messages.py FOLDER [ROUNDS]

Messages are made of the HTML files of the folder, in three transfer encodings; files that
are messages themselves (.eml) are taken as they are.
"""

from __future__ import annotations

import email
import email.policy
import statistics
import sys
import time
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING

from sestrack.links import Wrapping
from sestrack.mail import message as messages
from sestrack.mail import mime, transfer
from sestrack.rewrite import compile_html
from sestrack.tokens import Copy, Key, LinkSealer, seal_copy

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = Key.from_secret(1, bytes(range(64)))
HOST = "trace.example.com"
COPY = seal_copy(KEY, HOST, Copy("news.example.com", "june", "ada@example.org", 1_780_300_800))
WRAPPING = Wrapping(
    base=f"https://{HOST}/".encode(),
    seal=LinkSealer.of(KEY, HOST, "news.example.com", "june").seal,
    pixel="bottom",
    copy_size=len(COPY),
    is_ours=lambda _url: False,
)


def ours(data: bytes) -> bytes:
    """Splice by byte offsets, and check by reading again."""
    message = mime.read(data)
    found = messages.contents(message)
    if messages.untouchable(message, found):
        return data
    return messages.rewrite(message, found, WRAPPING, COPY).data


def library(data: bytes) -> bytes:
    """Parse, set the content, flatten; the HTML is rewritten by the same compiler."""
    message = email.message_from_bytes(data, policy=email.policy.SMTP)
    for part in message.walk():
        if part.get_content_type() == "text/html" and not part.is_multipart():
            page = part.get_payload(decode=True)
            charset = part.get_content_charset("utf-8")
            html = compile_html(page, WRAPPING, charset).render(COPY)
            part.set_content(
                html.decode(charset, "replace"),
                subtype="html",
                cte=part.get("content-transfer-encoding", "7bit"),
            )
    return message.as_bytes()


def outside(data: bytes) -> bytes:
    """Take the bodies of the HTML parts out."""
    parts = [part for part in mime.read(data).parts if part.kind == "text/html"]
    return transfer.join(data, [transfer.Edit(part.start, part.end, b"") for part in parts])


def made(page: bytes, encoding: str) -> bytes:
    """Make a message of two parts, as mailing tools do."""
    message = EmailMessage(policy=email.policy.SMTP)
    message["From"], message["To"], message["Subject"] = (
        "news@news.example.com",
        "ada@example.org",
        "June",
    )
    message.set_content("In plain words.\n" * 20)
    message.add_alternative(page.decode("utf-8", "replace"), subtype="html", cte=encoding)
    return message.as_bytes()


def main() -> None:
    """Measure and print."""
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5
    corpus = [path.read_bytes() for path in sorted(folder.rglob("*.eml"))]
    for path in sorted(folder.rglob("*.htm*")):
        corpus += [
            made(path.read_bytes(), encoding) for encoding in ("8bit", "quoted-printable", "base64")
        ]
    contestants: dict[str, Callable[[bytes], bytes]] = {"sestrack": ours, "library": library}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    changed = dict.fromkeys(contestants, 0)
    raised = dict.fromkeys(contestants, 0)
    for data in corpus:
        took: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(rounds + 1):  # the first is the warm-up
            for name, rewrite in contestants.items():
                begun = time.perf_counter()
                try:
                    result = rewrite(data)
                except Exception:  # noqa: BLE001 - counted, and its time with it
                    result = data
                    raised[name] += turn == 0
                took[name].append(time.perf_counter() - begun)
                if turn == 0:
                    changed[name] += outside(result) != outside(data)
        for name, values in took.items():
            times[name].append(statistics.median(values[1:]))
    size = sum(map(len, corpus))
    print(f"{len(corpus)} messages, {size / 1e6:.1f} MB, {rounds} rounds")
    for name, values in times.items():
        whole = sum(values)
        print(
            f"{name:10}{len(corpus) / whole:10.0f} messages/s{size / whole / 1e6:8.1f} MB/s"
            f"{sum(times['library']) / whole:8.2f} x{changed[name]:6} changed outside{raised[name]:5} raised"
        )


if __name__ == "__main__":
    main()
