"""Write what comes out of a golden case, for a person to review: see docs/golden.md.

    python tests/golden/make.py NN-name…          a case of the project, in rewrite/
    python tests/golden/make.py mine/NN-name…     one of your own mail

It reads in.html or in.eml and case.toml, which it writes for a new case, and writes out.*
and the [expect] of case.toml.  What you wrote in case.toml, comments too, stays.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tomlkit
from cases import HERE, Case, Expected

NEW = """\
sender = "news.example.com"
trace_domain = "trace.example.com"
message = "june"
recipient = "ada@example.org"
minted = 2026-06-01T08:00:00Z
key = 1
pixel = "bottom"
clicks = true
opens = true
# the charset that a reader's program takes, by Python's name; only the proofs on HTML ask
charset = "utf-8"

[options]  # wrap_unsubscribe = true, field = "{{x}}", plain = true (of How in tracking.py)
"""


def main(names: list[str]) -> int:
    """Make each case anew."""
    if not names:
        sys.stderr.write(__doc__ or "")
        return 2
    for name in names:
        folder = HERE / name if "/" in name else HERE / "rewrite" / name
        if not any((folder / given).exists() for given in ("in.html", "in.eml")):
            sys.stderr.write(f"{folder} has neither in.html nor in.eml\n")
            return 1
        if not (folder / "case.toml").exists():
            (folder / "case.toml").write_text(NEW, encoding="utf-8")
        case = Case.of(folder)
        done = case.rewrite()
        (folder / f"out.{case.kind}").write_bytes(done.data)
        note(folder / "case.toml", done)
        show(name, done)
        if not (folder / "readme").exists():
            sys.stderr.write(f"{name}: write {folder / 'readme'}: what is it for?\n")
    return 0


def note(path: Path, done: Expected) -> None:
    """Write [expect]."""
    document = tomlkit.parse(path.read_text(encoding="utf-8"))
    expect = tomlkit.table()
    if done.untracked:
        expect["untracked"] = done.untracked
    if done.pixel_at >= 0:
        expect["pixel_at"] = done.pixel_at
    if done.pixel_part:
        expect["pixel_part"] = done.pixel_part
    links = tomlkit.array()
    for link in done.links:
        line = tomlkit.inline_table()
        given = link._asdict() | {"span": list(link.span)}
        line.update({name: value for name, value in given.items() if value not in ("", False)})
        line.setdefault("url", "")
        links.append(line)
    expect["links"] = links.multiline(multiline=bool(done.links))
    if "expect" not in document:
        document.add(tomlkit.nl())
    document["expect"] = expect
    path.write_text(tomlkit.dumps(document), encoding="utf-8")


def show(name: str, done: Expected) -> None:
    """Print what to review."""
    where = f" of part {done.pixel_part}" if done.pixel_part else ""
    pixel = f"pixel at {done.pixel_at}{where}" if done.pixel_at >= 0 else "no pixel"
    lines = [f"{name}: {done.untracked or pixel}"]
    lines += [f"  {link.reason:<18} {link.url!r}" for link in done.links]
    sys.stdout.write("\n".join((*lines, "")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
