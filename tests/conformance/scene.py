"""What the conformance tests stand on: a batch system, a scratch folder, and jobs that show by files what they do."""

from __future__ import annotations

import fcntl
import itertools
import os
import select
import shutil
import tempfile
import time
from collections.abc import Mapping
from typing import Callable, Optional

import psutil

from batchsystems.abstract import AbstractBatchSystem, End, Resources, Submission

# For what happens within milliseconds here and perhaps a minute on a busy cluster; nothing waits for it to pass.
DEADLINE_SECONDS = 60.0

# The same for real schedulers, whose clients hold back for a minute when a daemon has died.
SERVER_SECONDS = 200.0

# Waits for a file, but gives up after some minutes: a test that dies must not leave jobs behind for ever.
AWAIT = 'await() { n=0; while ! test -e "$1" && test $n -lt 9000; do sleep 0.02; n=$((n + 1)); done; }; '

# Tells a process id by a file that is complete as soon as it is there.
TELL = 'tell() { echo "$2" > "$1.new"; mv "$1.new" "$1"; }; '

_scenes = itertools.count()


class Scene:
    """A batch system, its jobs' folder, and every end that was reported. Use it with `with`.

    Leaving it checks that each job was reported at most once, and none that was not issued.
    """

    def __init__(
        self, batch: AbstractBatchSystem, parent: Optional[str], seconds: float = DEADLINE_SECONDS
    ) -> None:
        self.batch = batch
        self.seconds = seconds
        self.folder = tempfile.mkdtemp(prefix="conformance-", dir=parent)
        # No two runs share a name, nor do suites that use one cluster at the same time.
        self.run = f"conformance-{os.getpid()}-{next(_scenes)}"
        self.reported: list[End] = []
        self._names: set[str] = set()
        self._lifelines: dict[str, int] = {}

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], *_: object) -> None:
        self.batch.close()
        for descriptor in self._lifelines.values():
            os.close(descriptor)
        shutil.rmtree(self.folder, ignore_errors=True)
        if kind is None:
            names = [end.name for end in self.reported]
            assert len(names) == len(set(names)), f"reported more than once: {names}"
            assert set(names) <= self._names, f"never issued: {set(names) - self._names}"

    def job(
        self,
        name: str,
        script: str,
        *arguments: str,
        cpu: float = 1.0,
        memory: int = 0,
        time: Optional[float] = None,
        log: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
    ) -> Submission:
        """A shell script as a submission that runs in the scene's folder; with functions `await` and `tell`."""
        command = ("/bin/sh", "-c", AWAIT + TELL + script, "sh", *arguments)
        resources = Resources(cpu, memory, time)
        return Submission(f"{self.run}.{name}", command, resources, log=log, cwd=self.folder, env=env)

    def issue(self, *submissions: Submission) -> None:
        """Issue them all in one call."""
        self._names.update(submission.name for submission in submissions)
        self.batch.issue(submissions)

    def adopt(self, *names: str) -> None:
        """Expect reports about jobs (short names) that an earlier instance issued."""
        self._names.update(f"{self.run}.{name}" for name in names)

    def cancel(self, *names: str, grace: float = 0.0) -> None:
        """Cancel jobs by their short names."""
        self.batch.cancel([f"{self.run}.{name}" for name in names], grace)

    def path(self, name: str) -> str:
        """A file in the scene's folder."""
        return os.path.join(self.folder, name)

    def create(self, name: str) -> None:
        """Make an empty file."""
        with open(self.path(name), "xb"):
            pass

    def read(self, name: str) -> str:
        """A file's text; empty if it is not there (yet)."""
        try:
            with open(self.path(name), encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        return os.path.exists(self.path(name))

    def poll(self, timeout: float = 0.0) -> list[End]:
        """Poll once, and note what was reported."""
        ends = self.batch.poll(timeout)
        self.reported += ends
        return ends

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Poll until the condition holds."""
        deadline = time.monotonic() + self.seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for: {what}; reported: {self.reported}"
            self.poll(0.01)

    def until_file(self, *names: str) -> None:
        """Poll until all these files are there."""
        for name in names:
            self.until(lambda: self.exists(name), f"file {name}")  # noqa: B023  # called in this round only

    def until_gone(self, *names: str) -> None:
        """Poll until the processes whose ids are in these files are gone."""
        for name in names:
            self.until(lambda: not is_alive(int(self.read(name))), f"end of {name}")  # noqa: B023

    def lifeline(self, name: str) -> None:
        """Make a pipe that jobs hold open (`exec 9> name`), so that `until_released` can see them end."""
        os.mkfifo(self.path(name))
        self._lifelines[name] = os.open(self.path(name), os.O_RDONLY | os.O_NONBLOCK)

    def until_released(self, name: str) -> None:
        """Wait until no process holds the pipe any more, after one did; does not poll the batch system."""
        poll = select.poll()
        poll.register(self._lifelines[name], 0)
        assert poll.poll(1000 * self.seconds), f"somebody still holds {name}"

    def ends(self, *names: str) -> list[End]:
        """Poll until these jobs (short names) have been reported; their ends, in this order."""
        wanted = [f"{self.run}.{name}" for name in names]
        deadline = time.monotonic() + self.seconds
        while True:
            found = {end.name: end for end in self.reported}
            missing = [name for name in wanted if name not in found]
            if not missing:
                return [found[name] for name in wanted]
            assert time.monotonic() < deadline, f"not reported: {missing}"
            self.poll(1.0)

    def end(self, name: str) -> End:
        """Poll until this job has been reported; how it ended."""
        return self.ends(name)[0]


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; one that only waits for its parent to notice does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def raised(kind: type[BaseException], call: Callable[[], object]) -> BaseException:
    """The exception that the call raises; it must be of this kind."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


class Variable:
    """Sets an environment variable of this process inside `with`."""

    def __init__(self, name: str, value: str) -> None:
        self.name = name
        self.value = value

    def __enter__(self) -> None:
        os.environ[self.name] = self.value

    def __exit__(self, *_: object) -> None:
        del os.environ[self.name]


class Input:
    """Gives this process a standard input with a text inside `with`; and a descriptor above the usual that
    children inherit."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __enter__(self) -> set[int]:
        self._saved, (read, write) = os.dup(0), os.pipe()
        os.write(write, self.text.encode())
        os.close(write)
        os.dup2(read, 0)
        os.close(read)
        self._extra = fcntl.fcntl(0, fcntl.F_DUPFD, 50)
        os.set_inheritable(self._extra, True)
        return {self._extra}

    def __exit__(self, *_: object) -> None:
        os.dup2(self._saved, 0)
        os.close(self._saved)
        os.close(self._extra)


class Contract:
    """What all parts of the suite share: how to make the backend."""

    # Where jobs and tests see the same files; None: the usual folder for temporary files.
    scratch_parent: Optional[str] = None

    # After which something that should come is not waited for any more.
    seconds = DEADLINE_SECONDS

    def make(self) -> AbstractBatchSystem:
        """A new batch system with at least two cores and 64 MiB."""
        raise NotImplementedError

    def scene(self) -> Scene:
        """A new batch system with a folder."""
        return Scene(self.make(), self.scratch_parent, self.seconds)
