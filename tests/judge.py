"""The independent judge: html5lib, which shares nothing with our scanner."""

from __future__ import annotations

import html5lib


class _Listener(html5lib.HTMLParser):
    """A parser that notes each start tag its tokenizer gives, kept by the tree or not."""

    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def mainLoop(self) -> None:  # noqa: N802
        """Listen while the parser runs: it is the tree that sets the tokenizer's states."""
        tokenizer = self.tokenizer
        emit = tokenizer.emitCurrentToken

        def emit_and_note() -> None:
            token = tokenizer.currentToken
            emit()
            name = token["name"]
            if token["type"] == _START_TAG and (name in {"a", "area"} or name.startswith("v:")):
                href = token["data"].get("href")
                if href is not None:
                    self.hrefs.append(href)

        tokenizer.emitCurrentToken = emit_and_note
        super().mainLoop()


_START_TAG = html5lib.constants.tokenTypes["StartTag"]


def hrefs(document: str) -> list[str]:
    """Return the decoded href of each `a`, `area` and `v:*` start tag, in order."""
    listener = _Listener()
    listener.parse(document)
    return listener.hrefs
