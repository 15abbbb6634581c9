"""A job tree with a master on a fake batch system whose jobs outlive it; supervisors do what the test says.

As in ``master_scene``, time jumps at each ``yield`` to the moment for which the master asked, which is never more than
a fraction of a second; what takes longer is written ``yield from scene.wait(seconds)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

from batchsystems.abstract import End, EndKind
from jobtree import frames, heartbeat
from jobtree.paths import TreePaths
from tests.fakes.fake_clock import FakeClock
from tests.fakes.master_scene import RUN, Scene, number_of
from tests.fakes.scripted_worker import ScriptedWorker

LEASE = 10.0


class Supervised(ScriptedWorker):
    """The worker of a bundle together with its supervisor."""

    def __init__(self, paths: TreePaths, bundle: int, host: str = "node1") -> None:
        super().__init__(paths, bundle, mark=f"{host} {id(self)}")
        self._name = f"{RUN}.{bundle}"
        self._host = host
        self._writer = heartbeat.Writer(paths.heartbeat(bundle), host, LEASE)

    def open(self) -> bool:
        """Claim the bundle, and give a first sign of life."""
        if not super().open():
            return False
        assert self.header.supervision is not None
        self.beat()
        return True

    def beat(self) -> None:
        """A sign of life."""
        self._writer.beat()

    def end(self, **how: Any) -> End:
        """How the bundle ended: well, if nothing else is said."""
        return End(self._name, **{"kind": EndKind.FINISHED, "status": 0, "host": self._host, **how})

    def sign_off(self, **how: Any) -> None:
        """The end frame."""
        self.write(*heartbeat.end_frame(self.end(**how)))
        self.flush()

    def sign_off_in_heartbeat(self, **how: Any) -> None:
        """The end where a full disk lets nothing else be written."""
        self._writer.sign_off(self.end(**how))

    def acknowledge_recall(self) -> None:
        """The supervisor has handed the recall on."""
        self.write(frames.RECALLED)
        self.flush()


class ClusterScene(Scene):
    """One tree and its masters, one after the other, on a cluster."""

    def __init__(self, root: Path, clock: FakeClock, **settings: Any) -> None:
        super().__init__(root, clock, **{"lease": LEASE, "job_time": 0, **settings})

    def play(self, script: Iterator[None], **batch: Any) -> Any:
        """See ``Scene.play``."""
        return super().play(script, **{"outlives": True, **batch})

    def supervised(self, bundle: int, host: str = "node1") -> Supervised:
        """The worker of a bundle that was issued, on a machine."""
        worker = Supervised(self.paths, bundle, host)
        assert worker.open()
        return worker

    def worker(self, bundle: int) -> Supervised:
        """The same."""
        return self.supervised(bundle)

    def wait(self, seconds: float, beating: Optional[Supervised] = None) -> Iterator[None]:
        """Script: let so much time pass, turn by turn."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            if beating is not None:
                beating.beat()
            self.clock.advance(0.1)
            yield

    def finish(self, worker: ScriptedWorker, status: int = 0) -> None:
        """The worker exits, its supervisor signs off, and the batch system says so as well."""
        assert isinstance(worker, Supervised)
        worker.sign_off(status=status)
        self.batch.finish(self.name(worker.bundle))

    def run_others(self, *spared: int) -> None:
        """All that is issued, but for these bundles, succeeds."""
        for submission in self.batch.active():
            bundle = number_of(submission.name)
            if bundle not in spared:
                self.run_all(self.supervised(bundle))

    def play_rest(self) -> Iterator[None]:
        """Script: everything that is issued, and all that follows, succeeds."""
        idle = 0
        while idle < 10:  # what was submitted may be looked at some turns later
            idle = 0 if self.batch.active() else idle + 1
            for submission in self.batch.active():
                worker = Supervised(self.paths, number_of(submission.name))
                if worker.open():
                    self.run_all(worker)
                else:
                    self.batch.finish(submission.name)
            yield


MakeClusterScene = Callable[..., ClusterScene]
"""Makes one; its arguments are settings (the fixture ``make_cluster_scene`` of the unit tests)."""
