"""A web server for the tests that is not ours: it answers as it is told, over TLS or not."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

Respond = Callable[[http.server.BaseHTTPRequestHandler], None]


def says(status: int, body: bytes = b"", **headers: str) -> Respond:
    """Answer every request so."""

    def respond(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return respond


class Web:
    """Answers on loopback until it is closed."""

    def __init__(
        self, respond: Respond, certificate: tuple[Path, Path] | None = None, host: str = "127.0.0.1",
        port: int = 0, refuse_names: bool = False,
    ) -> None:  # fmt: skip
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                respond(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Clients that hang up are what the tests are about."""

        self.server = Server((host, port), Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            if refuse_names:
                context.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self.server.server_address[1]

    def __enter__(self) -> Self:
        """Begin to answer."""
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self.server.shutdown()
        self.server.server_close()
