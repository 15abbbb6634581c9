"""A hub of Parasol for tests: the formats and the behaviour of 12.18, as far as a client can tell.

It really runs the jobs. Its directory holds its socket, the state that the nodes keep when it is killed, and
``tricks/``: files with which a test has it misbehave.

    lose    submissions are acknowledged and dropped
    sick    batches are sick, whatever is done about it
    hold    nothing is started
    down    (looked at by the client) nobody answers
    mute    (looked at by the client) it does what it is asked, and its answer is lost

Like the real one: commands are split at blanks; cores belong to the batch, which is a user and a results file; a job
that is removed gets one SIGTERM, is forgotten, and never gets a result; three failures of a batch make a node sick for
it, 25 in a row the batch, whose waiting jobs are dropped then; a hub that is killed loses what waits, and what runs
gets its result in ``para.results`` of its own directory; numbers go on a hundred thousand later.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Optional

USER = "tester"
NODE_FAILURES = 3
BATCH_FAILURES = 25
_TICK_SECONDS = 0.02
_NODE_JOB = os.path.join(os.path.dirname(os.path.abspath(__file__)), "node_job.py")


class _Job:
    def __init__(self, id: int, words: list[str], results: str, directory: str, submitted: int) -> None:
        self.id = id
        self.words = words
        self.results = results
        self.directory = directory
        self.submitted = submitted
        self.started = 0
        self.node = ""
        self.cpu = 1


class _Batch:
    def __init__(self) -> None:
        self.cpu = 1
        self.in_a_row = 0
        self.failures: dict[str, int] = {}


class Hub:
    """The daemon. nodes: their cores, by name."""

    def __init__(self, directory: Path, nodes: dict[str, int]) -> None:
        self._directory = directory
        self._nodes = nodes
        self._waiting: list[_Job] = []
        self._running: dict[int, _Job] = {}
        self._batches: dict[str, _Batch] = {}
        self._next_id = 1
        for name in ("running", "tricks"):
            (directory / name).mkdir(exist_ok=True)
        self._recover()

    def serve(self) -> None:
        """Until it is killed."""
        path = str(self._directory / "hub")
        if os.path.exists(path):
            os.unlink(path)
        with socket.socket(socket.AF_UNIX) as listening, selectors.DefaultSelector() as selector:
            listening.bind(path)
            listening.listen(100)
            selector.register(listening, selectors.EVENT_READ)
            while True:
                if selector.select(_TICK_SECONDS):
                    connection, _ = listening.accept()
                    with connection:
                        self._answer(connection)
                self._collect()
                self._plan()

    def _trick(self, name: str) -> bool:
        return (self._directory / "tricks" / name).exists()

    # -- what is asked -----------------------------------------------------------------------------------------

    def _answer(self, connection: socket.socket) -> None:
        data = b""
        while not data.endswith(b"\n"):
            piece = connection.recv(65536)
            if not piece:
                return
            data += piece
        out, err, status = self._do(json.loads(data))
        try:
            connection.sendall(json.dumps({"out": out, "err": err, "status": status}).encode())
        except OSError:
            pass

    def _do(self, words: list[str]) -> tuple[str, str, int]:
        options: dict[str, str] = {}
        while words and words[0].startswith("-"):
            name, _, value = words.pop(0)[1:].partition("=")
            options[name] = value
        what = " ".join(words[:2])
        if what == "add job":
            return self._add(options, " ".join(words[2:]).split())
        if what == "list jobs":
            return self._list("extended" in options), "", 0
        if what == "remove job":
            self._remove(int(words[2]))
        elif what == "clear sick":
            batch = self._batches.get(options["results"])
            if batch is not None:
                batch.in_a_row, batch.failures = 0, {}
        elif what == "list sick":
            return self._sick(), "", 0
        elif words[0] == "status":
            cpus = sum(self._nodes.values())
            return f"CPUs total: {cpus}\nJobs running:  {len(self._running)}\nVersion: 12.18\n", "", 0
        elif words[0] == "ping":
            return "Pinged hub 1 times\n", "", 0
        return "", "", 0

    def _add(self, options: dict[str, str], words: list[str]) -> tuple[str, str, int]:
        results = options["results"]
        batch = self._batches.setdefault(results, _Batch())
        batch.cpu = int(options.get("cpu", "1"))
        if self._trick("sick") or batch.in_a_row >= BATCH_FAILURES:
            return "", "sick batch?: hub returned jobId==0\n", 255
        id, self._next_id = self._next_id, self._next_id + 1
        if not self._trick("lose"):
            self._waiting.append(_Job(id, words, results, options["dir"], int(time.time())))
        with open(self._directory / "submitted", "a") as file:
            file.write(" ".join(words) + "\n")
        return f"{id}\n", "", 0

    def _list(self, extended: bool) -> str:
        lines = []
        for job in (*self._running.values(), *self._waiting):
            when = time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(job.started or job.submitted))
            line = f"{job.id:<4} {job.node or 'none':<10} {USER:<10} {when} {' '.join(job.words)}"
            lines.append(f"{line} {job.results}" if extended else line)
        return "".join(f"{line}\n" for line in lines)

    def _sick(self) -> str:
        nodes = {
            node
            for batch in self._batches.values()
            for node, number in batch.failures.items()
            if number >= NODE_FAILURES
        }
        return "".join(f"{node}\n" for node in sorted(nodes)) + (
            "Strength of evidence: 1 users\n" if nodes else ""
        )

    def _remove(self, id: int) -> None:
        self._waiting = [job for job in self._waiting if job.id != id]
        if id in self._running:
            pid = self._pid(id)
            if pid is not None:
                try:
                    os.killpg(pid, signal.SIGTERM)
                except ProcessLookupError:
                    pass
            self._forget(id)

    # -- what runs ---------------------------------------------------------------------------------------------

    def _plan(self) -> None:
        if self._trick("hold"):
            return
        for job in list(self._waiting):
            node = self._free_node(job)
            if node is not None:
                self._waiting.remove(job)
                self._start(job, node)

    def _free_node(self, job: _Job) -> Optional[str]:
        batch = self._batches[job.results]
        for node, cpus in self._nodes.items():
            used = sum(other.cpu for other in self._running.values() if other.node == node)
            if batch.failures.get(node, 0) < NODE_FAILURES and used + batch.cpu <= cpus:
                return node
        return None

    def _start(self, job: _Job, node: str) -> None:
        job.node, job.cpu, job.started = node, self._batches[job.results].cpu, int(time.time())
        self._running[job.id] = job
        stored: dict[str, Any] = vars(job)
        (self._directory / "running" / f"{job.id}.json").write_text(json.dumps(stored))
        subprocess.Popen(
            [sys.executable, "-S", "-E", _NODE_JOB, job.directory, self._status_file(job.id), *job.words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "JOB_ID": str(job.id), "HOST": node, "PARASOL": "7"},
            start_new_session=True,
        )

    def _status_file(self, id: int) -> str:
        return str(self._directory / "running" / f"{id}.status")

    def _pid(self, id: int) -> Optional[int]:
        path = Path(self._status_file(id) + ".pid")
        deadline = time.monotonic() + 10
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        return int(path.read_text()) if path.exists() else None

    def _collect(self) -> None:
        for job in list(self._running.values()):
            try:
                status = int(Path(self._status_file(job.id)).read_text())
            except FileNotFoundError:
                continue
            self._forget(job.id)
            self._result(job, status)

    def _result(self, job: _Job, status: int) -> None:
        command = " ".join(job.words)
        with open(job.results, "a") as file:
            file.write(
                f"{status} {job.node} {job.id} {os.path.basename(job.words[0])} 0 0 {job.submitted} {job.started} "
                f"{int(time.time())} {USER} /tmp/para{job.id}.err '{command}'\n"
            )
        batch = self._batches.setdefault(job.results, _Batch())
        if not status:
            batch.in_a_row = 0
            return
        batch.in_a_row += 1
        batch.failures[job.node] = batch.failures.get(job.node, 0) + 1
        if batch.in_a_row >= BATCH_FAILURES:
            self._waiting = [other for other in self._waiting if other.results != job.results]

    def _forget(self, id: int) -> None:
        self._running.pop(id, None)
        (self._directory / "running" / f"{id}.json").unlink(missing_ok=True)

    def _recover(self) -> None:
        """After a crash: what waited is gone, what runs has its results written elsewhere."""
        for path in (self._directory / "running").glob("*.json"):
            stored = json.loads(path.read_text())
            job = _Job(
                stored["id"], stored["words"], stored["results"], stored["directory"], stored["submitted"]
            )
            job.node, job.cpu, job.started = stored["node"], stored["cpu"], stored["started"]
            job.results = os.path.join(job.directory, "para.results")
            self._running[job.id] = job
            self._next_id = max(self._next_id, job.id + 100_000)


def main() -> None:
    """The daemon's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    Hub(Path(sys.argv[1]), json.loads(sys.argv[2])).serve()


if __name__ == "__main__":
    main()
