"""Makes the picture of the terminal in docs/demo.svg from a real run of `sestrack demo`.

    python examples/terminal_svg.py docs/demo.svg [--from WORDS] [--to WORDS]

The demo runs on a terminal of 80 columns, and what that was told becomes an SVG.  The whole
is long: shown is what lies between the first line with the words of `--from` and the first
with those of `--to`; without others, from the copies to the figures (`--from '#' --to ''` is
all of it).
No font is fetched: the picture takes what the reader's system has, and GitHub allows no more.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

COLUMNS = 80
COMMAND = [sys.executable, "-m", "sestrack", "demo"]
# a dark terminal stands well on GitHub's white and on its black page
THEME = TerminalTheme(
    (23, 27, 33), (214, 219, 226),
    [(72, 79, 88), (255, 123, 114), (126, 211, 138), (227, 179, 65),
     (121, 184, 255), (198, 160, 246), (124, 200, 214), (214, 219, 226)],
    [(110, 118, 129), (255, 161, 152), (126, 211, 138), (227, 179, 65),
     (165, 214, 255), (210, 168, 255), (124, 200, 214), (255, 255, 255)],
)  # fmt: skip
FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" \
role="img" aria-label="a terminal in which sestrack demo runs">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px;
}}
.{unique_id}-title {{ font-size: 16px; font-family: system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def record(command: list[str]) -> str:
    """Run a command on a terminal; return all that the terminal was told."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": ""}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(  # noqa: S603 - our own program
        command, stdin=its, stdout=its, stderr=its, env=environment
    )
    os.close(its)
    told = b""
    while True:
        try:
            piece = os.read(ours, 65_536)
        except OSError:  # what Linux says at the end, where others say nothing
            break
        if not piece:
            break
        told += piece
    os.close(ours)
    if process.wait():
        sys.exit(told.decode())
    return told.decode()


def lines(told: str) -> list[Text]:
    """Return the lines that stay on the terminal, none longer than it is wide."""
    kept: list[str] = []
    for line in re.sub(r"\x1b\[\?25[lh]", "", told).replace("\r\n", "\n").split("\n"):
        up, gone, rest = line.rpartition("\x1b[1A\x1b[2K")
        if gone:  # a progress bar that is done, on the lines before this one
            del kept[-1 - up.count(gone) :]
        kept.append(rest.rpartition("\r\x1b[2K")[2])
    folded: list[Text] = []
    for line in kept:
        text = Text.from_ansi(line)
        folded += text.divide(range(COLUMNS, len(text), COLUMNS)) if len(text) > COLUMNS else [text]
    return folded


def cut(found: list[Text], begin: str, end: str) -> list[Text]:
    """Return the lines from the first with some words, up to before the first with others."""
    first = next(n for n, line in enumerate(found) if begin in line.plain)
    last = next((n for n, line in enumerate(found) if end and end in line.plain), len(found))
    while last and not found[last - 1].plain.strip():
        last -= 1
    return found[first:last]


def main() -> None:
    """Record, cut, draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("picture", type=Path)
    parser.add_argument("--from", dest="begin", default="# A copy for each", metavar="WORDS")
    parser.add_argument("--to", dest="end", default="# Tracking is", metavar="WORDS")
    given = parser.parse_args()
    shown = cut(lines(record(COMMAND)), given.begin, given.end)
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="256"
    )
    for line in [*shown, Text()]:
        console.print(line, no_wrap=True, overflow="crop", crop=True, soft_wrap=False)
    given.picture.write_text(
        console.export_svg(
            title="sestrack demo", theme=THEME, code_format=FORMAT, unique_id="demo"
        ),
        encoding="utf-8",
    )  # fmt: skip


if __name__ == "__main__":
    main()
