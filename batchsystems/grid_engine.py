"""Grid Engine as a batch system, through its DRMAA library.

    python pipeline.py --batchSystem gridEngine --drmaaNativeSpec '-q short.q' --jobTree /shared/tree

What must hold, besides what holds for all schedulers (`batchsystems.scheduler`) and for DRMAA (`batchsystems.drmaa`)

  - Jobs are known by the name of their array, which nobody else has. A submission to which there was no answer is
    looked for in the queue and in the accounts before it is made again.
  - Ends are heard from the session, from the node (`on_node` writes them down), and from `qacct`, whichever comes
    first: no session hears of a job that ended while there was none, and after a restart of `sge_qmaster` the ends of
    jobs of sessions are held back for ten minutes.
  - What asks for more than any machine has is refused by Grid Engine (`-w e`), and its targets fail with its words.

How it fails: a qmaster that is down for any time delays what is submitted, and changes nothing else.
"""

from __future__ import annotations

import logging
import os
import pwd
import shutil
from collections.abc import Callable, Sequence
from typing import Optional

from batchsystems import grid_engine_commands as commands
from batchsystems.abstract import BatchSystemError, Capacity
from batchsystems.commands import Answer
from batchsystems.drmaa import Drmaa
from batchsystems.drmaa_dialogue import DrmaaDialogue
from batchsystems.drmaa_files import Files
from batchsystems.grid_engine_commands import ROOM_MEBIBYTES, Site
from batchsystems.grid_engine_dialogue import GridEngineDialogue
from batchsystems.scheduled import Line, Node, Refusal, why_refused

log = logging.getLogger("jobtree.drmaa")

_MOST_HOSTS = 100
_USUAL_PES = ("smp", "shm", "threaded", "threads", "openmp", "serial", "make")


class GridEngine(Drmaa):
    """Jobs of Grid Engine. See `Drmaa`."""

    def _talk(self, files: Files, patience: float) -> DrmaaDialogue:
        for program in ("qstat", "qdel", "qacct", "qconf"):
            if shutil.which(program) is None:
                raise BatchSystemError(
                    f"Grid Engine's command {program} is not on PATH. Start this where Grid Engine's commands work (a "
                    "submit host; perhaps '. $SGE_ROOT/default/common/settings.sh')."
                )
        more = self._options["drmaaNativeSpec"] or ""
        own = commands.OWN_ARGUMENTS.intersection(more.split())
        if own:
            raise BatchSystemError(
                f"{', '.join(sorted(own))} is given by jobtree itself; expected other arguments of qsub in "
                f"--drmaaNativeSpec, which is {more!r}"
            )
        # Its commands may speak other languages.
        self._commands_env = {**os.environ, "LC_ALL": "C"}
        self._user = _user()
        self._engine = GridEngineDialogue(
            self._commands_env, files, self._link, self._user, more, patience, self._options["drmaaInterval"]
        )
        try:
            self._look()
        except BatchSystemError:
            self._engine.close()
            raise
        return self._engine

    def _look(self) -> None:
        options = self._options
        site = read_site(self._ask, options["drmaaMemory"], options["drmaaPe"])
        self._engine.site, self._engine.nodes = site, site.nodes

    def _ask(self, arguments: Sequence[str]) -> Answer:
        from batchsystems.scheduler import ask

        return ask(arguments, self._commands_env)

    def capacity(self) -> Optional[Capacity]:
        """The largest machine, but for the processes around the command."""
        found = super().capacity()
        if found is None:
            return None
        cpus = found.cpu if self._engine.site.pe else 1
        return Capacity(cpus, max(0, found.memory - (ROOM_MEBIBYTES << 20)))

    def _turn(self) -> None:
        super()._turn()
        if not self._engine.site.known and self._engine.answers:
            self._engine.answers = False  # it was away when this was made; once is enough
            try:
                self._look()
            except BatchSystemError as error:
                log.warning("%s", error)

    def _ask_for_all(self, key: str) -> list[Line]:
        answer = self._ask(commands.qstat(self._user))
        lines = self._engine.read_queue(answer) if answer.status == 0 else None
        if lines is None:
            raise BatchSystemError(f"Grid Engine cannot be asked now: {answer.words}")
        return [line for line in lines if line.run == key]


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return os.environ.get("USER", str(os.getuid()))


class _Away(Exception):
    """There was no answer, which is not the answer that there is nothing."""


def read_site(ask: Callable[[Sequence[str]], Answer], memory: str, pe: Optional[str]) -> Site:
    """Ask for it. Raises BatchSystemError if what was chosen is not there; a qmaster that is away is no error."""

    def answered(arguments: Sequence[str]) -> Answer:
        answer = ask(arguments)
        kind = why_refused(answer.status, answer.words, commands.REFUSALS)
        if answer.status != 0 and kind in (Refusal.AWAY, Refusal.UNKNOWN):
            raise _Away
        return answer

    try:
        return _read_site(answered, memory, pe)
    except _Away:
        return Site(memory=memory, pe=pe)


def _read_site(ask: Callable[[Sequence[str]], Answer], memory: str, pe: Optional[str]) -> Site:
    """The same; `_Away` if one of the questions was not answered."""
    complexes = ask(["qconf", "-sc"])
    if complexes.status != 0:
        raise _Away
    counted = commands.read_consumable(complexes.out, memory) if memory else None
    if memory and counted is None:
        raise BatchSystemError(
            f"Grid Engine has no resource {memory!r}, by which memory would be asked for; 'qconf -sc' shows what there "
            "is. Name another one with --drmaaMemory, or none: --drmaaMemory ''."
        )
    chosen = _choose_pe(ask, pe)
    nodes = []
    for number, (host, (slots, usable)) in enumerate(
        sorted(commands.read_instances(ask(["qstat", "-f", "-xml"]).out).items())
    ):
        most, size = None, 1 << 60  # where there are too many to ask for each
        if number < _MOST_HOSTS:
            most, size = commands.read_host(ask(["qconf", "-se", host]).out, memory)
        nodes.append(Node(host, slots if most is None else min(slots, most), size, usable))
    return Site(True, tuple(node for node in nodes if node.cpus), chosen, memory, counted != "JOB")


def _choose_pe(ask: Callable[[Sequence[str]], Answer], wanted: Optional[str]) -> Optional[str]:
    """The parallel environment for several cores of one machine."""
    there = ask(["qconf", "-spl"]).out.split()
    if wanted is not None and wanted not in there:
        raise BatchSystemError(
            f"Grid Engine has no parallel environment {wanted!r}; it has: {', '.join(there) or 'none'} (--drmaaPe)"
        )
    good = [
        name for name in ([wanted] if wanted else there) if "$pe_slots" in ask(["qconf", "-sp", name]).out
    ]
    if wanted and not good:
        raise BatchSystemError(
            f"the parallel environment {wanted!r} of Grid Engine may give a job slots on several machines; expected "
            "one with allocation_rule $pe_slots ('qconf -sp NAME' shows it), for --drmaaPe"
        )
    usual = [name for name in _USUAL_PES if name in good]
    if len(good) == 1 or usual:
        return (usual or good)[0]
    if good:
        log.warning(
            "Grid Engine has several parallel environments (%s). Say with --drmaaPe which one jobs of several cores "
            "are to use; without it they are refused.", ", ".join(good),
        )  # fmt: skip
    return None
