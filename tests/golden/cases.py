"""A golden case: a document or a message, how it is rewritten, and what must come of it.

A case is a folder::

    in.html or in.eml     what goes in
    out.html or out.eml   what must come out, to the byte
    case.toml             how it is rewritten; under [expect], what became of each link
    readme                what the case is for

`rewrite/` holds those of the project; `mine/`, which git ignores, those of your own mail.
The test keys are no secrets: key number n is 64 octets of the number n.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from sestrack.model import Entry
from sestrack.rewrite import Decision
from sestrack.tokens import Key
from sestrack.tracking import How, Tracking

HERE = Path(__file__).resolve().parent


class Link(NamedTuple):
    """What becomes of a link."""

    url: str
    reason: str
    span: tuple[int, int]
    """Of its href in the document, or in the decoded part."""
    part: str = ""
    """Of a message: "1.2"."""
    conditional: bool = False
    """In a conditional comment, where only Outlook sees it."""


class Expected(NamedTuple):
    """What rewriting gives."""

    data: bytes
    links: list[Link]
    pixel_at: int
    """-1 for none."""
    pixel_part: str
    untracked: str
    """Why it all stays as it is, in words."""


class Case(NamedTuple):
    """A golden case."""

    folder: Path
    kind: str
    """"html" or "eml"."""
    data: bytes
    facts: dict[str, Any]
    """What case.toml says."""

    @classmethod
    def of(cls, folder: Path) -> Case:
        """Read a folder; `Expected` is read by `expected`."""
        kind = "eml" if (folder / "in.eml").exists() else "html"
        facts = tomllib.loads((folder / "case.toml").read_text(encoding="utf-8"))
        return cls(folder, kind, (folder / f"in.{kind}").read_bytes(), facts)

    @property
    def expected(self) -> Expected:
        """What out.* and case.toml say must come."""
        said = self.facts["expect"]
        links = [Link(**link | {"span": tuple(link["span"])}) for link in said.get("links", ())]
        return Expected(
            data=(self.folder / f"out.{self.kind}").read_bytes(),
            links=links,
            pixel_at=said.get("pixel_at", -1),
            pixel_part=said.get("pixel_part", ""),
            untracked=said.get("untracked", ""),
        )

    @property
    def key(self) -> Key:
        """The test key."""
        number = self.facts["key"]
        return Key.from_secret(number, bytes((number,)) * 64)

    @property
    def how(self) -> How:
        """The options."""
        return How(pixel=self.facts["pixel"], **self.facts.get("options", {}))

    @property
    def tracking(self) -> Tracking:
        """The settings, without a store."""
        trace_domain = self.facts["trace_domain"]
        entry = Entry("trace", click=self.facts["clicks"], open=self.facts["opens"])
        base = f"https://{trace_domain}/"
        return Tracking(self.facts["sender"], trace_domain, base, entry, "", [self.key])

    def copy_token(self) -> bytes:
        """What stands in the URLs for the recipient."""
        minted = int(self.facts["minted"].timestamp())
        field: bytes = self.how.field.encode()
        return field or self.tracking.copy_token(
            self.facts["message"], self.facts["recipient"], minted
        )

    def rewrite(self) -> Expected:
        """Let the program rewrite it."""
        tracking, how, message = self.tracking, self.how, self.facts["message"]
        recipient, minted = self.facts["recipient"], int(self.facts["minted"].timestamp())
        if self.kind == "html":
            size = 0 if how.field else len(self.copy_token())
            letter = tracking.compile(self.data, message, how, copy_size=size)
            links = [_link(decision, "") for decision in letter.decisions]
            data = letter.render(recipient, minted)
            return Expected(data, links, letter.template.pixel_at, "", "")
        done = tracking.rewrite_message(self.data, recipient, message, minted, how)
        links, pixel_at, pixel_part = [], -1, ""
        for part, _, template in done.parts:
            links += [_link(decision, part.number) for decision in template.decisions]
            if template.pixel_at >= 0:
                pixel_at, pixel_part = template.pixel_at, part.number
        return Expected(done.data, links, pixel_at, pixel_part, done.untracked)


def _link(decision: Decision, part: str) -> Link:
    href, url, reason = decision
    return Link(url, str(reason), (href.start, href.end), part, href.conditional)


def folders() -> list[Path]:
    """List the cases: the project's, then your own."""
    return [
        folder
        for drawer in ("rewrite", "mine")
        for folder in sorted((HERE / drawer).glob("*/"))
        if folder.is_dir() and not folder.name.startswith(("_", "."))
    ]
