"""A pool of machines that come and go, as a batch system: jobs wait in a hub, and nodes take what fits them.

The hub is a Redis (batchsystems.pool_hub); on each machine a node runs (batchsystems.pool_node, the program
jobTreeNode). This is the master's side. What must hold

  - A hub that is away ends nothing. Submissions and cancellations wait here and are handed over when it is back.
  - A hub that has lost what it knew is told again. A name that it does not know any more is submitted once more, after
    every node has had the time to say that it runs it, so that nothing runs twice at once. A hub that loses it again
    although it has confirmed to have it is not to be relied on: then the job is reported as LOST.
  - A hub that came back as it was before tells old news: an end is reported once, and a job that has ended is removed.
  - Ends are signed (batchsystems.pool_signing), and one that is not is not believed.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any, Optional

from batchsystems import pool_hub, pool_options
from batchsystems.abstract import (
    AbstractBatchSystem,
    BatchSystemError,
    Capacity,
    End,
    EndKind,
    NeverFits,
    Reason,
    Resources,
    Setup,
    Submission,
)
from batchsystems.pool_hub import Hub, HubAway, elapsed
from batchsystems.pool_listener import Listener
from batchsystems.pool_sealing import GPUS, Sealer
from batchsystems.pool_signing import END, KEY_FILE, Forged, end_from_json, load_key
from batchsystems.pool_tracking import Missing, Tracked

log = logging.getLogger("batchsystems.pool")

_ASK_SECONDS = 1.0
"""So often the hub is asked for news of which it has not told us itself."""
_COUNT_SECONDS = 5.0
_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between tries to reach a hub that does not answer."""
_TIMEOUTS_OF_PATIENCE = 1.5
_NODE_TIMEOUT = 120.0
"""What is supposed while no node has told its own."""
_KEPT_ENDS = 100_000


class Pool(AbstractBatchSystem):
    """The pool at a hub, for the masters of one user.

    `directory` is where environments are kept, shared with all nodes; `patience`: seconds for which a job waits that
    is too large for every node; `largest`: the largest node that may yet come.
    """

    outlives_master = True
    OPTIONS = pool_options.OPTIONS

    def __init__(
        self,
        hub: Hub,
        directory: str,
        priority: int = 0,
        patience: float = 600.0,
        largest: Optional[Capacity] = None,
        max_cpu: Optional[float] = None,
        max_memory: Optional[int] = None,
    ) -> None:
        self._hub = hub
        self._sealer = Sealer(hub.key, hub.identity, directory, priority)
        self._patience = patience
        self._largest = largest
        self._about: dict[str, Any] = {
            "user": hub.user, "host": socket.gethostname(), "pid": os.getpid(), "priority": priority,
            "started": time.time(), "directory": directory,
        }  # fmt: skip
        self.set_limits(max_cpu, max_memory)
        self._jobs: dict[str, Tracked] = {}
        self._reported: dict[str, None] = {}
        self._to_take: list[str] = []
        self._runs: dict[str, None] = {}
        self._cancels: dict[str, float] = {}
        self._avoid: Optional[frozenset[str]] = None
        self._ends: list[End] = []
        self._nodes: list[Capacity] = []
        self._free_cores = 0
        self._capacity: Optional[Capacity] = None
        self._longest_timeout = 0.0
        self._queued = 0
        self._trouble: Optional[HubAway] = None
        self._failures = 0
        self._retry_at = self._next_news = self._next_count = 0.0
        self._closed = False
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        self._listener = Listener(hub, lambda: [f"run:{run}" for run in list(self._runs)], self._stir)
        self._listener.start()
        self._try_to_talk()

    @classmethod
    def create(cls, setup: Setup) -> AbstractBatchSystem:
        """Make one with the options of a command line. Raises BatchSystemError."""
        options = setup.options
        url = options["poolHub"]
        if not url:
            raise BatchSystemError("where is the hub? Give --poolHub redis://HOST; see docs/howto/pool.md")
        where = pool_hub.address(
            url, options["poolPasswordFile"], options["poolCA"], options["poolCertificate"],
            options["poolCertificateKey"],
        )  # fmt: skip
        hub = Hub(where, load_key(options["poolKeyFile"] or KEY_FILE))
        try:
            hub.check()
        except BatchSystemError:
            hub.close()
            raise
        largest = pool_options.read_size(options["poolLargest"]) if options["poolLargest"] else None
        return cls(
            hub,
            setup.directory,
            options["poolPriority"],
            options["poolPatience"],
            largest,
            setup.max_cpu,
            setup.max_memory,
        )

    # -- the contract ------------------------------------------------------------------------------------------

    def issue(self, submissions: Sequence[Submission]) -> None:
        """Hand over submissions. Raises NeverFits, BatchSystemError."""
        self._require_open()
        self._check(submissions)
        jobs = {submission.name: Tracked(self._sealer.seal(submission)) for submission in submissions}
        self._add_runs(jobs)
        self._jobs.update(jobs)
        self._queued += len(jobs)
        taken: list[str] = []
        if elapsed() >= self._retry_at:
            try:
                taken = self._hand_over(list(jobs))
            except HubAway as error:
                self._away(error)
        if taken:
            for name in jobs:
                del self._jobs[name]
            raise BatchSystemError(
                f"{taken[0]} is already queued or running; each submission needs a name of its own"
            )

    def cancel(self, names: Iterable[str], grace: float = 0.0) -> None:
        """End these jobs; `grace` in seconds."""
        self._require_open()
        for name in names:
            job = self._jobs.get(name)
            if job is not None and not job.sent:
                self._report(
                    End(
                        name,
                        EndKind.KILLED,
                        reason=Reason.CANCELLED,
                        detail="cancelled before it was submitted",
                    )
                )
            elif name not in self._reported and "." in name:
                self._cancels[name] = min(grace, self._cancels.get(name, math.inf))
                if job is not None:
                    job.cancelled = True
        self._try_to_talk()

    def poll(self, timeout: float) -> list[End]:
        """The ends not yet reported; waits at most `timeout` seconds for one."""
        self._require_open()
        deadline = time.monotonic() + timeout
        while True:
            self._try_to_talk()
            left = deadline - time.monotonic()
            if self._ends or self._was_woken(min(max(left, 0.0), self._seconds_to_wait())) or left <= 0:
                ends, self._ends = self._ends, []
                return ends

    def wake(self) -> None:
        """Make the current or else the next `poll` return at once."""
        with suppress(OSError):
            self._wake_write.send(b"w")

    def list_issued(self, run: str) -> list[str]:
        """Names of queued or running jobs of this run."""
        self._require_open()
        there = self._hub.names(run)
        listed = [name for name in there if name not in self._reported]
        for name in listed:
            self._jobs.setdefault(name, Tracked(None))
        self._add_runs(listed)
        held = [name for name in self._jobs if name.startswith(run + ".") and name not in set(there)]
        return sorted({*listed, *held})

    def running(self) -> list[str]:
        """Names of the jobs that nodes have."""
        self._require_open()
        if elapsed() < self._retry_at:
            return []
        try:
            return [name for name in self._hub.running() if name not in self._reported]
        except HubAway as error:
            self._away(error)
            return []

    def capacity(self) -> Optional[Capacity]:
        """As large as the largest node that was ever seen, or that may come."""
        if self._capacity is None or self._largest is None:
            return self._capacity
        gpus = max(self._capacity.countable[GPUS], self._largest.countable[GPUS])
        return Capacity(
            max(self._capacity.cpu, self._largest.cpu),
            max(self._capacity.memory, self._largest.memory),
            {GPUS: gpus},
        )

    def slots(self, resources: Resources) -> Optional[int]:
        """So many as the nodes that are there can run."""
        if not self._nodes:
            return None
        number = 0
        gpus = resources.countable.get(GPUS, 0)
        for node in self._nodes:
            by_cpu = int(node.cpu / resources.cpu + 1e-6) if resources.cpu else math.inf
            by_memory = node.memory // resources.memory if resources.memory else math.inf
            by_gpus = node.countable[GPUS] // gpus if gpus else math.inf
            fitting = min(by_cpu, by_memory, by_gpus)
            number += int(max(node.cpu, 1) if fitting == math.inf else fitting)
        return number

    def counts(self, name: str) -> bool:
        """Graphics cards of nodes are counted."""
        return name == GPUS

    def queue_room(self) -> int:
        """A job for each free core of the pool, and one more for each core, less what waits."""
        self._require_open()
        if self._trouble is not None:
            return 0
        room = self._free_cores + sum(max(1, int(node.cpu)) for node in self._nodes)
        return max(0, max(2, room) - min(self._queued, len(self._jobs)))

    def set_limits(self, cpu: Optional[float], memory: Optional[int]) -> None:
        """The hub learns of them with the next submission."""
        for name, most in (
            ("max_cpu", round(cpu * 1000) if cpu is not None else None),
            ("max_memory", memory),
        ):
            self._about.pop(name, None)
            if most is not None:
                self._about[name] = most

    def avoid(self, hosts: Collection[str]) -> None:
        """Start nothing of our runs on these machines, while there are others."""
        self._require_open()
        self._avoid = frozenset(hosts)
        self._try_to_talk()

    def close(self) -> None:
        """Free everything; what was submitted goes on."""
        if self._closed:
            return
        with suppress(HubAway):
            if self._trouble is None and self._to_take:
                self._hub.news(self._runs, self._to_take, False)
        self._closed = True
        self._listener.stop()
        self._hub.close()
        self._wake_read.close()
        self._wake_write.close()

    # -- handing over ------------------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if self._closed:
            raise BatchSystemError("this batch system has been closed; make a new one")

    def _check(self, submissions: Sequence[Submission]) -> None:
        seen = set()
        capacity = self.capacity()
        for submission in submissions:
            name, wanted = submission.name, submission.resources
            if name in seen or name in self._jobs:
                raise BatchSystemError(
                    f"{name} is already queued or running; each submission needs a name of its own"
                )
            seen.add(name)
            if capacity is not None and wanted.cpu > capacity.cpu:
                raise NeverFits(name, "cores", wanted.cpu, capacity.cpu)
            if capacity is not None and wanted.memory > capacity.memory:
                raise NeverFits(name, "memory", wanted.memory, capacity.memory)
            gpus = wanted.countable.get(GPUS, 0)
            if capacity is not None and gpus > capacity.countable[GPUS]:
                raise NeverFits(name, GPUS, gpus, capacity.countable[GPUS])

    def _add_runs(self, names: Iterable[str]) -> None:
        for run in {name.rpartition(".")[0] for name in names}:
            if run not in self._runs:
                self._runs[run] = None
                self._next_count = 0.0
                if self._avoid is None:
                    self._avoid = frozenset()  # what an earlier start has avoided is forgotten

    def _hand_over(self, names: Sequence[str]) -> list[str]:
        """Submit what was not; the names that are taken, and then none of these was submitted."""
        jobs = [job.given for name in names if (job := self._jobs.get(name)) and job.given and not job.sent]
        if not jobs:
            return []
        taken = self._hub.submit({job.name.rpartition(".")[0]: self._about for job in jobs}, jobs)
        if not taken:
            for given in jobs:
                self._jobs[given.name].sent = True
        return taken

    # -- hearing -----------------------------------------------------------------------------------------------

    def _try_to_talk(self) -> None:
        now = elapsed()
        if now < self._retry_at:
            return
        try:
            self._talk(now)
        except HubAway as error:
            self._away(error)
        else:
            if self._trouble is not None:
                log.warning("the hub %s answers again", self._hub.address)
            self._trouble, self._failures = None, 0

    def _away(self, error: HubAway) -> None:
        if self._trouble is None:
            log.warning("%s. What is submitted waits here, what runs goes on.", error)
        self._trouble = error
        self._retry_at = elapsed() + _PAUSES[min(self._failures, len(_PAUSES) - 1)]
        self._failures += 1
        self._next_count = 0.0
        for job in self._jobs.values():
            job.nobody_knows()

    def _talk(self, now: float) -> None:
        for name in self._hand_over([name for name, job in self._jobs.items() if not job.sent]):
            self._report(End(name, EndKind.LOST, detail=f"the hub has another job of the name {name}"))
        if self._cancels:
            grace_of, self._cancels = self._cancels, {}
            try:
                self._cancel_now(grace_of)
            except HubAway:
                self._cancels = {**grace_of, **self._cancels}
                raise
        if self._avoid is not None:
            for run in self._runs:
                self._hub.avoid(run, self._avoid)
            self._avoid = None
        if self._listener.take() or now >= self._next_news or self._to_take or now >= self._next_count:
            self._ask(now)

    def _cancel_now(self, grace_of: dict[str, float]) -> None:
        for grace in sorted(set(grace_of.values())):
            names = [name for name, its in grace_of.items() if its == grace]
            for name in self._hub.cancel(names, grace):
                detail = "cancelled before it was started"
                if name in self._jobs:
                    self._report(End(name, EndKind.KILLED, reason=Reason.CANCELLED, detail=detail))

    def _ask(self, now: float) -> None:
        self._next_news = now + _ASK_SECONDS
        count = now >= self._next_count
        if count:
            self._next_count = now + _COUNT_SECONDS
        taken, self._to_take = self._to_take, []
        news = self._hub.news(self._runs, taken, count)
        for name, signed in news["ends"]:
            self._hear(name, signed)
        if count:
            self._queued = int(news["queued"])
            self._measure(news)
            self._compare(now, set(news["jobs"]))

    def _hear(self, name: str, signed: str) -> None:
        if name in self._reported:
            self._to_take.append(name)
        elif name in self._jobs:
            try:
                stored = self._hub.key.read(END, signed)
                end = end_from_json(stored)
                if end.name != name:
                    raise Forged(f"it is the end of {end.name}")
            except Forged as why:
                log.warning("the hub told of an end of %s that is not believed: %s", name, why)
                self._to_take.append(name)
                return
            if self._jobs[name].cancelled and end.kind is EndKind.LOST:
                end = End(name, EndKind.KILLED, reason=Reason.CANCELLED, detail=end.detail, host=end.host)
            self._to_take.append(name)
            self._report(end)

    def _report(self, end: End) -> None:
        del self._jobs[end.name]
        self._cancels.pop(end.name, None)
        self._ends.append(end)
        self._reported[end.name] = None
        while len(self._reported) > _KEPT_ENDS:
            del self._reported[next(iter(self._reported))]

    def _measure(self, news: dict[str, list[str]]) -> None:
        """Sizes of the nodes, and what is free there."""
        sizes = [size.split(" ") for size in news["sizes"]]
        self._nodes = [_capacity(cpu, memory, gpus) for cpu, memory, gpus, *_ in sizes]
        self._free_cores = sum(int(free.split(" ")[0]) // 1000 for free in news["free"])
        self._longest_timeout = max(self._longest_timeout, *(int(t) / 1000 for t in news["timeouts"]), 0.0)
        cpu, memory, gpus = news["largest"]
        self._capacity = _capacity(cpu, memory, gpus or "0") if cpu and memory else None

    def _compare(self, now: float, there: set[str]) -> None:
        """What the hub has forgotten, what it should have, and what no node can ever run."""
        grace = _TIMEOUTS_OF_PATIENCE * (self._longest_timeout or _NODE_TIMEOUT)
        largest = self.capacity() if self._nodes else None
        for name, job in list(self._jobs.items()):
            if name in there:
                job.is_there()
                end = job.never_fits(name, now, largest, self._patience) if largest is not None else None
                # Nothing is said of it before it is certain that it will not begin.
                if end is not None and self._hub.cancel([name], 0.0):
                    self._report(end)
            elif job.sent:
                self._next_count = min(self._next_count, now + grace / 8)
                self._is_missing(name, job, job.is_missing(now, grace))
        for name in there:
            if name in self._reported and name not in self._cancels:
                self._cancels[name] = 0.0  # it came back as it was before

    def _is_missing(self, name: str, job: Tracked, verdict: Missing) -> None:
        if verdict is Missing.OVER:
            self._report(job.end_of_missing(name))
        elif verdict is Missing.AGAIN:
            log.warning("the hub has lost %s, which is submitted again", name)

    # -- waiting -----------------------------------------------------------------------------------------------

    def _seconds_to_wait(self) -> float:
        now = elapsed()
        moment = max(self._retry_at, min(self._next_news, self._next_count))
        return max(0.0, min(moment - now, _ASK_SECONDS)) if not self._cancels else 0.05

    def _stir(self) -> None:
        """There is news: called by the listener's thread."""
        with suppress(OSError):
            self._wake_write.send(b"n")

    def _was_woken(self, seconds: float) -> bool:
        """Wait for news or `wake`; whether it was `wake`."""
        self._wake_read.settimeout(seconds)
        woken = False
        try:
            while data := self._wake_read.recv(4096):
                woken = woken or b"w" in data
                self._wake_read.settimeout(0)
        except (BlockingIOError, TimeoutError, socket.timeout):
            pass
        return woken


def _capacity(cpu: str, memory: str, gpus: str) -> Capacity:
    return Capacity(int(cpu) / 1000, int(memory), {GPUS: int(gpus)})
