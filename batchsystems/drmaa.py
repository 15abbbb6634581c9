"""DRMAA as a batch system: any scheduler that comes with a DRMAA library.

    python pipeline.py --batchSystem drmaa --drmaaLibrary /opt/pbs/lib/libdrmaa.so --drmaaSystem pbs --jobTree tree

Grid Engine is one of them, about which more can be known: `batchsystems.grid_engine`, `--batchSystem gridEngine`.
What must hold, besides what holds for all schedulers (`batchsystems.scheduler`)

  - The library is loaded by another process (`drmaa_session`), which is killed when it does not answer: a library that
    hangs or crashes holds up nothing but submissions.
  - What is ready together is submitted together (`runBulkJobs`), where the system has arrays.
  - A later instance opens the same session again (its contact is kept) and asks for the jobs that were noted. What the
    library does not know any more is lost as far as it is concerned: it is jobtree's own files that tell how it ended.

How it fails: a submission to which there was no answer cannot be looked for by name, as DRMAA knows no names; it is
made again after a while. Should both be run, the second finds that the first has begun, and runs nothing.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from typing import Any, ClassVar, Optional

from batchsystems import drmaa_ends, drmaa_library, drmaa_native
from batchsystems.abstract import (
    AbstractBatchSystem,
    BackendOption,
    BatchSystemError,
    Capacity,
    Resources,
    Setup,
)
from batchsystems.drmaa_dialogue import DrmaaDialogue
from batchsystems.drmaa_files import Files
from batchsystems.drmaa_link import Link
from batchsystems.drmaa_options import OPTIONS
from batchsystems.scheduled import Line
from batchsystems.scheduler import SYNC_SECONDS, Scheduler, values_of

log = logging.getLogger("jobtree.drmaa")


class Drmaa(Scheduler):
    """Jobs of some system with a DRMAA library. Options as in `OPTIONS`; `patience`: seconds for which it may be silent
    about a job; `own_run`: whose directory it is. Raises BatchSystemError if no library is found."""

    OPTIONS: ClassVar[tuple[BackendOption, ...]] = OPTIONS

    def __init__(
        self, directory: str, options: dict[str, Any], patience: float = 60.0, own_run: str = ""
    ) -> None:
        self._options = values_of(OPTIONS, options)
        drmaa_library.require_package()
        self._library = drmaa_library.find(self._options["drmaaLibrary"], os.environ)
        env = drmaa_library.environment(self._library, os.environ)
        files = Files(directory)
        self._link = Link(env, files.contact)
        self._drmaa = self._talk(files, patience)
        super().__init__(
            self._drmaa,
            dict(os.environ),
            own_run,
            self._options["drmaaMaxJobs"] or 0,
            self._options["drmaaTime"],
        )

    def _talk(self, files: Files, patience: float) -> DrmaaDialogue:
        system = drmaa_native.SYSTEMS[self._options["drmaaSystem"] or "other"]
        template = self._options["drmaaRequest"] or system.request
        more = self._options["drmaaNativeSpec"] or ""
        return DrmaaDialogue(
            drmaa_ends, os.environ, files, self._link,
            lambda request: drmaa_native.native(template, request, more),
            system.variable, patience, self._options["drmaaInterval"],
        )  # fmt: skip

    @classmethod
    def create(cls, setup: Setup) -> AbstractBatchSystem:
        """Make one, and have the library open a session. Grid Engine's own where it is there."""
        kind = cls.kind_for(setup.options.get("drmaaSystem"))
        made = kind(setup.directory, dict(setup.options), own_run=setup.run)
        try:
            made.check()
        except BatchSystemError:
            made.close()
            raise
        return made

    @classmethod
    def kind_for(cls, system: Optional[str]) -> type[Drmaa]:
        """The class for a system; None: whatever is here."""
        if cls is not Drmaa:
            return cls
        from batchsystems.grid_engine import GridEngine  # which is one of these

        here = bool(os.environ.get("SGE_ROOT")) and shutil.which("qconf") is not None
        return GridEngine if system == "gridEngine" or (system is None and here) else Drmaa

    def check(self) -> None:
        """Open a session. Raises BatchSystemError if the library cannot be used; one that is away is no error."""
        self._link.start()
        deadline = time.monotonic() + SYNC_SECONDS
        while self._link.is_there() and not self._link.opened and time.monotonic() < deadline:
            self._dialogue.turn()
            self._dialogue.wait(min(deadline, time.monotonic() + 0.5))
        if self._link.refused is not None and not self._link.refused[0].startswith("DrmCommunication"):
            raise BatchSystemError(drmaa_library.explain(*self._link.refused, self._library))

    def capacity(self) -> Optional[Capacity]:
        """Graphics cards are not among what is counted."""
        found = super().capacity()
        return Capacity(found.cpu, found.memory) if found is not None else None

    def slots(self, resources: Resources) -> Optional[int]:
        """The same here."""
        return super().slots(Resources(resources.cpu, resources.memory, resources.time))

    def _ask_for_all(self, key: str) -> list[Line]:
        numbers = self._drmaa.know_noted(key)
        question = self._link.ask("states", ids=numbers)
        deadline = time.monotonic() + SYNC_SECONDS
        answer = question.answer()
        while answer is None and time.monotonic() < deadline:
            self._dialogue.turn()
            self._dialogue.wait(min(deadline, time.monotonic() + 0.5))
            answer = question.answer()
        if answer is None or answer.status != 0:
            words = answer.words if answer is not None else "no answer in time"
            raise BatchSystemError(f"the batch system cannot be asked now: {words}")
        return self._drmaa.lines(json.loads(answer.out)["states"])
