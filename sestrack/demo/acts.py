"""The steps of the demo, from nothing to the figures, and the sentences between them.

All names end in .localhost, which is this machine and nothing else (RFC 6761 §6.3): a browser
finds the tracking server under its trace domain without anything being set up, and nothing
can leave the machine.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import TYPE_CHECKING

from sestrack.demo.nameserver import NameServer
from sestrack.demo.stage import stage
from sestrack.demo.visit import tracking_urls
from sestrack.times import utc

if TYPE_CHECKING:
    from sestrack.demo.page import Page
    from sestrack.demo.stage import Stage

SENDER, TRACE, EDGE = "news.quill.localhost", "trace.quill.localhost", "edge.localhost"
MESSAGE = "june"
SHOP = "https://quill.localhost"
READERS = ("ada@example.org", "ben@example.org", "eve@example.org")
COPIES = [f"copies/0000/{number:08d}.html" for number in range(1, len(READERS) + 1)]
_LOOK_SECONDS = 1.0
_HERE = os.path.dirname(__file__)
_SEEN_SECONDS = 1.5
"""A running server looks at the settings twice a second."""


def show(*, keep: bool) -> None:
    """Show the main job; with `keep` stay until Ctrl-C, with a page to click on."""
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(stage())
        names = stack.enter_context(NameServer({".": f"{EDGE}. 60 IN A 127.0.0.1"}))
        page = None
        if keep:
            from sestrack.demo.page import Page

            page = stack.enter_context(Page(here.path("store.db"), _copies(here)))
        _store(here)
        _domains(here, names)
        _newsletter(here, page.shop if page else SHOP)
        _visits(here)
        _links_live_on(here)
        if page is not None:
            _stay(here, page)
    here.say("That was all. The servers have ended, and the folder is gone.")


def _store(here: Stage) -> None:
    here.say(
        "The main job of sestrack, on this machine alone. Names that end in .localhost are "
        "this machine; the store is in a folder of its own."
    )
    here.type(f"cd {here.folder}")
    here.type("export SESTRACK_STORE=$PWD/store.db")
    here.run(f"sestrack init --edge {EDGE}")


def _domains(here: Stage, names: NameServer) -> None:
    here.say(f"A bookshop's newsletter comes from {SENDER}. A record proves it.")
    names.add(here.take(f"sestrack sender add {SENDER}"))
    here.say(f"The record is in the zone now: a small name server answers on {names.address}.")
    here.run(f"sestrack sender verify {SENDER} --resolver {names.address}")
    here.say("The server that will answer opens and clicks, on a port that is free.")
    port = here.start("sestrack serve --bind 127.0.0.1:0", _port)
    here.say(
        f"It listens on {port}. Now the trace domain: the host in every tracking URL. (In earnest "
        "its URLs are https; plain http is for trials like this one.)"
    )
    names.add(here.take(f"sestrack domain create trace --plain-http --port {port}"))
    here.say("With its record in the zone, too: does DNS lead to our server, and is it ours?")
    here.run(f"sestrack domain verify {TRACE} --resolver {names.address}")
    here.run(f"sestrack settings enable --dimension account --domain {TRACE} --click --open")


def _newsletter(here: Stage, shop: str) -> None:
    with open(os.path.join(_HERE, "newsletter.html"), encoding="ascii") as file:
        letter = file.read().replace(SHOP, shop)
    _write(here.path("newsletter.html"), letter)
    _write(here.path("readers.csv"), "\n".join(["recipient", *READERS, ""]))
    here.say("A newsletter, with a button for Outlook. What will become of its links?")
    here.run(f"sestrack check newsletter.html --sender {SENDER}")
    here.say(
        "A copy for each of three readers. Only links change, and a pixel is added. (Dated an "
        "hour back: who clicks within seconds of the sending is taken for a machine.)"
    )
    here.run(
        f"sestrack rewrite newsletter.html --sender {SENDER} --message {MESSAGE} "
        f"--recipients readers.csv --output copies/ --at {utc(int(time.time()) - 3600)}"
    )
    with open(here.path(COPIES[0]), encoding="ascii") as file:
        first = tracking_urls(file.read())[0]
    here.say("A link of the first copy. It is sealed: nobody else can read or forge it.")
    here.run(f"sestrack inspect {first}")


def _visits(here: Stage) -> None:
    here.say("Ada opens her copy, sees its images, and clicks on the button.")
    here.run(f"python -m sestrack.demo.visit {COPIES[0]} --click 2")
    here.say("At Ben's, a scanner follows every link before the mail is let in.")
    here.run(f"python -m sestrack.demo.visit {COPIES[1]} --scanner")
    here.say("The figures: of three copies one was read. The scanner's visits stand apart.")
    here.run("sestrack stats")
    here.run("sestrack stats --by link")
    here.say("One by one, with the reasons.")
    here.run("sestrack events tail | cut -f 2-4,10")


def _links_live_on(here: Stage) -> None:
    here.say("Tracking is switched off. Eve's links still lead on; nothing is recorded.")
    here.run("sestrack settings disable")
    time.sleep(_SEEN_SECONDS)
    here.run(f"python -m sestrack.demo.visit {COPIES[2]} --click 2")
    here.run("sestrack stats --by recipient | cut -f 1,2")


def _stay(here: Stage, page: Page) -> None:
    here.say("On again, with the choices that were made before.")
    here.run("sestrack settings enable")
    here.say(f"Open {page.url} in a browser, and click. Ctrl-C ends it and removes everything.")
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        while True:
            here.expect_servers()
            time.sleep(_LOOK_SECONDS)


def _copies(here: Stage) -> dict[str, str]:
    return {reader: here.path(copy) for reader, copy in zip(READERS, COPIES, strict=True)}


def _port(said: str) -> str:
    found = re.search(r"serving on http://[^ ]*:(\d+)/", said)
    return found[1] if found else ""


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
