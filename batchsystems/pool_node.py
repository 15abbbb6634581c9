"""A node of a pool: takes jobs from the hub that fit what this machine has free, runs them, and tells how they ended.

What must hold
  - It runs only what its user has signed (batchsystems.pool_signing), in the resources that were claimed for it.
  - Never twice at once. Its jobs live on a lease: `pool_watch.LEASE` of its timeout after the beginning of the last
    beat that the hub has answered it kills them all, and after a little more its guard does (batchsystems.pool_guard),
    while the hub gives them to others after all of the timeout at the earliest. Nothing is started after the lease
    either. What was killed so is no end of the job: it goes back.
  - What the hub says counts. A beat names what runs here; the hub answers with what it has given to somebody else
    (killed here), what it does not know any more (told again), and what it has given to us and we do not have: its
    answer was lost, so it is started now, unless it has ended here; then its end is told again.
  - An end is kept until the hub has taken it, and for long after that, because a hub can come back as it was before.
  - The node may be killed at any moment. Its jobs die with it, by the kernel and the guard, and go back in time.

Everything but waiting for news happens in one thread; a second one waits, and wakes the first.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import signal
import socket
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any, Optional

from batchsystems import pool_jobs, pool_watch
from batchsystems.abstract import BatchSystemError, End, EndKind, Reason, Resources
from batchsystems.pool_hub import Given, Hub, HubAway, elapsed
from batchsystems.pool_jobs import GuardedStarter
from batchsystems.pool_listener import Listener
from batchsystems.pool_sealing import GPUS, milli, open_sealed
from batchsystems.pool_signing import END, Forged, end_as_json
from batchsystems.single_machine import SingleMachine

log = logging.getLogger("batchsystems.pool")

_MOST_JOBS = 200
_MOST_AT_ONCE = 32
_OVERTAKINGS = 64
"""After so many later jobs an earlier one is next; see batchsystems.pool_claim."""
_ENDS_KEPT = 10_000
_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds between tries to reach a hub that does not answer."""
_TURN_SECONDS = 1.0
"""So often is asked while another user of this machine comes first."""

_BEATS_BETWEEN_SWEEPS = 500
_FORGET_DAYS = 30

_WELL, _BLAMED, _SAYS_NOTHING = 0, 1, 2


@dataclass(frozen=True)
class NodeSettings:
    """What a node is started with.

    `cpu`, `memory` (bytes)  what its jobs may have together
    `gpus`      graphics cards that its jobs may have, numbered from 0; None: those that this process may use
    `timeout`   seconds of silence after which it is abandoned
    `place`     nodes with the same one share a machine; "": none does
    `grace`     seconds that jobs have to end when the node is told to
    `idle`      seconds without a job after which it ends; None: never
    `lifetime`  seconds after which it takes nothing more, and ends with its last job; None: never
    `rest`      seconds for which a sick node is rested the first time
    """

    cpu: float
    memory: int
    timeout: float = 120.0
    place: str = ""
    grace: float = 10.0
    idle: Optional[float] = None
    lifetime: Optional[float] = None
    rest: float = 60.0
    gpus: Optional[int] = None
    host: str = field(default_factory=socket.gethostname)


class Node:
    """One node; `run` returns when it has ended."""

    def __init__(self, hub: Hub, settings: NodeSettings) -> None:
        self.name = f"{settings.host}-{os.getpid()}-{secrets.token_hex(2)}"
        # Whoever waits for a hub that has gone kills nothing, so it must not take long beside the lease.
        hub.answer_within(settings.timeout / 8)
        self._hub = hub
        self._settings = settings
        self._starter = GuardedStarter(settings.timeout * pool_watch.GUARD)
        self._machine = SingleMachine(settings.cpu, settings.memory, self._starter, settings.gpus)
        self._gpus = self._machine.capacity().countable[GPUS]
        self._watch = pool_watch.Watch(pool_watch.period(settings.timeout))
        self._listener = Listener(hub, lambda: [self.name], self._machine.wake)
        self._jobs: dict[str, tuple[Given, Resources]] = {}
        self._dropped: set[str] = set()  # those that run here no more, and whose ends are no news
        self._fenced: set[str] = set()  # the same; they go back
        self._back: set[str] = set()
        self._asked: dict[str, float] = {}
        self._to_tell: OrderedDict[str, End] = OrderedDict()
        self._ended: OrderedDict[str, End] = OrderedDict()
        self._beats = 0
        self._answered = -math.inf  # when the last beat that was answered had begun
        self._next_beat = self._next_claim = self._retry_at = 0.0
        self._failures = 0
        self._stopped_by = 0
        self._taking = True
        self._busy_at = self._started = elapsed()

    # -- its life ----------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Take and run jobs until told to end; returns an exit status."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._on_signal)
        log.info(
            "node %s: %g cores, %d MiB, for %s at %s", self.name, self._settings.cpu, self._settings.memory >> 20,
            self._hub.identity, self._hub.address,
        )  # fmt: skip
        self._listener.start()
        try:
            while not self._is_over():
                self._turn()
            self._leave()
        finally:
            self._listener.stop()
            self._machine.close()
        return 0

    def _on_signal(self, number: int, _: Optional[FrameType]) -> None:
        if number == signal.SIGUSR1:
            self._taking = False
        else:
            self._stopped_by = number
        self._machine.wake()

    def _turn(self) -> None:
        now = elapsed()
        self._end_if_told()
        self._kill_after_lease(now)
        if now >= self._retry_at:
            try:
                self._talk(now)
                self._failures = 0
            except HubAway as error:
                self._watch.pause()
                self._retry_at = elapsed() + _PAUSES[min(self._failures, len(_PAUSES) - 1)]
                if self._failures == 0:
                    left = max(0.0, self._lease_left(now))
                    log.warning("%s. The jobs here, %d, may go on for %.0f s.", error, len(self._jobs), left)
                self._failures += 1
        self._hear(self._machine.poll(self._seconds_to_wait()))

    def _seconds_to_wait(self) -> float:
        now = elapsed()
        if self._to_tell and self._retry_at <= now:
            return 0.0
        moments = [max(self._next_beat, self._retry_at), max(self._next_claim, self._retry_at)]
        if self._jobs:
            moments.append(self._answered + self._settings.timeout * pool_watch.LEASE)
        return max(0.0, min(min(moments) - now, 1.0))

    def _is_over(self) -> bool:
        if self._settings.lifetime is not None and elapsed() - self._started > self._settings.lifetime:
            self._taking = False
        if self._jobs:
            self._busy_at = elapsed()
        idle = self._settings.idle is not None and elapsed() - self._busy_at > self._settings.idle
        return not self._jobs and (self._stopped_by > 0 or not self._taking or idle)

    def _end_if_told(self) -> None:
        if self._stopped_by and self._taking:
            self._taking = False
            log.info("node %s was told to end (signal %d), and ends its jobs", self.name, self._stopped_by)
            self._machine.cancel(list(self._jobs), self._settings.grace)

    def _leave(self) -> None:
        """Tell the last ends and sign off; a hub that does not answer now finds out by itself."""
        deadline = elapsed() + self._settings.grace
        while True:
            try:
                self._beat(elapsed())  # hands back what has to go back
                self._claim(0)
                self._hub.leave(self.name, self._settings.place)
                return
            except HubAway as error:
                if elapsed() > deadline:
                    log.warning("%s. What node %s had there goes back after its timeout.", error, self.name)
                    return
                time.sleep(_PAUSES[0])

    # -- the hub -----------------------------------------------------------------------------------------------

    def _talk(self, now: float) -> None:
        news = self._listener.take()
        if now >= self._next_beat:
            self._beat(now)
            self._next_claim = 0.0
        elif news:
            self._cancel(self._hub.cancels(self.name))
        if news or self._to_tell or now >= self._next_claim:
            self._claim(min(_MOST_AT_ONCE, _MOST_JOBS - len(self._jobs)) if self._taking else 0)

    def _beat(self, now: float) -> None:
        settings = self._settings
        self._beats += 1
        period = pool_watch.period(settings.timeout)
        about = {
            "host": settings.host, "pid": os.getpid(), "place": settings.place, "timeout": settings.timeout,
            "started": time.time() - (now - self._started), "taking": self._taking,
        }  # fmt: skip
        health = {"at": time.time(), **pool_jobs.measure(self._starter.groups())}
        back = list(self._back)
        answer = self._hub.beat(
            self.name, self._beats, json.dumps(about), round(settings.cpu * 1000), settings.memory, settings.host,
            round(settings.timeout * 1000), round(period * 1000), json.dumps(health),
            json.dumps([*self._jobs, *self._to_tell]), json.dumps(back), self._gpus,
        )  # fmt: skip
        self._answered = now
        self._starter.answered(now)
        self._next_beat = now + period
        self._back.difference_update(back)
        unknown = [self._jobs[name][0] for name in answer["unknown"] if name in self._jobs]
        if unknown:
            self._hub.claim_running(self.name, unknown)
        for name in answer["kill"]:
            self._drop(name)
        for given in answer["again"]:
            self._start(Given(*given))
        self._cancel({name: float(grace) for name, grace in dict(answer["cancel"]).items()})
        self._look_after_others(answer.get("watch"))

    def _look_after_others(self, watch: Optional[dict[str, Any]]) -> None:
        if watch is None:
            self._watch.pause()
            return
        timeouts = {node: float(ms) / 1000 for node, ms in dict(watch["timeouts"]).items()}
        verdict = self._watch.look(elapsed(), dict(watch["beats"]), timeouts, watch["recovering"] or None)
        for node, beat in verdict.silent:
            jobs = self._hub.abandon(node, beat)
            if jobs >= 0:
                log.warning("node %s is silent, and is abandoned: %d jobs go back", node, jobs)
        if verdict.recovered is not None:
            self._hub.recovered(verdict.recovered)
        if self._beats % _BEATS_BETWEEN_SWEEPS == 1:
            self._hub.sweep(_FORGET_DAYS)

    def _claim(self, most: int) -> None:
        """Tell ends, and take what fits."""
        settings = self._settings
        told = list(self._to_tell.items())
        ends = [
            [name, self._hub.key.sign(END, end_as_json(end)), _blame(end), end.detail[:200]]
            for name, end in told
        ]
        cpu = round(settings.cpu * 1000) - sum(milli(wanted) for _, wanted in self._jobs.values())
        gpus = self._gpus - sum(wanted.countable[GPUS] for _, wanted in self._jobs.values())
        memory = settings.memory - sum(wanted.memory for _, wanted in self._jobs.values())
        why, given = self._hub.claim(
            self.name, settings.host, cpu, memory, round(settings.cpu * 1000), settings.memory, most, _OVERTAKINGS,
            settings.rest, settings.place, json.dumps(ends), gpus, self._gpus,
        )  # fmt: skip
        for name, end in told:
            del self._to_tell[name]
            self._ended[name] = end
        while len(self._ended) > _ENDS_KEPT:
            self._ended.popitem(last=False)
        for one in given:
            self._start(one)
        if why == "unknown":
            self._next_beat = 0.0  # the hub does not know us (any more)
        full = len(given) >= most > 0
        self._next_claim = 0.0 if full else elapsed() + _TURN_SECONDS if why == "turn" else math.inf

    # -- jobs --------------------------------------------------------------------------------------------------

    def _start(self, given: Given) -> None:
        if given.name in self._ended:
            self._to_tell[given.name] = self._ended.pop(given.name)  # a hub that came back as it was before
            return
        if given.name in self._jobs or given.name in self._to_tell:
            return
        try:
            submission = open_sealed(self._hub.key, self._hub.identity, given)
        except Forged as why:
            log.warning("%s is not run: %s", given.name, why)
            self._tell(End(given.name, EndKind.LOST, detail=f"node {self.name} has refused it: {why}"))
            return
        if self._lease_left(elapsed()) <= 0:
            self._back.add(given.name)
            return
        try:
            self._machine.issue([submission])
        except BatchSystemError as error:
            self._tell(End(given.name, EndKind.LOST, detail=str(error)))
            return
        self._jobs[given.name] = (given, submission.resources)
        log.info("%s is started", given.name)

    def _hear(self, ends: Iterable[End]) -> None:
        """What has ended here: news, unless we were not to run it any more."""
        late = self._lease_left(elapsed()) <= 0
        for end in ends:
            del self._jobs[end.name]
            asked = self._asked.pop(end.name, None)
            if end.name in self._dropped:
                self._dropped.discard(end.name)
            elif end.name in self._fenced or (late and end.signal == signal.SIGKILL):
                # Also where the guard was faster than we. It may run elsewhere soon, and this is no end.
                self._fenced.discard(end.name)
                self._back.add(end.name)
            elif end.reason is Reason.CANCELLED and asked is None:
                detail = f"the node {self.name} was told to end"
                self._tell(replace(end, reason=Reason.NODE, detail=detail))
            else:
                self._tell(end)

    def _tell(self, end: End) -> None:
        self._to_tell[end.name] = replace(end, host=self._settings.host)
        log.info(
            "%s has ended: %s %s", end.name, end.kind.value, end.status if end.status is not None else ""
        )

    def _cancel(self, wanted: dict[str, float]) -> None:
        for name, grace in wanted.items():
            if name in self._jobs and grace < self._asked.get(name, math.inf):
                self._asked[name] = grace
                self._machine.cancel([name], grace)

    def _drop(self, name: str) -> None:
        """Somebody else has it: kill it if it runs here, and say nothing of it."""
        self._to_tell.pop(name, None)
        if name in self._jobs:
            log.warning("%s was given to another node, and is killed here", name)
            self._dropped.add(name)
            self._machine.cancel([name])

    def _lease_left(self, now: float) -> float:
        return self._answered + self._settings.timeout * pool_watch.LEASE - now

    def _kill_after_lease(self, now: float) -> None:
        running = [name for name in self._jobs if name not in self._fenced and name not in self._dropped]
        if running and self._lease_left(now) <= 0:
            log.warning(
                "the hub has not answered for too long: %d jobs are killed, and go back", len(running)
            )
            self._fenced.update(running)
            self._machine.cancel(running)


def _blame(end: End) -> int:
    """Whether the end of a job says something of the node: that it could not be run there at all, or that it was."""
    if end.kind is EndKind.LOST:
        return _BLAMED
    if end.kind is EndKind.KILLED:
        return _SAYS_NOTHING
    # Not found, not executable; and by sysexits.h: something that the program needs is not there.
    cannot = end.status in (126, 127) or (
        end.status is not None and os.EX_USAGE <= end.status <= os.EX_CONFIG
    )
    return _BLAMED if cannot else _WELL
