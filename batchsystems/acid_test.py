"""A single machine on which half of all bundles are killed: for proving that a pipeline survives that.

    python pipeline.py --batchSystem acidTest --jobTree somewhere

What must hold
  - It is a coin thrown for each bundle, with a seed: `--acidTestSeed` throws the same coins again. The seed and the
    number of the bundle decide, nothing else; when the bundles themselves differ from run to run, so do the victims.
  - A victim is killed with SIGKILL, its whole process group, at a moment between its start and the time that bundles
    have been taking lately; the start and the end of a worker are met as well as its middle. One that has ended before
    its moment is made up for by another one, so that in the long run it is half.
  - The run ends. Being killed from outside is a loss, and `--maxLost` losses in a row fail a job. So whoever issues the
    bundles says whom to spare: those with a job that cannot afford another loss. With `--maxLost 1` that is everybody.

How it differs from the single machine: in nothing else, and with `chance=0` not at all.
"""

from __future__ import annotations

import random
import signal
import time
from typing import Callable, Optional

from batchsystems.abstract import Submission
from batchsystems.processes import Starter
from batchsystems.single_machine import Shape, SingleMachine

_FIRST_GUESS_SECONDS = 0.05
_WEIGHT_OF_THE_LATEST = 0.2


class AcidTest(SingleMachine):
    """A single machine that kills bundles.

    `chance` is how many of them, 0 to 1; `seed` decides which, by default another one each time; `spare(name)`
    is asked before a bundle is killed and says whether that must not be. The rest is as in `SingleMachine`.
    """

    def __init__(
        self,
        cpu: Optional[float] = None,
        memory: Optional[int] = None,
        starter: Optional[Starter] = None,
        seed: Optional[int] = None,
        chance: float = 0.5,
        spare: Callable[[str], bool] = lambda name: False,
        gpus: Optional[int] = None,
    ) -> None:
        super().__init__(cpu, memory, starter, gpus)
        self.seed = random.SystemRandom().randrange(1, 1 << 31) if seed is None else seed
        self.started = 0
        self.killed = 0
        self._chance = chance
        self._spare = spare
        self._owed = 0
        self._typical = _FIRST_GUESS_SECONDS
        self._began: dict[str, float] = {}
        self._doomed: dict[str, float] = {}  # the moment of death, on the monotonic clock
        self._victims: set[str] = set()

    def _start(self, name: str, submission: Submission, shape: Shape) -> None:
        super()._start(name, submission, shape)
        self.started += 1
        now = self._began[name] = time.monotonic()
        coins = random.Random(f"{self.seed} {name.rpartition('.')[2]}")
        chosen = coins.random() < self._chance
        if not chosen and self._owed:
            self._owed -= 1
            chosen = True
        if chosen:
            self._doomed[name] = now + coins.random() * self._typical

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for name in [name for name, moment in self._doomed.items() if moment <= now]:
            del self._doomed[name]
            if not self._spare(name):
                self._starter.signal(name, signal.SIGKILL)
                self._victims.add(name)
        super()._kill_overdue()

    def _wait(self, deadline: float) -> bool:
        return super()._wait(min([deadline, *self._doomed.values()]))

    def _collect(self) -> None:
        before = set(self._running)
        super()._collect()
        for name in before.difference(self._running):
            took = time.monotonic() - self._began.pop(name)
            if name in self._victims:
                self._victims.remove(name)
                self.killed += 1
                continue
            self._typical += _WEIGHT_OF_THE_LATEST * (took - self._typical)
            if self._doomed.pop(name, None) is not None:
                self._owed += 1
