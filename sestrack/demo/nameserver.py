"""A small name server on loopback, for trying sestrack out and for its tests.

    python -m sestrack.demo.nameserver example.com.zone

It answers over UDP and TCP from the records it is told, follows CNAMEs from one to the
next as a recursive server does, and can misbehave on purpose.
"""

from __future__ import annotations

import socketserver
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.zone

from sestrack import output

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_HOPS = 16


class NameServer:
    """Answers until it is closed.

    `faults` says for a name what goes wrong: "drop", "servfail", "refused", "bogus" (as a
    resolver answers that finds signatures wrong), or "truncate" (over UDP only).  With
    `chase=False` it knows a CNAME, but not where it leads.
    """

    def __init__(
        self,
        zones: Mapping[str, str],
        faults: Mapping[str, str] | None = None,
        *,
        chase: bool = True,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.host, self.port = host, port
        self.records: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], dns.rrset.RRset] = {}
        self.faults = {dns.name.from_text(name): fault for name, fault in (faults or {}).items()}
        self.chase = chase
        self.asked: list[tuple[str, str, str]] = []
        """Name, type and transport of each question."""
        for origin, text in zones.items():
            self.add(text, origin)

    def add(self, text: str, origin: str = ".") -> None:
        """Add records, written as in a zone file."""
        zone = dns.zone.from_text(
            text if text.endswith("\n") else text + "\n",
            origin,
            relativize=False,
            check_origin=False,
        )
        for name, rdataset in zone.iterate_rdatasets():
            rrset = dns.rrset.from_rdata_list(name, rdataset.ttl, list(rdataset))
            self.records[name, rdataset.rdtype] = rrset

    @property
    def address(self) -> str:
        """What to give to `--resolver`."""
        return f"{self.host}:{self.port}"

    def __enter__(self) -> Self:
        """Start answering."""
        server = self

        class Udp(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data, socket = self.request
                if answer := server.answer(data, "udp"):
                    socket.sendto(answer, self.client_address)

        class Tcp(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while len(head := self.rfile.read(2)) == 2:  # noqa: PLR2004 - RFC 1035 §4.2.2
                    answer = server.answer(self.rfile.read(int.from_bytes(head)), "tcp")
                    if answer:
                        self.wfile.write(len(answer).to_bytes(2) + answer)

        self._servers: list[Any] = [_Tcp((self.host, self.port), Tcp)]
        self.port = self._servers[0].server_address[1]
        self._servers.append(socketserver.ThreadingUDPServer((self.host, self.port), Udp))
        for one in self._servers:
            one.daemon_threads = True
            threading.Thread(target=one.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop answering."""
        for one in self._servers:
            one.shutdown()
            one.server_close()

    def answer(self, wire: bytes, transport: str) -> bytes | None:
        """Answer one question."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        self.asked.append(
            (question.name.to_text(), dns.rdatatype.to_text(question.rdtype), transport)
        )
        fault = self.faults.get(question.name)
        response = dns.message.make_response(query, recursion_available=True)
        if fault == "drop":
            return None
        if fault in {"servfail", "refused"}:
            response.set_rcode(dns.rcode.from_text(fault))
        elif fault == "bogus":
            response.set_rcode(dns.rcode.SERVFAIL)
            response.use_edns(options=[dns.edns.EDEOption(dns.edns.EDECode.DNSSEC_BOGUS)])
        elif fault == "truncate" and transport == "udp":
            response.flags |= dns.flags.TC
        else:
            self._fill(response, question.name, question.rdtype)
        return response.to_wire()

    def _fill(
        self, response: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> None:
        for _ in range(MAX_HOPS):
            found = self._find(name, kind)
            if found is not None:
                response.answer.append(found)
                return
            alias = self._find(name, dns.rdatatype.CNAME)
            if alias is None:
                if not any(known.is_subdomain(self._owner(name)) for known, _ in self.records):
                    response.set_rcode(dns.rcode.NXDOMAIN)
                return
            response.answer.append(alias)
            if not self.chase:
                return
            name = alias[0].target
        response.answer.clear()
        response.set_rcode(dns.rcode.SERVFAIL)

    def _owner(self, name: dns.name.Name) -> dns.name.Name:
        """Return the wildcard that stands for a name that nobody has made (RFC 4592 §3.3.1)."""
        if any(known.is_subdomain(name) for known, _ in self.records):
            return name
        closest = name
        while closest != dns.name.root and not any(
            known.is_subdomain(closest) for known, _ in self.records
        ):
            closest = closest.parent()
        return dns.name.Name((b"*", *closest.labels))

    def _find(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> dns.rrset.RRset | None:
        found = self.records.get((self._owner(name), kind))
        if found is None:
            return None
        return dns.rrset.from_rdata_list(name, found.ttl, list(found))


class _Tcp(socketserver.ThreadingTCPServer):
    allow_reuse_address = True


def main() -> None:
    """Serve the zone files that are named, until interrupted."""
    zones = {}
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as file:
            zones[path.rpartition("/")[2].removesuffix(".zone")] = file.read()
    with NameServer(zones) as server:
        output.product(f"{server.address}\n")
        threading.Event().wait()


if __name__ == "__main__":
    main()
