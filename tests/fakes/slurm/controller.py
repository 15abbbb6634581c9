"""A controller of a SLURM that is not there: a daemon that runs batch scripts on this machine, for the fake commands.

    python tests/fakes/slurm/controller.py DIRECTORY CORES BYTES

It answers as SLURM 22.05 does, as far as `batchsystems.slurm` asks, and lies as the test says by files in `tricks/`
(see `TRICKS`). Jobs are run by `SingleMachine`. It has one node, `node1`, and one partition, `one`.
"""

from __future__ import annotations

import dataclasses
import json
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import psutil

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from batchsystems.abstract import End, EndKind, Reason, Resources, Submission
from batchsystems.processes import PopenStarter
from batchsystems.scheduled import read_tasks, write_tasks
from batchsystems.single_machine import SingleMachine

TRICKS = {
    "down": "commands cannot reach the controller",
    "slow": "commands take so many seconds",
    "lose": "submissions are acknowledged and forgotten",
    "mute": "submissions are taken, and sbatch says that there was no answer",
    "refuse": "sbatch says what the file says and takes nothing",
    "limit": "no more tasks than the file says are taken at one time",
    "never": "submissions wait with the reason that the file holds",
    "forget": "what has ended is not known any more",
    "blind": "squeue shows nothing at all",
    "garbage": "squeue prints what the file holds",
    "completing": "what has ended is shown as COMPLETING",
    "verdict": "what ends is in the state, with the exit code, that the file holds",
    "requeue": "what ends is started once more",
    "number": "the next array gets the number that the file holds",
    "accounting": "there is sacct",
}

_KILL_WAIT = 0.1
_TICK_SECONDS = 0.02


@dataclasses.dataclass
class Task:
    """A task of an array."""

    array: str
    index: int
    job: str
    name: str
    comment: str
    submission: Submission
    submitted: str
    state: str = "PENDING"
    reason: str = "Priority"
    status: int = 0
    host: str = ""
    cancelled: bool = False


class _Starter(PopenStarter):
    """Signals whatever a job has started, whichever process group that has made for itself."""

    def __init__(self) -> None:
        super().__init__()
        self._scripts: dict[str, str] = {}

    def start(self, name: str, submission: Submission, gpus: Optional[Sequence[str]] = None) -> None:
        """Start a job, and remember by what its processes are known."""
        assert submission.env is not None
        self._scripts[name] = submission.env["FAKE_SLURM_JOB"]
        super().start(name, submission, gpus)

    def signal_all(self, name: str, number: signal.Signals) -> None:
        """To every process of the job."""
        for process in psutil.process_iter():
            try:
                if process.environ().get("FAKE_SLURM_JOB") == self._scripts[name]:
                    process.send_signal(number)
            except psutil.Error:
                pass  # gone meanwhile, or not ours


class Controller:
    """The daemon."""

    def __init__(self, directory: Path, cpu: float, memory: int) -> None:
        self._directory = directory
        self._cpu, self._memory = cpu, memory
        self._starter = _Starter()
        self._to_kill: dict[str, float] = {}
        self._machine = SingleMachine(cpu, memory, self._starter)
        self._tasks: dict[str, Task] = {}  # by the name with which the machine knows them
        self._collapsed: dict[str, Task] = {}
        self._requeued: set[str] = set()
        self._accounts: list[Task] = []
        self._next = 1
        self._seconds = time.time()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(directory / "socket"))
        self._socket.listen(20)

    def serve(self) -> None:
        """Until it is killed."""
        while True:
            for end in self._machine.poll(0.0):
                self._ended(end)
            for key, moment in list(self._to_kill.items()):
                if moment <= time.monotonic():
                    del self._to_kill[key]
                    self._starter.signal_all(key, signal.SIGKILL)
            running = set(self._machine.running())
            for key, task in self._tasks.items():
                if task.state == "PENDING" and key in running:
                    task.state, task.reason, task.host = "RUNNING", "None", "node1"
            if select.select([self._socket], [], [], _TICK_SECONDS)[0]:
                connection, _ = self._socket.accept()
                with connection, connection.makefile("rwb") as file:
                    asked = json.loads(file.readline())
                    for end in self._machine.poll(0.0):
                        self._ended(end)
                    file.write(json.dumps(self._answer(asked)).encode() + b"\n")

    def _trick(self, name: str) -> Optional[str]:
        try:
            return (self._directory / "tricks" / name).read_text().strip()
        except FileNotFoundError:
            return None

    def _answer(self, asked: dict[str, Any]) -> tuple[int, str, str]:
        command, *words = asked["words"]
        if command == "sbatch":
            return self._sbatch(words, asked["read"], asked["env"])
        known = {
            "squeue": self._squeue,
            "scancel": self._scancel,
            "scontrol": self._scontrol,
            "sacct": self._sacct,
        }
        return known[command](words)

    # -- running -----------------------------------------------------------------------------------------------

    def _ended(self, end: End) -> None:
        task = self._tasks.get(end.name)
        if task is None:
            return  # it was cancelled in the queue
        if self._trick("requeue") is not None and end.name not in self._requeued:
            self._requeued.add(end.name)
            task.state, task.reason = "PENDING", "BeginTime"
            self._machine.issue([task.submission])
            return
        task.host = task.host or "node1"
        verdict = self._trick("verdict")
        if verdict is not None:
            task.state, status = verdict.split()
            task.reason, task.status = "None", int(status)
        elif task.cancelled:
            task.state, task.status = "CANCELLED", 15
        elif end.kind is EndKind.KILLED and end.reason is Reason.SIGNAL:
            task.state, task.reason, task.status = "FAILED", "JobLaunchFailure", end.signal or 0
        elif end.status:
            task.state, task.reason, task.status = "FAILED", "NonZeroExitCode", end.status << 8
        else:
            task.state = "COMPLETED"
        self._accounts.append(task)
        if self._trick("forget") is not None:
            del self._tasks[end.name]

    # -- commands ----------------------------------------------------------------------------------------------

    def _sbatch(self, words: list[str], script: str, env: dict[str, str]) -> tuple[int, str, str]:
        given = dict(word[2:].partition("=")[::2] for word in words)
        refuse = self._trick("refuse")
        if refuse is not None:
            return 1, "", f"sbatch: error: {refuse}\n"
        if "test-only" in given:
            return 0, "", "sbatch: Job 1 to start at 2000-01-01T00:00:00 using 1 processors\n"
        indices = read_tasks(given["array"])
        limit = self._trick("limit")
        there = sum(task.state in ("PENDING", "RUNNING") for task in self._tasks.values())
        if limit is not None and there + len(indices) > int(limit):
            said = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
            return 1, "", f"sbatch: error: Batch job submission failed: {said}\n"
        number = int(self._trick("number") or self._next)
        self._next = max(self._next, number) + len(indices)
        if self._trick("lose") is None:
            self._take(given, indices, number, script, env)
        with open(self._directory / "submitted", "a") as log:
            log.writelines(f"{given['job-name']} {given['comment']} {index}\n" for index in indices)
        if self._trick("mute") is not None:
            return (
                1,
                "",
                "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n",
            )
        return 0, f"{number}\n", ""

    def _take(
        self, given: dict[str, str], indices: list[int], number: int, script: str, env: dict[str, str]
    ) -> None:
        path = self._directory / "scripts" / f"{number}.{time.monotonic_ns()}"
        path.write_text(script)
        path.chmod(0o700)
        self._seconds = max(self._seconds + 1.0, time.time())
        submitted = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(self._seconds))
        never = self._trick("never")
        memory = int(given.get("mem", "0M").rstrip("M")) << 20
        for place, index in enumerate(indices):
            key = f"fake.{number}_{index}_{time.monotonic_ns()}"
            own = {
                **env, "SLURM_ARRAY_TASK_ID": str(index), "SLURM_JOB_ID": str(number + place), "TMPDIR": "/tmp",
                "SLURMD_NODENAME": "node1", "FAKE_SLURM_JOB": key,
            }  # fmt: skip
            job = Submission(
                key, (str(path),), Resources(float(given["cpus-per-task"]), memory), given["output"], "/", own
            )
            task = Task(
                str(number), index, str(number + place), given["job-name"], given["comment"], job, submitted
            )
            self._tasks[key] = task
            if never is not None:
                task.reason = never
            else:
                self._machine.issue([job])

    def _scancel(self, words: list[str]) -> tuple[int, str, str]:
        given = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
        wanted = set()
        for word in words:
            if not word.startswith("--"):
                array, _, tasks = word.partition("_")
                wanted |= {(array, index) for index in read_tasks(tasks)}
        for key, task in list(self._tasks.items()):
            if (task.array, task.index) not in wanted or task.name != given["name"]:
                continue
            if task.state == "PENDING" and given.get("signal") != "TERM":
                self._machine.cancel([key])
                self._collapsed[task.array] = dataclasses.replace(task, state="CANCELLED")
                del self._tasks[key]
            elif task.state == "RUNNING" and given.get("signal") == "TERM":
                self._starter.signal_all(key, signal.SIGTERM)
            elif task.state == "RUNNING" and given.get("state") != "PENDING":
                task.cancelled = True
                self._starter.signal_all(key, signal.SIGTERM)
                self._to_kill[key] = time.monotonic() + _KILL_WAIT
        return 0, "", ""

    def _squeue(self, words: list[str]) -> tuple[int, str, str]:
        given = dict(word[2:].partition("=")[::2] for word in words)
        garbage = self._trick("garbage")
        if garbage is not None or self._trick("blind") is not None:
            return 0, garbage or "", ""
        names = given["name"].split(",")
        fields = [field.rstrip(":|") for field in given["Format"].split(",")]
        lines = []
        waiting: dict[str, list[Task]] = {}
        for task in self._tasks.values():
            if task.name not in names:
                continue
            if task.state == "PENDING":
                waiting.setdefault(task.array + task.comment, []).append(task)
            else:
                lines.append(self._line(fields, task, str(task.index)))
        for together in waiting.values():
            lines.append(self._line(fields, together[0], write_tasks(task.index for task in together)))
        for task in self._collapsed.values():
            if task.name in names:
                lines.append(self._line(fields, task, "N/A"))
        return 0, "".join(lines), ""

    def _line(self, fields: list[str], task: Task, tasks: str) -> str:
        state = task.state
        if self._trick("completing") is not None and task in self._accounts:
            state = "COMPLETING"
        known = {
            "ArrayJobID": task.array, "ArrayTaskID": tasks, "JobID": task.job, "State": state, "Reason": task.reason,
            "exit_code": "0" if state == "COMPLETING" else str(task.status), "SubmitTime": task.submitted,
            "NodeList": task.host, "Name": task.name, "Comment": task.comment,
        }  # fmt: skip
        return "".join(f"{known[field]}|" for field in fields) + "\n"

    def _sacct(self, words: list[str]) -> tuple[int, str, str]:
        given = dict(word[2:].partition("=")[::2] for word in words)
        lines = []
        for task in self._accounts:
            if task.array in given["jobs"].split(","):
                code = f"{task.status >> 8}:{task.status & 127}"
                line = (f"{task.array}_{task.index}", task.job, task.name, task.state, code, task.submitted,
                        "2000-01-01T00:00:00", task.host)  # fmt: skip
                lines.append("|".join(line) + "\n")
        return 0, "".join(lines), ""

    def _scontrol(self, words: list[str]) -> tuple[int, str, str]:
        if words[-2:] == ["show", "config"]:
            accounting = "slurmdbd" if self._trick("accounting") is not None else "none"
            return 0, f"AccountingStorageType = accounting_storage/{accounting}\nMaxArraySize = 101\n", ""
        if words[-2:] == ["show", "partition"]:
            return 0, "PartitionName=one Default=YES State=UP\n", ""
        if words[-2:] == ["show", "node"]:
            mebibytes = self._memory >> 20
            node = f"NodeName=node1 CPUTot={int(self._cpu)} RealMemory={mebibytes} State=IDLE Partitions=one"
            return 0, node + " BootTime=2000-01-01T00:00:00\n", ""
        if words[-3:-1] == ["show", "job"]:
            found = [
                f"JobId={t.job} ArrayJobId={t.array} ArrayTaskId={t.index} JobName={t.name} JobState={t.state} "
                f"Reason={t.reason} ExitCode={t.status >> 8}:{t.status & 127} SubmitTime={t.submitted} "
                f"NodeList={t.host or '(null)'} Comment={t.comment} \n"
                for t in self._tasks.values()
                if t.array == words[-1]
            ]
            return (
                (0, "".join(found), "")
                if found
                else (1, "", "slurm_load_jobs error: Invalid job id specified\n")
            )
        return 1, "", "invalid entity\n"


def main() -> None:
    """The daemon's process."""
    directory, cpu, memory = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Controller(directory, cpu, memory).serve()


if __name__ == "__main__":
    main()
