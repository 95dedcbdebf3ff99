"""What stands in front: each printed configuration, run by the real program, end to end."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from certificates import Authority
from conftest import Program, Server
from postgresql import free_port
from services import program as installed
from services import running

from sestrack.demo.nameserver import NameServer

NAME = "trace.example.com"
CLIENT = "127.0.0.77"
HTML = '<p><a href="https://example.com/">x</a></p></body>'
ZONE = f"edge.example.net. 60 IN A 127.0.0.1\n{NAME}. 60 IN CNAME edge.example.net."


class Front:
    """A program in front of a running sestrack: its ports, the root that its readers trust."""

    def __init__(self, http: int, https: int, root: Path) -> None:
        self.http, self.https, self.root = http, https, root


def ask(front: Front, path: str, *, tls: bool = True, name: str = NAME) -> tuple[int, str]:
    """Ask as a reader with an address of its own, who writes headers to hide it."""
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {name}\r\nUser-Agent: Mozilla/5.0 Firefox/130.0\r\n"
        "X-Forwarded-For: 203.0.113.9\r\nForwarded: for=203.0.113.9\r\nConnection: close\r\n\r\n"
    )
    with ExitStack() as stack:
        connection = stack.enter_context(
            socket.create_connection(
                ("127.0.0.1", front.https if tls else front.http), 20, (CLIENT, 0)
            )
        )
        if tls:
            context = ssl.create_default_context(cafile=str(front.root))
            connection = stack.enter_context(context.wrap_socket(connection, server_hostname=name))
        connection.sendall(request.encode())
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece
    text = answer.decode("latin-1")
    return int(text.split(" ", 2)[1]), text


@pytest.fixture
def behind(program: Program) -> Iterator[Callable[..., Server]]:
    """Give what starts sestrack for a trace domain on an https port."""
    servers = []

    def start(port: int, *options: str) -> Server:
        program.ok("init", "--edge", "edge.example.net")
        program.ok("sender", "add", "news.example.com", "--assume-verified")
        program.ok("domain", "create", "trace", "--port", str(port))
        servers.append(Server(program, "--trust-proxy", "127.0.0.1", *options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """Put the test's ports and files into a configuration; each must have been there."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def nginx_here(
    text: str, front: Front, folder: Path, certificate: tuple[Path, Path] | None = None,
    name: str = NAME, port: int = 0,
) -> list[str]:  # fmt: skip
    """Put a printed configuration into a folder; return the command that runs all that are there."""
    text = re.sub(r"(?m)^ *#?    listen \[::\].*\n", "", text)
    text = replaced(text, ("listen 80;", f"listen 127.0.0.1:{front.http};"))
    if certificate:
        text = replaced(
            text,
            (f"listen {port or front.https} ", f"listen 127.0.0.1:{front.https} "),
            (f"/etc/letsencrypt/live/{name}/fullchain.pem", str(certificate[0])),
            (f"/etc/letsencrypt/live/{name}/privkey.pem", str(certificate[1])),
        )
    (folder / f"sestrack-{name}.conf").write_text(text)
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path "
        f"{folder}/proxy; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path "
        f"{folder}/s; include {folder}/sestrack-*.conf; }}\n"
    )
    return [installed("nginx"), "-c", str(folder / "nginx.conf"), "-e", "stderr"]


def with_default_server(text: str) -> str:
    """Take the # away, as the comment over it says."""
    return re.sub(r"(?m)^#(server \{|    .*|\})$", r"\1", text)


@contextmanager
def nginx(text: str, front: Front, folder: Path, certificate: tuple[Path, Path]) -> Iterator[None]:
    """Run nginx with a printed configuration."""
    command = nginx_here(with_default_server(text), front, folder, certificate)
    subprocess.run([*command, "-t"], check=True, capture_output=True)
    with running(command, front.https, folder):
        yield


@contextmanager
def haproxy(
    text: str, front: Front, folder: Path, certificate: tuple[Path, Path]
) -> Iterator[None]:
    """Run HAProxy with a printed configuration."""
    (folder / "certificates").mkdir()
    (folder / "certificates" / f"{NAME}.pem").write_bytes(
        certificate[0].read_bytes() + certificate[1].read_bytes()
    )
    text = re.sub(r" *bind \[::\].*\n", "", text)
    text = replaced(
        text,
        ("bind :80", f"bind 127.0.0.1:{front.http}"),
        (f"bind :{front.https}", f"bind 127.0.0.1:{front.https}"),
        ("/etc/haproxy/sestrack/ ", f"{folder}/certificates/ "),
    )
    (folder / "haproxy.cfg").write_text(text)
    command = [installed("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]
    subprocess.run([*command, "-c"], check=True, capture_output=True)
    with running(command, front.https, folder):
        yield


@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
def test_with_certificates_of_ones_own(
    kind: str, program: Program, behind: Callable[..., Server], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The configuration passes the program's own check, verifies, and records who asked."""
    run = {"nginx": nginx, "haproxy": haproxy}[kind]
    folder = tmp_path / "front"
    folder.mkdir()
    root = Authority(folder, "Root")
    front = Front(free_port(), free_port(), root.file)
    server = behind(front.https)
    text = program.ok(
        "domain", "accelerate", "trace", "--for", kind, "--upstream", f"127.0.0.1:{server.port}"
    )
    monkeypatch.setitem(program.environment, "SSL_CERT_FILE", str(root.file))
    with run(text, front, folder, root.issue(NAME)), NameServer({".": ZONE}) as dns:
        end_to_end(program, front, dns)


@pytest.mark.sqlite
def test_plain_http_gets_no_tls(ready: Program) -> None:
    """Its URLs would not be answered."""
    ready.ok("domain", "create", "plain", "--plain-http", "--port", "8080")
    done = ready("domain", "accelerate", "plain", "--for", "nginx")
    assert (done.returncode, b"hint: sestrack serve --bind :8080" in done.stderr) == (1, True)


@pytest.mark.sqlite
def test_nginx_for_two_domains(ready: Program, tmp_path: Path) -> None:
    """Two configurations are loaded together; without a certificate the part before https is."""
    folder = tmp_path / "front"
    folder.mkdir()
    front = Front(free_port(), free_port(), tmp_path)
    root = Authority(folder, "Root")
    names = [NAME, "links.example.com"]
    ready.ok("domain", "create", "links")
    texts = [ready.ok("domain", "accelerate", name, "--for", "nginx") for name in names]
    for name, text in zip(names, texts, strict=True):
        assert "sed '/^# https/,$d' sestrack.conf" in text
        bare = subprocess.run(
            ["sed", "/^# https/,$d"], input=text, capture_output=True, check=True, text=True
        ).stdout
        subprocess.run(
            [*nginx_here(bare, front, folder, name=name), "-t"], check=True, capture_output=True
        )
    for name, text in zip(names, [with_default_server(texts[0]), texts[1]], strict=True):
        command = nginx_here(text, front, folder, root.issue(name), name, 443)
    done = subprocess.run([*command, "-t"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr.replace('[warn] the "user" directive', "")


@pytest.mark.sqlite
def test_haproxy_before_the_first_certificate(ready: Program, tmp_path: Path) -> None:
    """An empty folder of certificates is enough for a start, and so for getting the first."""
    (tmp_path / "certificates").mkdir()
    text = replaced(
        ready.ok("domain", "accelerate", NAME, "--for", "haproxy"),
        ("/etc/haproxy/sestrack/ ", f"{tmp_path}/certificates/ "),
    )
    (tmp_path / "haproxy.cfg").write_text(text)
    subprocess.run(
        [installed("haproxy"), "-c", "-f", str(tmp_path / "haproxy.cfg")],
        check=True, capture_output=True,
    )  # fmt: skip


def end_to_end(program: Program, front: Front, dns: NameServer) -> None:
    """Verify through a front end, fetch a pixel twice, see what was recorded."""
    checked = json.loads(program.ok("domain", "verify", NAME, "--resolver", dns.address, "--json"))
    assert [c["state"] for c in checked["checks"] if c["check"] == "https"] == ["ok"]
    program.ok(
        "settings", "enable", "--dimension", "account", "--domain", NAME, "--click", "--open"
    )
    time.sleep(1.5)  # the running server looks at the settings twice a second
    html = program.ok(
        "rewrite", "--sender", "news.example.com", "--message", "june", stdin=HTML.encode()
    )
    link, pixel = re.findall(rf"https://{re.escape(NAME)}:\d+(/[^\"]+)\"", html)
    for _ in range(2):
        status, answer = ask(front, pixel)
        assert status == 200
        assert "no-store" in answer
    status, answer = ask(front, link)
    assert status == 302
    assert "location: https://example.com/\r\n" in answer.lower()
    status, answer = ask(front, pixel, tls=False)
    assert status in {301, 308}
    assert f"location: https://{NAME}:{front.https}/" in answer.lower()
    assert [(e["kind"], e["ip"]) for e in program.events()] == [
        ("open", CLIENT), ("open", CLIENT), ("click", CLIENT),
    ]  # fmt: skip
    with pytest.raises(ssl.SSLError):
        ask(front, pixel, name="other.example.com")


def test_caddy_gets_certificates_for_verified_names(
    program: Program, behind: Callable[..., Server], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """One Caddy with an ACME authority: a certificate for what is verified, none for others."""
    folder = tmp_path / "front"
    folder.mkdir()
    pebble_ca = Authority(folder, "Pebble")
    certificate, key = pebble_ca.issue("localhost")
    front = Front(free_port(), free_port(), folder / "issued.pem")
    acme, management, asked = free_port(), free_port(), free_port()
    (folder / "pebble.json").write_text(json.dumps({"pebble": {
        "listenAddress": f"127.0.0.1:{acme}", "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": str(certificate), "privateKey": str(key), "httpPort": front.http,
        "tlsPort": front.https, "ocspResponderURL": "", "externalAccountBindingRequired": False,
    }}))  # fmt: skip
    server = behind(front.https, "--ask", f"127.0.0.1:{asked}")
    options = f"""
{{
    admin off
    http_port {front.http}
    acme_ca https://localhost:{acme}/dir
    acme_ca_root {pebble_ca.file}
    storage file_system {folder}/caddy
"""
    text = replaced(
        program.ok(
            "domain", "accelerate", "trace", "--for", "caddy",
            "--upstream", f"127.0.0.1:{server.port}", "--ask", f"127.0.0.1:{asked}",
        ),
        ("\n{\n", options),
    )  # fmt: skip
    (folder / "Caddyfile").write_text(text)
    caddy = [installed("caddy"), "run", "--config", "Caddyfile", "--adapter", "caddyfile"]
    with ExitStack() as stack:
        dns = stack.enter_context(NameServer({".": ZONE}))
        dns.add("other.example.com. 60 IN CNAME edge.example.net.")
        stack.enter_context(
            running(
                [installed("pebble"), "-config", "pebble.json", "-dnsserver", dns.address], acme,
                folder, {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}, management,
            )
        )  # fmt: skip
        context = ssl.create_default_context(cafile=str(pebble_ca.file))
        front.root.write_bytes(_get(management, "/roots/0", context))
        stack.enter_context(
            running(caddy, front.https, folder, {"HOME": str(folder), "XDG_DATA_HOME": str(folder)})
        )
        with pytest.raises(ssl.SSLError, match="alert"):
            ask(front, "/")
        monkeypatch.setitem(program.environment, "SSL_CERT_FILE", str(front.root))
        end_to_end(program, front, dns)


def _get(port: int, path: str, context: ssl.SSLContext) -> bytes:
    import urllib.request

    with urllib.request.urlopen(f"https://localhost:{port}{path}", context=context) as answer:
        return bytes(answer.read())
