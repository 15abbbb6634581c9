"""When a bundle is over whose worker does not die with the master, and how it ended.

A bundle is *over* when nothing of it runs any more and nothing of it can start any more. Its jobs are issued again only
then, so this is what keeps two workers from running one target. There are three ways to know, and no other:

  - Its supervisor has signed off: the end frame, in the outcome file or in the heartbeat's block.
  - Its heartbeat has not changed for two leases, on our clock: the worker was killed after one (jobtree.guard). Time
    in which we did not look is no silence: where the machine slept that we are on, the worker may have slept with us
    and be about to go on for the moment that its guard needs.
  - Nobody has claimed it, and we have: whoever comes now runs nothing.

What a batch system says of a job's end or absence is a hint. It makes us try the claim, so that a submission that was
lost or has died before its first line is issued again at once; and where the supervisor could only say that somebody
had killed the worker, or was killed itself, it says why. Silence from a batch system means nothing.

Results are found by reading outcome files, never by asking a scheduler: each file several times a second while its
bundle runs, each time by a fresh open. How this fails: a file that cannot be read is a StorageError, which stops the
master; the workers go on.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterable
from typing import NamedTuple, Optional

from batchsystems.abstract import End, EndKind, Reason
from jobtree import bundles, clock, heartbeat
from jobtree.adoption import Adopter
from jobtree.bundles import RunningBundle
from jobtree.paths import TreePaths

LEASES_OF_SILENCE = 2
_LOOK_SECONDS = 0.3
_LOOK_COSTS = 0.0002
"""Seconds that a look at a bundle may cost: with very many of them each is looked at less often."""
_VERDICT_SECONDS = 30.0
"""So long a bundle that somebody has killed waits for the batch system to say why."""
_FROM_OUTSIDE = frozenset(
    [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU]
)
_EXPLAINS = frozenset([Reason.MEMORY, Reason.TIME, Reason.PREEMPTED, Reason.NODE])


class Over(NamedTuple):
    """A bundle that is over. charge: whether anybody may be to blame; forgotten: the batch system may still have it."""

    bundle: RunningBundle
    end: End
    charge: bool
    forgotten: bool


class _Watch:
    """What we know of one bundle's supervisor."""

    __slots__ = (
        "believe_at", "block", "bundle", "cancel_at", "changed", "charge", "claimed", "lease", "next_beat", "next_look",
        "over_since", "told",
    )  # fmt: skip

    def __init__(self, bundle: RunningBundle, lease: float, now: float) -> None:
        self.bundle = bundle
        self.lease = lease
        self.claimed = bundle.offset > 0
        self.block = b""
        self.changed = now
        self.next_look = now
        self.next_beat = now
        self.told: Optional[End] = None
        self.believe_at = now
        self.charge = True
        self.over_since: Optional[float] = None
        self.cancel_at: Optional[float] = None


class Leases:
    """The supervised bundles of a master. Used inside the store's transaction, but for ``add`` and ``tell``."""

    def __init__(self, paths: TreePaths, adopter: Adopter, grace: float) -> None:
        self._paths = paths
        self._adopter = adopter
        self._grace = grace
        self._watches: dict[str, _Watch] = {}
        self._looked = clock.elapsed()

    def __len__(self) -> int:
        return len(self._watches)

    def add(self, bundle: RunningBundle, lease: float) -> None:
        """A bundle has been submitted, now or by an earlier master; lease: of its supervisor, in seconds."""
        self._watches[bundle.name] = _Watch(bundle, lease, clock.elapsed())

    def tell(self, end: End, charge: bool = True) -> None:
        """What a batch system says of a bundle's end, or absence; believed as far as the top of this file says.

        charge=False: it is not a reason to count a loss.
        """
        watch = self._watches.get(end.name)
        if watch is not None:
            watch.told, watch.charge = end, charge
            watch.next_look = 0.0
            if end.kind is EndKind.FINISHED and end.status == 0:
                # No supervisor ends so without having claimed it, or seen who has. Perhaps it has not even begun.
                watch.believe_at = clock.elapsed() + watch.lease

    def is_running(self, name: str) -> bool:
        """Whether a bundle is known to have been begun."""
        watch = self._watches.get(name)
        return watch is not None and watch.claimed

    def cancel(self, name: str) -> bool:
        """Have a bundle ended. True if it can be removed from the batch system's queue: it will never run."""
        watch = self._watches[name]
        if not watch.claimed and bundles.claim(self._paths, watch.bundle.id):
            self._end_unclaimed(watch, "it was cancelled before it had begun")
            return True
        watch.claimed = True
        bundles.cancel(self._paths, watch.bundle.id)
        if watch.cancel_at is None:
            watch.cancel_at = clock.elapsed() + self._grace + watch.lease / 4
        return False

    def withdraw(self, name: str) -> bool:
        """Take a bundle back that nobody has begun; True as for ``cancel``. One that was begun is left alone."""
        watch = self._watches[name]
        if watch.claimed or not bundles.claim(self._paths, watch.bundle.id):
            return False
        self._end_unclaimed(watch, "it was taken back before it had begun")
        return True

    def overdue(self, now: float) -> list[str]:
        """Bundles whose supervisor has not ended them although it was told to: the batch system may try."""
        found = []
        for name, watch in self._watches.items():
            if watch.cancel_at is not None and now >= watch.cancel_at and watch.bundle.end is None:
                watch.cancel_at = now + watch.lease
                found.append(name)
        return found

    def look(self, now: float) -> tuple[list[tuple[int, int]], list[Over]]:
        """Adopt what has come. Returns how far files were read (offset, bundle), and what is over."""
        every = max(_LOOK_SECONDS, _LOOK_COSTS * len(self._watches))
        offsets = []
        over = []
        self._notice_sleep(now)
        for name, watch in list(self._watches.items()):
            if now < watch.next_look:
                continue
            watch.next_look = now + every
            if self._adopter.read(watch.bundle):
                watch.claimed = True
                watch.changed = now
                offsets.append((watch.bundle.safe_offset, watch.bundle.id))
            ended = self._look_at(watch, now)
            if ended is not None and not self._adopter.is_undecided(watch.bundle):
                del self._watches[name]
                over.append(ended)
        return offsets, over

    def _notice_sleep(self, now: float) -> None:
        gap, self._looked = now - self._looked, now
        for watch in self._watches.values():
            if gap > watch.lease / 2:
                watch.changed = min(now, watch.changed + gap)

    def quiet(self) -> Iterable[RunningBundle]:
        """The bundles that a batch system may have lost: nothing shows that they have begun."""
        return [watch.bundle for watch in self._watches.values() if not watch.claimed and watch.told is None]

    # -- one bundle --------------------------------------------------------------------------------------------

    def _look_at(self, watch: _Watch, now: float) -> Optional[Over]:
        bundle = watch.bundle
        if bundle.end is None:
            self._read_heartbeat(watch, now)
        if bundle.end is not None:
            return self._signed_off(watch, bundle.end, now)
        if watch.told is not None and not watch.claimed and now >= watch.believe_at:
            if bundles.claim(self._paths, bundle.id):
                return Over(bundle, watch.told, watch.charge, forgotten=watch.told.kind is EndKind.LOST)
            watch.claimed = True
            watch.changed = now  # somebody runs it, or did: from now on its heartbeat tells
        if watch.claimed and now - watch.changed >= LEASES_OF_SILENCE * watch.lease:
            return self._fell_silent(watch, now)
        return None

    def _read_heartbeat(self, watch: _Watch, now: float) -> None:
        if now < watch.next_beat:
            return
        watch.next_beat = now + watch.lease / 4
        bundle = watch.bundle
        block, beat = heartbeat.read(self._paths.heartbeat(bundle.id), bundle.name)
        if beat is None or block == watch.block:
            return
        watch.block = block
        watch.changed = now
        watch.claimed = True
        watch.lease = max(watch.lease, beat.lease)
        bundle.host = beat.host
        bundle.end = (
            beat.end
        )  # what it says besides was written before: it is read once more when this is settled

    def _signed_off(self, watch: _Watch, end: End, now: float) -> Optional[Over]:
        """The end that counts, when it is known; the batch system is given some time to say why somebody was killed."""
        if (
            end.kind is not EndKind.KILLED
            or end.reason is not Reason.SIGNAL
            or end.signal not in _FROM_OUTSIDE
        ):
            return Over(watch.bundle, end, True, forgotten=False)
        if watch.told is None:
            if watch.over_since is None:
                watch.over_since = now
            if now - watch.over_since < _VERDICT_SECONDS and self._wants_verdict(watch):
                return None
        else:
            end = _explained(end, watch.told)
        # What is killed may be queued again by the batch system, which then says nothing of an end.
        return Over(watch.bundle, end, True, forgotten=watch.told is None)

    @staticmethod
    def _wants_verdict(watch: _Watch) -> bool:
        # Nobody is to be blamed if nothing was running; and what we ended ourselves needs no explanation.
        return watch.bundle.current is not None and watch.bundle.enforced is None

    def _fell_silent(self, watch: _Watch, now: float) -> Over:
        bundle = watch.bundle
        where = f" on {bundle.host}" if bundle.host else ""
        detail = f"no sign of life{where} for {now - watch.changed:.0f} s, two leases or more"
        if watch.told is not None:
            said = watch.told.detail or watch.told.kind.value
            detail += f"; the batch system says: {said}"
        # Should it wake up again, it finds out at once that nobody waits for it.
        bundles.cancel(self._paths, bundle.id)
        end = End(bundle.name, EndKind.LOST, detail=detail, host=bundle.host)
        if watch.told is not None:
            end = _explained(end, watch.told)
        return Over(bundle, end, True, forgotten=True)

    def _end_unclaimed(self, watch: _Watch, detail: str) -> None:
        watch.bundle.end = End(watch.bundle.name, EndKind.KILLED, reason=Reason.CANCELLED, detail=detail)
        watch.next_look = 0.0


def _explained(end: End, told: End) -> End:
    """An end of which nobody there knows why, and what the batch system says of it."""
    if told.reason not in _EXPLAINS:
        return end
    detail = end.detail if told.detail in end.detail else f"{told.detail}; {end.detail}".rstrip("; ")
    return dataclasses.replace(end, kind=EndKind.KILLED, reason=told.reason, detail=detail)
