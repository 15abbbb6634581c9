"""A master and its workers in lock step, so that every durable effect of all of them has a number.

The master runs in this process, the real one, started by ``run.execute`` as a user's command does. Its batch system is
the fake, which passes the conformance suite. Each bundle that it issues is run by the real worker (``run_bundle``) in a
forked process, which tells us of each effect through a pipe before it happens, and waits. So only one process does
something at any moment, and what a run does depends on nothing but the scenario.

What must not happen is looked for while it runs, over all lives of the master
  - a target runs twice at one time, or before what it follows from has ended;
  - a target runs again although something that follows from it has begun: then what it followed from was not durable;
  - a line of ``logToMaster`` is told twice;
and ``compare`` looks at the end at all that is left, in the database and beside it.
"""

from __future__ import annotations

import logging
import multiprocessing.connection
import os
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Optional

from batchsystems.abstract import Reason
from jobtree import attempt, bundles, clock, files, filesystems, processtree, run, soundness, tempdirs, worker
from jobtree.frames import Measures
from jobtree.master import Master
from jobtree.options import Settings
from jobtree.paths import TreePaths
from jobtree.removals import Remover
from jobtree.store import Store
from tests.crash import effects
from tests.crash.disk import Disk, Effect, Image
from tests.crash.effects import Stopped
from tests.crash.scenario import PLANS, TREE, Step, value, who_needs_whom
from tests.fakes.fake_batch_system import FakeBatchSystem
from tests.fakes.master_scene import check_rows, query_rows

STEPS = 3
"""How many effects a worker has before the master and the other workers have their turn."""

NEEDS = who_needs_whom()
FOLLOWERS = {name: [other for other in NEEDS if name in NEEDS[other]] for name in NEEDS}


class Wrong(AssertionError):
    """Something happened that must not."""


class Event(NamedTuple):
    """Something that was seen: after so many effects, "begins", "ends", "fails", "dies" or "told"; of what; where."""

    after: int
    kind: str
    what: str
    where: str = ""


class Observer:
    """What has happened so far, over all crashes; ``events`` of earlier lives, and what must not happen again."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.events: list[Event] = []
        self.runs: Counter[str] = Counter()
        self.ended: set[str] = set()
        self.told: Counter[str] = Counter()
        self.troubled: set[str] = set()
        self._running: dict[str, str] = {}
        for event in events:
            self._note(event)

    def see(self, count: int, kind: str, what: str, where: str = "") -> int:
        """It happens. Returns how often it has begun. Raises Wrong."""
        if kind == "begins":
            if what in self._running:
                raise Wrong(f"{what} runs twice at one time")
            missing = NEEDS[what] - self.ended
            if missing:
                raise Wrong(f"{what} starts before {sorted(missing)}")
            begun = [other for other in FOLLOWERS[what] if self.runs[other]]
            if begun:
                raise Wrong(f"{what} runs again although {begun[:3]} have begun")
            self._running[what] = where
        elif kind in ("ends", "fails"):
            self._running.pop(what, None)
        self._note(Event(count, kind, what, where))
        if kind == "told" and self.told[what] > 1:
            raise Wrong(f"told twice: {what}")
        return self.runs[what]

    def _note(self, event: Event) -> None:
        self.events.append(event)
        if event.kind == "begins":
            self.runs[event.what] += 1
        elif event.kind == "ends":
            self.ended.add(event.what)
        elif event.kind == "told":
            self.told[event.what] += 1
        else:
            self.troubled.add(event.where.rpartition(".")[2])

    def gone(self, where: str) -> None:
        """What ran there runs no more."""
        self._running = {name: place for name, place in self._running.items() if place != where}


class Told(logging.Handler):
    """Sees what the user reads of targets' messages."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "Got message from job" in text:
            self._world.observer.see(self._world.count, "told", text.rpartition(" : ")[2])


class Remote:
    """The sink of a worker: everything is told to the world, which answers when it may happen.

    in_full: what each effect is. If nobody wants to know, every third one only is told of, which is much faster.
    """

    def __init__(self, connection: Connection, in_full: bool) -> None:
        self._connection = connection
        self._in_full = in_full
        self._untold = 0

    def _ask(self, *message: Any) -> Any:
        self._connection.send(message)
        return self._connection.recv()

    def effect(self, effect: Effect) -> Optional[int]:
        cut: Optional[int] = None
        if self._in_full:
            cut = self._ask("effect", effect._replace(who="worker"))
        else:
            self._untold = (self._untold + 1) % STEPS
            if not self._untold:
                self._ask("pause", "")
        return cut

    def begins(self, name: str) -> int:
        number: int = self._ask("begins", name)
        return number

    def ends(self, name: str, well: bool) -> None:
        self._ask("ends" if well else "fails", name)


class WorkerProcess:
    """One bundle's worker, which stands still at a message unless ``advance`` is called."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self._world = world
        self._connection, other = multiprocessing.connection.Pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            processtree.die_with_parent(parent)
            status = 99
            try:
                self._connection.close()
                effects.sink = Remote(other, world.in_full)
                status = worker.run_bundle(world.paths.root, int(name.rpartition(".")[2]), os.getcwd())
            except EOFError:
                pass  # the world has ended
            except BaseException:  # said in the log's place, and by the exit status
                traceback.print_exc()
            finally:
                worker.exit_now(status)
        other.close()
        self._connection.poll(None)

    def advance(self) -> bool:
        """Let it do one thing. False when it has ended, which the batch system then knows."""
        try:
            kind, what = self._connection.recv()
        except EOFError:
            self._ended()
            return False
        answer: Optional[int] = None
        if kind == "effect":
            answer = self._world.effect(what)
            if answer is not None and (answer == 0 or what.kind != "write"):
                os.kill(self.pid, signal.SIGKILL)
                self._connection.poll(None)
                return True
        elif kind != "pause":
            answer = self._world.observer.see(self._world.count, kind, what, self.name)
        self._connection.send(answer)
        self._connection.poll(None)
        return True

    def _ended(self) -> None:
        self._world.forget(self)  # first: the master may be stopped in the midst of the rest
        _, status = os.waitpid(self.pid, 0)
        self._connection.close()
        self._world.observer.gone(self.name)
        if os.WIFSIGNALED(status):
            self._world.observer.see(self._world.count, "dies", "", self.name)
            self._world.worker_died(self)
            self._world.batch.kill(self.name, Reason.SIGNAL, os.WTERMSIG(status))
        else:
            code = os.WEXITSTATUS(status)
            if code:
                raise Wrong(f"the worker of {self.name} ended with exit status {code}")
            self._world.batch.finish(self.name, code)

    def kill(self) -> None:
        """End it here."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._connection.close()
        self._world.observer.gone(self.name)


class Ending(NamedTuple):
    """All that must be the same however often the world was stopped."""

    result: str
    counts: list[Any]
    jobs: list[Any]
    values: list[Any]
    rows: list[Any]
    left: list[str]


class World:
    """One directory, and all that happens in it. It is made, lives once, and is thrown away.

    record: note every effect, so that ``disk`` can give images. stop_at: the master dies before its next effect from
    this number on, and each of its workers has ``linger`` more; ``image`` is what there is then. kill_at: kill a
    worker at this one of the workers' effects, with so many bytes of it written.
    syncfs: whether the file system is one on which that flushes. kernel: another one after a power cut.
    """

    def __init__(
        self,
        root: str,
        image: Optional[Image] = None,
        events: Iterable[Event] = (),
        record: bool = False,
        stop_at: Optional[int] = None,
        linger: int = 0,
        kill_at: Optional[tuple[int, int]] = None,
        syncfs: bool = True,
        kernel: str = "first",
    ) -> None:
        self.root = os.path.realpath(root)
        self.paths = TreePaths(os.path.join(self.root, TREE))
        self.count = 0
        self.recovered_at = 0
        self.worker_effects: list[Effect] = []
        self.observer = Observer(events)
        self.in_full = record or stop_at is not None or kill_at is not None
        self.disk = Disk(image or {}) if record or stop_at is not None else None
        self.batch = FakeBatchSystem(cpu=2, room=3)
        self.image: Image = {}
        self.master: Master
        self._linger = linger
        self._syncfs = syncfs
        self._kernel = kernel
        self._now = 1000.0
        self._stop_at = stop_at
        self._kill_at = kill_at
        self._stopped = False
        self._processes: dict[str, WorkerProcess] = {}
        effects.lay_out(self.root, image or {})
        os.makedirs(os.path.join(self.root, "tmp"), exist_ok=True)
        if self.disk is not None:
            self.disk.initial["tmp"] = None

    # -- living ------------------------------------------------------------------------------------------------

    def live(self) -> None:
        """Start the run, or continue it, as a user does, and let it come to its end. Raises Stopped, Wrong."""
        self._take_over()
        effects.install(self.root)
        effects.sink = self
        handler = Told(self)
        logger = logging.getLogger("jobtree")
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        settings = Settings(job_tree=self.paths.root, retry_count=2, max_lost=5, copy_every=0)
        try:
            ended = run.execute(settings, Step("root"))
            if ended.failed:
                raise Wrong(f"{ended.failed} targets have failed")
        finally:
            self._stopped = True
            logger.removeHandler(handler)
            for process in self._processes.values():
                process.kill()

    def _take_over(self) -> None:
        """Put what the world plays in the place of what it was. This process is for this world alone."""
        world = self

        class Watched(Master):
            def recover(self) -> None:
                super().recover()
                world.recovered_at = world.count
                world.master = self
                self.tree.check_invariants()
                check_rows(world.paths)

        tempfile.tempdir = os.environ["TMPDIR"] = os.path.join(self.root, "tmp")
        for owner, name, stand_in in (
            (run, "Master", Watched),
            (run, "_batch_system", lambda *_, **__: self.batch),
            (Remover, "add", _remove_at_once),
            (processtree, "kill_strays", lambda _: []),
            (clock, "elapsed", lambda: self._now),
            (attempt, "LARGE_VALUE", 150),
            (attempt, "_CHUNK_ROWS", 4),
            (attempt, "Usage", _NoUsage),
            (files, "SYNCFS_FLUSHES", filesystems.SYNCFS_FLUSHES if self._syncfs else frozenset()),
            (soundness, "this_kernel", lambda: self._kernel),
            (bundles, "_ROWS_IN_MEMORY", 8),
            (Store, "__init__", _with_small_log(Store.__init__)),
        ):
            setattr(owner, name, stand_in)
        self.batch.on_idle = self._idle

    def _idle(self) -> None:
        """The master waits: time goes by, and every worker does something."""
        self.master.tree.check_invariants()
        if len(self.batch.timeouts) > 4000:
            raise Wrong(f"this does not end: {self.master.tree.totals}")
        self._now += self.batch.timeouts[-1]
        for submission in self.batch.active():
            name = submission.name
            process = self._processes.get(name)
            if process is None:
                process = self._processes[name] = WorkerProcess(self, name)
            self._advance(process, STEPS)

    def _advance(self, process: WorkerProcess, steps: int) -> None:
        for _ in range(steps if self.in_full else 1):
            if not process.advance():
                return

    def forget(self, process: WorkerProcess) -> None:
        """It has ended, and does nothing more."""
        del self._processes[process.name]

    def worker_died(self, process: WorkerProcess) -> None:
        """Do what the launcher does."""
        run_token, _, number = process.name.rpartition(".")
        tempdirs.remove_local(run_token, int(number))

    # -- the sink ----------------------------------------------------------------------------------------------

    def effect(self, effect: Effect) -> Optional[int]:
        """An effect is about to happen."""
        if self._stopped:
            return None
        if effect.who == "master" and self._stop_at is not None and self.count >= self._stop_at:
            self._stop()
        if self.disk is not None:
            self.disk.record(effect)
        self.count += 1
        if effect.who == "worker":
            self.worker_effects.append(effect)
            if self._kill_at is not None and len(self.worker_effects) == self._kill_at[0] + 1:
                return self._kill_at[1]
        return None

    def begins(self, name: str) -> int:
        raise Wrong("targets run in workers")

    def ends(self, name: str, well: bool) -> None:
        raise Wrong("targets run in workers")

    def _stop(self) -> None:
        """The master is gone; its workers have some effects more before they are too. Raises Stopped."""
        assert self.disk is not None
        # What SQLite did last is told after it was done.
        before, now = self.disk.image(self.count), effects.image_of(self.root)
        wrong = [path for path in {*before, *now} if before.get(path, "") != now.get(path, "")]
        if any("tree.sqlite" not in path for path in wrong):
            raise Wrong(f"the record of the disk is not what is on the disk: {wrong}")
        self._stop_at = None
        for process in list(self._processes.values()):
            self._advance(process, self._linger)
        self.image = self.disk.image(self.count)
        for process in self._processes.values():
            process.kill()
        self._processes.clear()
        self._stopped = True
        raise Stopped

    # -- the end -----------------------------------------------------------------------------------------------

    def ending(self) -> Ending:
        """How things stand."""

        def rows(query: str) -> list[Any]:
            return query_rows(self.paths, query)

        check_rows(self.paths)
        return Ending(
            run.result(self.paths.root),
            rows("SELECT name, sum(done), sum(succeeded), sum(ready + issued + blocked + failed) FROM shapes "
                 "GROUP BY name ORDER BY name"),
            rows("SELECT * FROM jobs"),
            rows("SELECT length(value), file IS NULL FROM promised ORDER BY 1"),
            rows("SELECT 'removal', path FROM removals UNION ALL SELECT 'bundle', name FROM bundles "
                 "UNION ALL SELECT 'failure', job FROM failures"),
            self._left(),
        )  # fmt: skip

    def _left(self) -> list[str]:
        """The files and directories beside those that every tree has; the numbers in their names may differ."""
        every = {
            "config.json",
            "environment.json",
            "settings.json",
            "lock",
            "lock.json",
            "tree.sqlite",
            "synced",
        }
        every |= set(map(os.path.basename, self.paths.directories()))
        found = []
        for path in effects.image_of(self.paths.root):
            top, _, rest = path.partition(os.sep)
            if top == "logs" and rest.endswith(".log"):
                # Those of bundles in which something failed are kept.
                if os.path.basename(rest)[: -len(".log")] not in self.observer.troubled:
                    found.append(path)
            elif top not in ("logs", *every):
                found.append(path)
            elif rest and top != "logs":
                found.append(f"something in {top}")
        return sorted(found + os.listdir(os.path.join(self.root, "tmp")))


def check_undisturbed(world: World, ending: Ending) -> None:
    """The run that nothing disturbed has ended as ``PLANS`` says. Raises Wrong."""
    messages = sum(plan.messages * (1 + plan.fails + plan.dies) for plan in PLANS.values())
    for what, found, wanted in (
        ("result", ending.result, value("root")),
        ("targets that have succeeded", sum(row[2] for row in ending.counts), len(PLANS)),
        ("jobs", sum(row[1] for row in ending.counts), 1 + sum(len(plan.children) for plan in PLANS.values())),
        ("rows of jobs", ending.jobs, []),
        ("rows of what is still to do", ending.rows, []),
        ("values", len(ending.values), 3),
        ("left", ending.left, ["something in values"] * 2),
        ("lines told", sum(world.observer.told.values()), messages),
    ):  # fmt: skip
        if found != wanted:
            raise Wrong(f"{what}: {found}, should be {wanted}")


def compare(found: Ending, wanted: Ending) -> None:
    """A run that was disturbed has ended as the one that was not. Raises Wrong."""
    for name, one, other in zip(Ending._fields, found, wanted):
        if one != other:
            raise Wrong(f"{name}: {one}, should be {other}")


class _NoUsage:
    """Takes the place of ``Usage``: what is measured decides how large bundles are, and must always be the same."""

    def measures(self) -> Measures:
        return Measures(0.001, 0.001, 1 << 20, True)


def _remove_at_once(remover: Remover, removals: Iterable[tuple[int, str]]) -> None:
    """Takes the place of ``Remover.add``: removes in the master's own thread, so that every run is the same."""
    for row, path in removals:
        left = remover._remove(remover._paths.absolute(path))
        if left is not None:
            raise Wrong(f"cannot be removed: {left}")
        remover._done.put(row)


def _with_small_log(original: Any) -> Any:
    """Takes the place of ``Store.__init__``: checkpoints come while the master runs, not only at its end."""

    def init(store: Store, *arguments: Any, **more: Any) -> None:
        original(store, *arguments, **more)
        store._connection.execute("PRAGMA wal_autocheckpoint = 60")

    return init
