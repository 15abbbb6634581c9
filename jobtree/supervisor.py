"""The supervisor: what a batch system that outlives the master starts on a node, for one bundle.

    python .../jobtree/supervisor.py TREE RUN.BUNDLE

It claims the bundle, starts the worker that runs it, keeps the lease, and signs off. What must hold

  - It runs nothing unless it has won the claim. A batch system may start a submission twice, late, or again after it
    has ended: whoever does not win exits with 0, and so does one whose bundle is over.
  - The worker never outlives the lease. A heartbeat every quarter of it (jobtree.heartbeat); a guard kills the worker
    when none has got through for that long (jobtree.guard), also while this process hangs in a dead file system.
  - The master may be away for days: nothing here asks for it. The worker is ended only because the lease cannot be
    renewed, the bundle is gone from the tree (or the tree is), the master cancelled it, or the batch system asked for
    it by a signal. Then it gets SIGTERM, the run's --grace, and SIGKILL, with everything that it has started.
  - The end frame is the last thing that is written, after every process of the worker is gone. It goes to the outcome
    file and into the heartbeat's block: where a full disk stops the one, the other still has its place.
  - What the worker writes is on the server within a second: this process syncs it whenever it has grown.
  - A recall (the control byte) is handed to the worker through a pipe, and only then acknowledged by a frame. So every
    target that was started stands before that frame, and the master may give away what does not.

Exit status: 0 the end was written down, or there was nothing to do; 66 (EX_NOINPUT) the tree is not there; 69
(EX_UNAVAILABLE) it cannot be run here; 74 (EX_IOERR) the end could not be written down. Standard error says why.

This file is run as a script, not with -m: that would put the working directory, whatever is in it, before jobtree.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # Named as a script, Python looks for modules where the script is; they are one level above.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import platform
import select
import signal
import socket
import time
from collections.abc import Sequence
from types import FrameType
from typing import Optional

from batchsystems.abstract import End, EndKind, Reason
from jobtree import clock, environment, files, frames, heartbeat, processtree, tempdirs, treedir
from jobtree.errors import JobTreeError, NotAJobTree, StorageError
from jobtree.frames import BundleHeader, Supervision
from jobtree.guard import Guard
from jobtree.paths import TreePaths
from jobtree.supervised_worker import Ended, SupervisedWorker
from jobtree.version import VERSION

EX_NOINPUT = 66
EX_UNAVAILABLE = 69
EX_IOERR = 74

BEATS_PER_LEASE = 4
_SYNC_SECONDS = 0.4
_CONTROL_SECONDS = 1.0
_GONE_LOOKS = 3
"""A name can be missing for a moment while a server comes back; so many looks in a row, and it is gone."""
_KILL_AGAIN_SECONDS = 0.1
_SIGN_OFF_LEASES = 4
_ASKED_TO_END = (
    signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU,
)  # fmt: skip
"""How batch systems announce the end. (SIGHUP, the end of a connection, is none.)"""


def command(root: str, name: str) -> tuple[str, ...]:
    """The argument list with which a batch system starts the supervisor of a bundle."""
    return sys.executable, os.path.abspath(__file__), root, name


class Refused(Exception):
    """This bundle cannot be run here; the message says why. status: what to exit with."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def main(arguments: Sequence[str]) -> int:
    """Supervise one bundle; returns the exit status."""
    if len(arguments) != 2 or not arguments[1].rpartition(".")[2].isdigit():
        print("usage: supervisor.py TREE RUN.BUNDLE (a batch system gives these)", file=sys.stderr)
        return 2
    root, name = arguments
    # Until there is somebody who can say what became of the bundle, the batch system's signals wait.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ASKED_TO_END)
    try:
        return _supervise(TreePaths(os.path.abspath(root)), name)
    except Refused as refusal:
        status, why = refusal.status, str(refusal)
    except (OSError, JobTreeError) as error:
        status, why = EX_IOERR, str(error)
    print(f"jobtree supervisor on {environment.node_name()}: {why}", file=sys.stderr, flush=True)
    return status


def _supervise(paths: TreePaths, name: str) -> int:
    run, _, number = name.rpartition(".")
    bundle = int(number)
    _find_tree(paths, run)
    if read_header(paths, bundle) is None:
        return 0  # it is over, or was taken back
    try:
        if not _claim(paths, bundle):
            return 0
        header = read_header(paths, bundle)
        if header is None:
            files.remove(paths.claim(bundle))  # it was over before we came, and its claim was swept with it
            return 0
    except (JobTreeError, OSError) as error:
        raise Refused(EX_UNAVAILABLE, f"bundle {name} cannot be claimed: {error}") from error
    supervisor = Supervisor(paths, name, header)
    refusal = _why_not_here(paths, header)
    if refusal is not None:
        print(f"jobtree supervisor on {supervisor.host}: {refusal}", file=sys.stderr, flush=True)
        return supervisor.refuse(refusal)
    return supervisor.run()


def _find_tree(paths: TreePaths, run: str) -> None:
    """Raise Refused unless this node sees the tree of this run, and it is ours."""
    try:
        config = treedir.read_config(paths)
    except NotAJobTree as error:
        raise Refused(EX_UNAVAILABLE, str(error)) from error
    except (StorageError, OSError) as error:
        raise Refused(EX_NOINPUT, str(error)) from error
    if config is None:
        raise Refused(
            EX_NOINPUT,
            f"there is no job tree at {paths.root}. The directory must be on a file system that this machine shares "
            "with the one that the run was started on, under the same name; or the tree was removed.",
        )
    if config.run != run:
        raise Refused(
            EX_UNAVAILABLE,
            f"the job tree at {paths.root} is of run {config.run}, and this bundle is of run {run}: the tree was made "
            "anew, or another one was put in its place. Nothing was run.",
        )


def read_header(paths: TreePaths, bundle: int) -> Optional[BundleHeader]:
    """The header of a bundle by a fresh open; None if the bundle is gone. Raises Refused for another version's."""
    try:
        data = files.read(paths.bundle(bundle))
        if data is None:
            return None
        found = frames.decode(data, 1)[0].body
        if found[0] == frames.VERSION:
            return BundleHeader(*found)
        described = f"format {found[0]}"
    except (OSError, StorageError) as error:
        raise Refused(EX_NOINPUT, f"{paths.bundle(bundle)} cannot be read: {error}") from error
    except (frames.Damaged, IndexError, TypeError):
        described = "a format that cannot be read"
    raise Refused(
        EX_UNAVAILABLE,
        f"{paths.bundle(bundle)} is in {described}, and jobtree {VERSION} here reads format {frames.VERSION}: the "
        "same version must be installed on all machines.",
    )


def _claim(paths: TreePaths, bundle: int) -> bool:
    # Unlike anybody else's, so that it can be told whose claim it is when the answer of a server was lost.
    mark = f"{socket.gethostname()} {os.getpid()} {os.urandom(8).hex()}\n".encode()
    # Only in a directory that is there: a tree that was removed must not come back as a skeleton.
    return files.make_once(paths.claim(bundle), mark, directories=False)


def _why_not_here(paths: TreePaths, header: BundleHeader) -> Optional[str]:
    """What is different here from where the run was started, in words; None if nothing is."""
    assert header.supervision is not None
    wanted = Supervision(*header.supervision)
    if wanted.library != VERSION:
        return f"jobtree is version {VERSION} here, {wanted.library} where the run was started; both must be the same"
    python = platform.python_version()
    if python.split(".")[:2] != wanted.python.split(".")[:2]:
        return (
            f"Python is {python} here ({sys.executable}) and {wanted.python} where the run was started; what one "
            "pickles the other may not read. Use the same on all machines."
        )
    stored = files.read_json(paths.environment) or {}
    script = stored["main"][1] if stored.get("main") else None
    for what, path in (("working directory", stored.get("directory")), ("script", script)):
        if path and not os.path.exists(path):
            return (
                f"the {what} {path} of the run is not there on this machine. Start the run in a directory, and from "
                "a script, that all machines share under the same name."
            )
    return None


class Supervisor:
    """One bundle on one node, from the first heartbeat to the end frame."""

    def __init__(self, paths: TreePaths, name: str, header: BundleHeader) -> None:
        assert header.supervision is not None
        self.host: str = environment.node_name()
        self._paths = paths
        self._name = name
        self._header = header
        self._told = Supervision(*header.supervision)
        self._writer = heartbeat.Writer(paths.heartbeat(header.bundle), self.host, self._told.lease)
        self._begun = 0.0
        self._next_beat = 0.0
        self._next_sync = 0.0
        self._next_control = 0.0
        self._outcome: Optional[int] = None
        self._synced = 0
        self._missing = 0
        self._recalled = False
        self._ending: Optional[tuple[Optional[Reason], str]] = None
        self._kill_at: Optional[float] = None
        self._signal = 0
        self._guard: Optional[Guard] = None

    # -- beginning and end -------------------------------------------------------------------------------------

    def refuse(self, why: str) -> int:
        """Sign off without having run anything."""
        return self._sign_off(End(self._name, EndKind.FINISHED, EX_UNAVAILABLE, detail=why, host=self.host))

    def run(self) -> int:
        """Run the bundle; returns the exit status."""
        wakeup = self._watch_signals()
        processtree.adopt_orphans()
        self._outcome = os.open(
            self._paths.outcome(self._header.bundle), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        )
        # The master must know that there is a lease before there is anything to be leased.
        if not self._first_beat():
            raise Refused(EX_IOERR, f"{self._paths.heartbeat(self._header.bundle)} cannot be written")
        try:
            worker = SupervisedWorker(self._paths.root, self._name, self._header)
        except (OSError, StorageError) as error:
            return self.refuse(f"no worker could be started: {error}")
        self._start_guard(worker)
        poll = select.poll()
        poll.register(wakeup, select.POLLIN)
        while not worker.has_ended():
            poll.poll(1000 * self._seconds_to_wait())
            _drain(wakeup)
            self._turn(worker)
        return self._after(worker)

    def _watch_signals(self) -> int:
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        for number in _ASKED_TO_END:
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, lambda *_: None)  # not SIG_IGN, which the worker would inherit
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKED_TO_END)
        return read

    def _on_signal(self, number: int, _: Optional[FrameType]) -> None:
        self._signal = number

    def _first_beat(self) -> bool:
        deadline = clock.elapsed() + self._told.lease
        while not self._beat(clock.elapsed()):
            if clock.elapsed() > deadline or self._signal:
                return False
            time.sleep(1.0)  # what is in the way may pass
        return True

    def _after(self, worker: SupervisedWorker) -> int:
        """The worker has ended, and is not reaped yet: end what it left, and sign off."""
        while worker.kill_rest(self._guard.pid if self._guard is not None else 0):
            time.sleep(_KILL_AGAIN_SECONDS)
            self._beat_if_due()  # what hangs in the kernel may take long, and nobody else may have its work meanwhile
        if self._guard is not None:
            self._guard.quit()
        ended = worker.reap()
        tempdirs.remove_local(self._header.run, self._header.bundle)
        return self._sign_off(self._end_of(ended))

    def _end_of(self, ended: Ended) -> End:
        reason, detail = self._ending if self._ending is not None else (None, "")
        if self._ending is None and clock.elapsed() - self._begun > self._told.lease:
            detail = f"no heartbeat got through for {self._told.lease:g} s, so it was ended"
            return End(
                self._name,
                EndKind.LOST,
                None,
                ended.signal,
                None,
                ended.peak,
                ended.seconds,
                detail,
                self.host,
            )
        if reason is None and ended.out_of_memory:
            reason, detail = Reason.MEMORY, ended.out_of_memory
        number = ended.signal
        if self._ending is None and reason is None and number is None:
            kind = EndKind.FINISHED
        else:
            # Also if it then exited by itself: that was no decision of the target's.
            kind, reason, number = EndKind.KILLED, reason or Reason.SIGNAL, number or self._signal or None
        return End(
            self._name, kind, ended.status, number, reason, ended.peak, ended.seconds, detail, self.host
        )

    def _sign_off(self, end: End) -> int:
        """Write the end down, in both places; one is enough. Returns the exit status."""
        deadline = clock.elapsed() + _SIGN_OFF_LEASES * self._told.lease
        while True:
            done = False
            for write in (self._end_in_outcome, self._writer.sign_off):
                try:
                    write(end)
                    done = True
                except (OSError, StorageError) as error:
                    failure = error
            if done:
                return 0
            if not os.path.exists(self._paths.bundle(self._header.bundle)):
                return 0  # nobody waits for it any more
            if clock.elapsed() > deadline:
                print(f"jobtree supervisor on {self.host}: {failure}", file=sys.stderr, flush=True)
                return EX_IOERR
            time.sleep(1.0)  # what is in the way may pass

    def _end_in_outcome(self, end: End) -> None:
        self._append(heartbeat.end_frame(end))

    def _append(self, body: tuple[object, ...]) -> None:
        if self._outcome is None:
            self._outcome = os.open(
                self._paths.outcome(self._header.bundle), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
            )
        files.write_all(self._outcome, frames.encode(body))
        files.fdatasync(self._outcome, self._paths.outcome(self._header.bundle))

    # -- while it runs -----------------------------------------------------------------------------------------

    def _seconds_to_wait(self) -> float:
        moments = [self._next_beat, self._next_sync, self._next_control]
        if self._kill_at is not None:
            moments.append(self._kill_at)
        return max(0.0, min(moments) - clock.elapsed())

    def _turn(self, worker: SupervisedWorker) -> None:
        if self._signal and self._ending is None:
            name = signal.Signals(self._signal).name
            self._end_worker(worker, None, f"the batch system, or somebody there, asked it to end ({name})")
        if self._kill_at is not None and clock.elapsed() >= self._kill_at:
            self._kill_at = None
            worker.signal(signal.SIGKILL)
        self._look_after_guard(worker)
        self._beat_if_due()
        now = clock.elapsed()
        if now >= self._next_control:
            self._next_control = now + _CONTROL_SECONDS
            self._obey(worker)
        if now >= self._next_sync:
            self._next_sync = now + _SYNC_SECONDS
            self._sync()

    def _beat_if_due(self) -> None:
        now = clock.elapsed()
        if now >= self._next_beat:
            done = self._beat(now)
            self._next_beat = now + (self._told.lease / BEATS_PER_LEASE if done else 1.0)

    def _beat(self, now: float) -> bool:
        try:
            self._writer.beat()
        except (OSError, StorageError):
            return False
        self._begun = now
        if self._guard is not None:
            self._guard.feed(now)
        return True

    def _start_guard(self, worker: SupervisedWorker) -> None:
        detail = "its supervisor was killed, and so it was ended"
        number = signal.SIGKILL
        end = End(self._name, EndKind.KILLED, None, number, Reason.SIGNAL, detail=detail, host=self.host)

        def orphaned() -> None:
            tempdirs.remove_local(self._header.run, self._header.bundle)
            self._sign_off(end)

        self._guard = Guard(worker.pid, self._name, self._told.lease, self._begun, orphaned)

    def _look_after_guard(self, worker: SupervisedWorker) -> None:
        assert self._guard is not None
        try:
            pid, _ = os.waitpid(self._guard.pid, os.WNOHANG)
        except ChildProcessError:
            pid = self._guard.pid
        if pid:
            self._guard.abandon()
            self._start_guard(worker)

    def _sync(self) -> None:
        """Have the server see what the worker has written."""
        assert self._outcome is not None
        try:
            size = os.fstat(self._outcome).st_size
            if size != self._synced:
                files.fdatasync(self._outcome, self._paths.outcome(self._header.bundle))
                self._synced = size
        except (OSError, StorageError):
            return  # tried again; if it lasts, the lease says so

    def _obey(self, worker: SupervisedWorker) -> None:
        """Look for what the master wants."""
        try:
            control = files.read_from(self._paths.bundle(self._header.bundle), 0, 1)
        except StorageError:
            return
        self._missing = 0 if control else self._missing + 1
        if self._missing >= _GONE_LOOKS:
            self._end_worker(
                worker, Reason.CANCELLED, "its bundle is gone from the job tree, or the whole tree is"
            )
        elif control == frames.CANCEL:
            self._end_worker(worker, Reason.CANCELLED, "the master has cancelled it")
        elif control == frames.RECALL and not self._recalled:
            worker.recall()
            try:
                self._append((frames.RECALLED,))
                self._recalled = True
            except (OSError, StorageError):
                pass  # acknowledged when it can be; until then the master waits

    def _end_worker(self, worker: SupervisedWorker, reason: Optional[Reason], detail: str) -> None:
        """SIGTERM to the worker's session; SIGKILL when the grace is over."""
        if self._ending is not None:
            return
        self._ending = (reason, detail)
        worker.recall()
        worker.signal(signal.SIGTERM)
        self._kill_at = clock.elapsed() + self._told.grace


def _drain(fd: int) -> None:
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
