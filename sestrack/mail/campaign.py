"""A campaign: one template, a copy for each of a list of recipients.

The template is compiled once; a copy costs one sealing and one join.  Copies are made in
blocks, by one process or several, and written in the order of the list, whoever made them:
the result is the same, byte by byte.

As JSON Lines a copy is `{"number": 1, "recipient": "…", "html": "…"}`; as files,
`0000/00000001.html` and so on, and `index.csv` names the recipient of each.

Going on after an interruption.  While it is made, the result is called `NAME.partial`, and
`NAME.partial.json`, the *journal*, holds what makes the copies what they are: minting time,
key, label, template.  The last whole line of the result, or of the index, says how far it
came.  In the end the copies are counted in the store under the campaign's own id, which
counts each once however often that is tried, and the result gets its name.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from sestrack import output
from sestrack.errors import BadInput, InputOutputError, Refused, TryAgain
from sestrack.files import beside, cannot_create, quoted, typed
from sestrack.mail.recipients import Row, open_list

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sestrack.tracking import Letter

BLOCK = 256
"""Copies made at a time."""
INDEX = "index.csv"
"""Names the recipient of each file."""
_IOV_MAX = 1024
"""Pieces that `writev` takes at most (POSIX IOV_MAX, on Linux)."""
FOLDER = 10_000
"""Files in a folder."""


class Plan(NamedTuple):
    """What makes the copies of a campaign what they are."""

    letter: Letter
    minted: int
    recipients: str
    column: str
    skip: int = 0
    """Recipients at the beginning of the list that are done."""


# -- making --------------------------------------------------------------------------------


class _Maker:
    """Makes the copies of a plan, as JSON Lines or as files."""

    def __init__(self, plan: Plan, *, as_json: bool) -> None:
        letter = plan.letter
        self._template = letter.template
        self._sealer = letter.tracking.sealer(letter.message, plan.minted)
        self._chunks = json_chunks(letter) if as_json else []

    def copy(self, recipient: str) -> bytes:
        """Make the copy itself."""
        if self._sealer is None:
            return self._template.chunks[0]
        return self._template.render(self._sealer.seal(recipient.encode()))

    def lines(self, rows: list[Row]) -> list[bytes]:
        """Make lines of JSON, in pieces: the chunks are never copied in our own memory."""
        quoted = json.encoder.encode_basestring
        first, *rest = self._chunks
        holes = len(rest)
        # head, first chunk, token, chunk, token, …, chunk, end
        shape = [b"", first, *(piece for chunk in rest for piece in (b"", chunk)), b'"}\n']
        pieces: list[bytes] = []
        for number, recipient, _ in rows:
            head = f'{{"number": {number}, "recipient": {quoted(recipient)}, "html": "'
            shape[0] = head.encode()
            if self._sealer is not None:
                shape[2:-1:2] = [self._sealer.seal(recipient.encode())] * holes
            pieces += shape
        return pieces


def json_chunks(letter: Letter) -> list[bytes]:
    """Write the chunks as parts of one JSON string: characters, whatever the charset was.

    Raises `BadInput` if the document is not valid in its charset.
    """
    template = letter.template
    try:
        charset = template.encoding or letter.charset
        texts = [chunk.decode(charset) for chunk in template.chunks]
        texts[0] = texts[0].removeprefix("\ufeff")  # a mark of octets, not of characters
    except UnicodeDecodeError as error:
        msg = f"the template is not {error.encoding}: byte {error.object[error.start]:#04x}"
        raise BadInput(msg, "--output FOLDER writes bytes as they are; or convert it") from None
    return [json.dumps(text, ensure_ascii=False)[1:-1].encode() for text in texts]


def blocks(plan: Plan, first: int, step: int) -> Iterator[list[Row]]:
    """Read every `step`th block of the list, from block `first` on."""
    with open_list(plan.recipients, plan.column) as found:
        rows = iter(found.rows)
        for _ in islice(rows, plan.skip):
            pass
        number = 0
        while block := list(islice(rows, BLOCK)):
            if number % step == first:
                yield block
            number += 1


class Output(NamedTuple):
    """Where copies go: lines into a file, or files into a folder and their index."""

    file: int
    """A descriptor of the lines, or of the index."""
    folder: str
    """"" for lines."""

    def prepare(self, maker: _Maker, rows: list[Row]) -> list[bytes]:
        """Make a block, and all of it that need not be in order."""
        if not self.folder:
            return maker.lines(rows)
        for number, recipient, _ in rows:
            path = os.path.join(self.folder, file_of(number))
            if number % FOLDER == 0 or number == rows[0].number:
                os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(maker.copy(recipient))
        index = output.csv_lines((file_of(row.number), row.recipient) for row in rows)
        return [index.encode()]

    def commit(self, lines: list[bytes]) -> None:
        """Write what is to be in order."""
        write_all(self.file, lines)


def file_of(number: int) -> str:
    """Name the file of a copy."""
    return f"{number // FOLDER:04d}/{number:08d}.html"


def write_all(file: int, pieces: list[bytes]) -> None:
    """Write all pieces; the kernel may take a part and say so."""
    for at in range(0, len(pieces), _IOV_MAX):
        part = pieces[at : at + _IOV_MAX]
        left = sum(map(len, part)) - os.writev(file, part)
        if left:
            rest = memoryview(b"".join(part))[-left:]
            while rest:
                rest = rest[os.write(file, rest) :]


def make(plan: Plan, out: Output, jobs: int, step: Callable[[int], object]) -> int:
    """Make the copies; return how many.  `step` is told after each block."""
    if jobs > 1:
        return _make_by_several(plan, out, jobs, step)
    maker = _Maker(plan, as_json=not out.folder)
    count = 0
    for rows in blocks(plan, 0, 1):
        out.commit(out.prepare(maker, rows))
        count += len(rows)
        step(len(rows))
    return count


def _make_by_several(plan: Plan, out: Output, jobs: int, step: Callable[[int], object]) -> int:
    """Let each process make every `jobs`th block, and write it when it is its turn."""
    from multiprocessing import connection, get_context

    context = get_context("fork")
    turns = [context.Semaphore(1 if number == 0 else 0) for number in range(jobs)]
    told, tell = context.Pipe(duplex=False)
    parent = os.getpid()

    def work(number: int) -> None:
        told.close()
        try:
            maker = _Maker(plan, as_json=not out.folder)
            for rows in blocks(plan, number, jobs):
                lines = out.prepare(maker, rows)
                while not turns[number].acquire(timeout=1) and os.getppid() == parent:
                    pass
                if os.getppid() != parent:  # it was killed: nobody gives the turn on
                    os._exit(1)
                out.commit(lines)
                tell.send(len(rows))
                turns[(number + 1) % jobs].release()
        except BaseException as error:  # noqa: BLE001 - what it was is told to the parent
            with suppress(OSError):
                tell.send(error)
        os._exit(0)

    workers = [context.Process(target=work, args=(number,)) for number in range(jobs)]
    for worker in workers:
        worker.start()
    count = 0
    try:
        running = {worker.sentinel: worker for worker in workers}
        while running:
            ready = connection.wait([told, *running])
            if told in ready:
                news = told.recv()
                if isinstance(news, BaseException):
                    raise news
                count += news
                step(news)
                continue
            for sentinel in [one for one in running if one in ready]:
                worker = running.pop(sentinel)
                worker.join()
                if worker.exitcode:  # the others would wait for their turn for ever
                    msg = f"a process that makes copies was killed (exit {worker.exitcode})"
                    raise InputOutputError(msg, "dmesg | tail  # did memory run out?")
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
        told.close()
        tell.close()
    return count


# -- going on --------------------------------------------------------------------------------


class Journal(NamedTuple):
    """The file beside an unfinished result."""

    path: str
    facts: dict[str, Any]

    def write(self) -> None:
        """Write it: all of it, or nothing.  Raises `CannotCreate`, `InputOutputError`."""
        with beside(self.path, private=True) as name, open(name, "w", encoding="utf-8") as file:
            json.dump(self.facts, file)


_KINDS = (("id", str), ("minted", int), ("sender", str), ("message", str), ("key", int))
"""What is read of a journal; all else is compared."""


def read_journal(path: str) -> Journal | None:
    """Read the journal of an unfinished campaign; None if there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            facts = json.load(file)
        if not isinstance(facts, dict) or any(type(facts.get(n)) is not k for n, k in _KINDS):
            msg = "it is not one that a campaign left"
            raise ValueError(msg)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        msg = f"the journal {path} cannot be read: {error}"
        raise BadInput(msg, f"rm -r {typed(path.removesuffix('.json'))}*") from None
    return Journal(path, facts)


def check_same(journal: Journal, facts: dict[str, Any]) -> None:
    """Raise `Refused` if going on would make other copies than those that were made."""
    for name, value in facts.items():
        was = journal.facts.get(name)
        if name in {"id", "minted"} or was == value:
            continue
        if name in _CHANGED:
            msg = f"{_CHANGED[name]} since the campaign was interrupted; as before, it goes on"
            raise Refused(msg, f"ls -l {typed(journal.path.removesuffix('.json'))}*")
        words = name.replace("_", " ").removesuffix("s")
        msg = f"the interrupted campaign had another {words}: {was}, and now it is {value}"
        if name == "trace_domain":
            raise Refused(msg, "sestrack settings show")
        hint = f"--{name} {quoted(str(was))}" if was and name != "key" else "sestrack keys list"
        raise Refused(msg, hint)


_CHANGED = {
    "template": "the template, --pixel or the settings were changed",
    "list": "the list was changed", "column": "--column was changed",
}  # fmt: skip


def resume_at(file: IO[bytes], *, as_json: bool) -> int:
    """Cut off what is half written; return the number of the last whole line's copy."""
    end = file.seek(0, os.SEEK_END)
    tail = b""
    position = end
    while position > 0 and tail.count(b"\n") < 2:  # noqa: PLR2004 - the end of the line before too
        position = max(0, position - (1 << 20))
        file.seek(position)
        tail = file.read(min(1 << 20, end - position)) + tail
    whole = tail.rfind(b"\n") + 1
    file.truncate(position + whole)
    file.seek(0, os.SEEK_END)
    if not whole:
        return 0
    begin = tail.rfind(b"\n", 0, whole - 1) + 1
    line = tail[begin:whole]
    if as_json:
        return int(json.loads(line)["number"])
    # a line of the index, like 0000/00000001.html,ada@example.org; the heading is none
    _, slash, name = line.partition(b"/")
    return int(name.partition(b".")[0]) if slash else 0


def open_result(path: str) -> IO[bytes]:
    """Open a result to go on with, for us alone; only its owner can read it.

    Raises `CannotCreate`; `TryAgain` while another process makes it, or has just ended.
    """
    try:
        if os.path.basename(path) == INDEX:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
    except OSError as error:
        raise cannot_create(path, error) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
            return file
    except OSError:
        pass
    file.close()
    msg = f"another sestrack rewrite makes {path}"
    raise TryAgain(msg, "the same command again  # when that has ended")


def finish(file: IO[bytes], partial: str, name: str) -> None:
    """Sync the result and give it its name."""
    try:
        os.fsync(file.fileno())
        os.rename(partial, name)
    except OSError as error:
        msg = f"writing {name} failed: {error.strerror}; what there is, is in {partial}"
        raise InputOutputError(msg, "--resume goes on") from None
