"""What the ssh batch system knows of its jobs: where each is, what was said of it, and how it ended."""

from __future__ import annotations

from typing import Any, Optional

from batchsystems.abstract import End, EndKind, Reason, Submission
from batchsystems.ssh_link import Link
from batchsystems.ssh_placement import Need

_KEPT_REPORTED = 100_000


class Job:
    """A job whose end has not been told.

    link: where it is; None: it waits here. sent: the number of the question that will be asked next on that connection.
    acked: the host has said that it has it.
    """

    __slots__ = ("acked", "cancelled", "grace", "link", "name", "need", "sent", "submission", "unfit_since")

    def __init__(self, name: str, need: Need, submission: Optional[Submission], link: Optional[Link]) -> None:
        self.name = name
        self.need = need
        self.submission = submission  # None: an earlier instance has it submitted
        self.link = link
        self.sent = 0
        self.acked = link is not None
        self.cancelled = False
        self.grace = 0.0
        self.unfit_since: Optional[float] = None


class Jobs:
    """All of them, and the ends that wait to be reported."""

    def __init__(self) -> None:
        self.known: dict[str, Job] = {}
        self.waiting: dict[str, Need] = {}
        self.ends: list[End] = []
        self._reported: dict[str, None] = {}

    def add(self, job: Job) -> None:
        """A job is new here."""
        self.known[job.name] = job
        if job.link is None:
            self.waiting[job.name] = job.need

    def was_reported(self, name: str) -> bool:
        """Whether its end was told, by this instance."""
        return name in self._reported

    def on(self, link: Link) -> list[Job]:
        """Those that were given to a host."""
        return [job for job in self.known.values() if job.link is link]

    def give_back(self, job: Job) -> None:
        """A host has never begun it, and never will: it waits again, as the oldest."""
        assert job.link is not None
        job.link.place.booked.pop(job.name, None)
        job.link, job.acked = None, False
        self.waiting = {job.name: job.need, **self.waiting}

    def end(self, end: End) -> None:
        """Note an end."""
        del self.known[end.name]
        self.waiting.pop(end.name, None)
        self.ends.append(end)
        self._reported[end.name] = None
        if len(self._reported) > _KEPT_REPORTED:
            del self._reported[next(iter(self._reported))]

    def take_ends(self) -> list[End]:
        """The ends not yet reported."""
        ends, self.ends = self.ends, []
        return ends


def end_of(name: str, how: dict[str, Any], host: str, cancelled: bool) -> End:
    """What a host said of an end, as an `End`."""
    status, signum, detail = how.get("status"), how.get("signal"), str(how.get("detail", ""))
    peak, seconds = how.get("peak"), how.get("cpu")
    if cancelled or how.get("cancelled"):
        return End(name, EndKind.KILLED, status, signum, Reason.CANCELLED, peak, seconds, detail, host)
    if how.get("lost"):
        return End(name, EndKind.LOST, detail=detail, host=host)
    if signum is not None:
        return End(name, EndKind.KILLED, None, signum, Reason.SIGNAL, peak, seconds, detail, host)
    return End(name, EndKind.FINISHED, status, None, None, peak, seconds, detail, host)
