"""What a server counts of itself, in memory, to be shown as metrics.

A worker counts what only it sees: how long answers waited, what was answered without being
recorded.  Once a second it sends all of that to the writer, as it stands (`Report`).  The
writer counts events as they are kept.  Nothing of it is done for each request: answers are counted
a batch at a time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sestrack.tracker.collector import EventRow, TargetRow

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Upper bounds of the classes of delays, in seconds; one class more has all above."""
_INDEX = itemgetter(1)  # of the target, in an event's row


class Delays:
    """How long answers waited."""

    __slots__ = ("classes", "total")

    def __init__(self) -> None:
        self.classes = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, answers: int, seconds: float) -> None:
        """Count answers that were sent together; the one that waited longest waited so long."""
        self.classes[bisect_left(BOUNDS, seconds)] += answers
        self.total += answers * seconds


class Report(NamedTuple):
    """What a worker counted since it began, and what it has now."""

    delays: list[int]
    """Answers of each class."""
    delay: float = 0.0
    """All their seconds."""
    replies: dict[bytes, int] = {}  # noqa: RUF012 - never changed
    """Answers without an event, by status line."""
    lost: int = 0
    waiting: int = 0
    """Events that are not known to be kept."""
    connections: int = 0
    refused: int = 0
    """Connections for which there was no room."""


NOTHING = Report([0] * (len(BOUNDS) + 1))


def added(reports: Iterable[Report]) -> Report:
    """Add reports up."""
    reports = [NOTHING, *reports]
    replies: Counter[bytes] = Counter()
    for report in reports:
        replies.update(report.replies)
    return Report(
        [sum(column) for column in zip(*(report.delays for report in reports), strict=True)],
        sum(report.delay for report in reports),
        dict(replies),
        sum(report.lost for report in reports),
        sum(report.waiting for report in reports),
        sum(report.connections for report in reports),
        sum(report.refused for report in reports),
    )


class Tally:
    """What the writer counts."""

    def __init__(self) -> None:
        self.events: Counter[int] = Counter()
        """Events kept, by kind."""
        self.lost: Counter[int] = Counter()
        """Events that workers had handed over, and that were not."""
        self.gone = NOTHING
        """The last reports of workers that have ended."""

    def keep(self, rows: Sequence[EventRow], targets: Sequence[TargetRow]) -> None:
        """Count a batch's events, which are kept now."""
        _add(self.events, rows, targets)

    def lose(self, rows: Sequence[EventRow], targets: Sequence[TargetRow]) -> None:
        """Count a batch's events, for which there is no room."""
        _add(self.lost, rows, targets)

    def bury(self, last: Report) -> None:
        """Go on counting what a worker counted that has ended."""
        self.gone = added([self.gone, last._replace(waiting=0, connections=0)])


def _add(counts: Counter[int], rows: Sequence[EventRow], targets: Sequence[TargetRow]) -> None:
    for index, number in Counter(map(_INDEX, rows)).items():
        counts[targets[index][0]] += number
