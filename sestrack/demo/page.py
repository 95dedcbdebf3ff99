"""The page of `sestrack demo --keep`: the newsletter as its readers see it, and the figures.

| URL | what it is |
|---|---|
| `/` | the page, `page.html` |
| `/letter/N` | the copy of the Nth reader, byte for byte as `rewrite` made it |
| `/figures` | what has been counted, as JSON; the page asks once a second |
| `http://quill.localhost:PORT/…` | the shop, where the links of the newsletter lead |

On loopback alone, GET alone; nothing in a URL is taken for a path of a file.
"""

from __future__ import annotations

import html
import json
import os
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from sestrack import output, store
from sestrack.tracker.ledger import events, marks_back
from sestrack.tracker.places import Places
from sestrack.tracker.reports import Look, Question, report

if TYPE_CHECKING:
    from collections.abc import Mapping

LATEST = 10
_SHOP = "quill.localhost"
_ARRIVED = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Quince &amp; Quill</title>
<body style="margin:0;background:#f3eee4;font:18px/1.6 Georgia,serif;color:#33291f">
<div style="background:#2f4a3d;color:#f3eee4;padding:20px 32px">Quince &amp; Quill</div>
<div style="padding:28px 32px;max-width:40em"><p>You have arrived at</p>
<p style="font-family:monospace;overflow-wrap:anywhere">{url}</p><p>{how}</p></div></body></html>
"""
_TRACKED = "The link led through the trace domain: the click was counted, and you were sent here."
_LEFT = "Links that unsubscribe are left as they are: nothing was counted."


class Page:
    """Answers on a free port of loopback until it is closed."""

    def __init__(self, address: str, letters: Mapping[str, str]) -> None:
        """Take the store, and for each reader the file of the copy."""
        self._address = address
        self._letters = dict(letters)
        self._places = Places()
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host = self.headers.get("Host", "").partition(":")[0]
                page.answer(self, host)

            def log_message(self, *_: object) -> None:
                """Keep the terminal quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://localhost:{self.port}/"
        self.shop = f"http://{_SHOP}:{self.port}"

    def __enter__(self) -> Self:
        """Begin to answer."""
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, host: str) -> None:
        """Answer a request."""
        status, kind, body = HTTPStatus.OK, "text/html", b""
        try:
            if host == _SHOP:
                body = self._arrival(request.path)
            elif request.path == "/":
                body = _read(os.path.join(os.path.dirname(__file__), "page.html"))
            elif request.path == "/figures":
                kind, body = "application/json", json.dumps(self.figures()).encode()
            else:
                place, _, number = request.path.rpartition("/")
                status = HTTPStatus.NOT_FOUND
                letters = list(self._letters.values())
                if place == "/letter" and number.isdecimal() and int(number) < len(letters):
                    status, body = HTTPStatus.OK, _read(letters[int(number)])
            request.send_response(status)
            request.send_header("Content-Type", f"{kind}; charset=utf-8")
            request.send_header("Content-Length", str(len(body)))
            request.send_header("Cache-Control", "no-store")
            request.end_headers()
            request.wfile.write(body)
        except OSError as error:  # the browser has gone, or the folder, at the end
            output.note(f"the page: {error.strerror}")

    def _arrival(self, path: str) -> bytes:
        how = _LEFT if "unsubscribe" in path else _TRACKED
        return _ARRIVED.format(url=html.escape(self.shop + path), how=how).encode()

    def figures(self) -> dict[str, Any]:
        """Return what has been counted, for the page."""
        with store.Store(self._address) as opened, store.errors_of(self._address):
            look = Look(opened.connection, self._places)
            whole = next(iter(report(look, Question(by="message"))), None)
            links = report(look, Question(by="link"))
        with store.Store(self._address) as opened, store.errors_of(self._address):
            after = marks_back(opened.connection, LATEST)
            latest = list(events(opened.connection, self._places, after))
        return {
            "readers": list(self._letters),
            "tiles": [
                ("copies sent", whole.copies),
                ("readers", whole.readers),
                ("opens by people", whole.opens.people),
                ("clicks by people", whole.clicks.people),
                ("visits by machines", whole.opens.machines + whole.clicks.machines),
            ]
            if whole
            else [],
            "links": [
                {"url": line.name, "people": line.clicks.people, "machines": line.clicks.machines}
                for line in links
            ],
            "visits": [
                {
                    "time": event["time"][11:19],
                    "kind": event["kind"],
                    "visitor": event["visitor"],
                    "recipient": event["recipient"],
                    "reasons": " ".join(event["reasons"]),
                }
                for event in reversed(latest[-LATEST:])
            ],
        }


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
