"""Talking to Parasol's hub: what its ``parasol`` command is asked, and what its answers mean.

The formats are those of Parasol 12.18 (https://github.com/ucscGenomeBrowser/kent, src/parasol). What must hold:

  - A call takes at most some seconds. What did not answer in time is down, or has been told and could not say so:
    whoever submits looks for the job before it submits it again.
  - An answer in another form than these is no answer.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from typing import NamedTuple, Optional

from batchsystems.abstract import BatchSystemError

CALL_SECONDS = 5.0
"""A hub that is down is given up after 1.3 s by the command itself."""

_JOB_ID = re.compile(r"\s*(\d+)\s*")
_LISTED = re.compile(
    r"(?P<id>\d+)\s+(?P<machine>\S+)\s+(?P<user>\S+)\s+\d{4}/\d\d/\d\d \d\d:\d\d:\d\d (?P<rest>.*)"
)
_CPUS = re.compile(r"CPUs total:\s*(\d+)")


class HubDown(BatchSystemError):
    """The hub did not answer. What was asked may or may not have been done."""


class SickBatch(BatchSystemError):
    """So many jobs of the batch have failed in a row that the hub takes no more of them until it is cleared."""


class Listed(NamedTuple):
    """A job that the hub has: its number, where it runs ("" while it waits), its command."""

    id: int
    machine: str
    command: str


class Result(NamedTuple):
    """A line of a results file: a wait status, the machine, the number, the command."""

    status: int
    machine: str
    id: int
    command: str


class Hub:
    """One hub, asked by a command line such as "parasol" or "/opt/bin/parasol -host=hub". ``calls`` counts them."""

    def __init__(self, command: str) -> None:
        self._command = shlex.split(command)
        self.calls = 0
        if not self._command:
            raise BatchSystemError("--parasolCommand is empty; expected the parasol program")

    def add(self, command: str, results: str, directory: str, cpu: int, memory: int) -> int:
        """Submit a command line, which the hub splits at blanks; memory in bytes, 0: what is usual there.

        Returns the job's number. Raises SickBatch, HubDown, BatchSystemError.
        """
        options = [f"-results={results}", f"-dir={directory}", f"-cpu={cpu}"]
        if memory:
            options.append(f"-ram={-(-memory // 2**20)}m")
        answer = self._ask("-printId", *options, "add", "job", *command.split(" "))
        match = _JOB_ID.fullmatch(answer)
        if match is None or int(match.group(1)) == 0:
            raise SickBatch(f"parasol add job gave no number: {answer.strip() or 'nothing'}")
        return int(match.group(1))

    def listed(self) -> list[Listed]:
        """Everything that waits or runs, of all users. Raises HubDown, BatchSystemError."""
        found = []
        for line in self._ask("-extended", "list", "jobs").splitlines():
            match = _LISTED.fullmatch(line)
            if match is None:
                continue  # a headline, or a warning
            machine = match.group("machine")
            command = match.group("rest").rpartition(" ")[0]  # the results file stands behind it
            found.append(Listed(int(match.group("id")), "" if machine == "none" else machine, command))
        return found

    def remove(self, id: int) -> None:
        """Forget a job; a running one gets SIGTERM. The answer is the same whether it was known or not."""
        self._ask("remove", "job", str(id))

    def plan(self) -> None:
        """Have a new batch looked at now instead of at the next heartbeat (15 s)."""
        self._ask("ping")

    def clear_sick(self, results: str) -> None:
        """Have a batch's failures forgotten."""
        self._ask(f"-results={results}", "clear", "sick")

    def sick(self) -> list[str]:
        """The nodes that are used no more for some batch."""
        lines = self._ask("list", "sick").splitlines()
        return [line.split()[0] for line in lines if line.strip() and not line.startswith("Strength")]

    def cpus(self) -> Optional[int]:
        """Cores of all nodes together; None if the hub does not say."""
        match = _CPUS.search(self._ask("status"))
        return int(match.group(1)) if match else None

    def _ask(self, *words: str) -> str:
        self.calls += 1
        try:
            ended = subprocess.run(
                [self._command[0], *self._command[1:], *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=CALL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise HubDown(
                f"parasol {' '.join(words[-2:])} did not answer within {CALL_SECONDS:g} s"
            ) from None
        except OSError as error:
            raise BatchSystemError(
                f"the command {self._command[0]!r} cannot be run: {error}. --parasolCommand says what it is called"
            ) from error
        said = ended.stderr.decode(errors="replace").strip()
        if "sick batch" in said:
            raise SickBatch(said)
        if ended.returncode:
            # "add job" dies of SIGSEGV when the hub is down; the others say 255, as they do of everything else.
            how = f"signal {-ended.returncode}" if ended.returncode < 0 else f"exit status {ended.returncode}"
            raise HubDown(f"parasol {' '.join(words[-2:])[:200]}: {how}: {said or 'nothing was said'}")
        return ended.stdout.decode(errors="surrogateescape")


def read_results(data: bytes) -> tuple[list[Result], int]:
    """The whole lines of a piece of a results file, and how many bytes they are. Lines of another form are left out."""
    end = data.rfind(b"\n") + 1
    found = []
    for line in data[:end].decode(errors="surrogateescape").splitlines():
        fields = line.split(" ", 11)
        if len(fields) == 12 and fields[0].isdigit() and fields[2].isdigit():
            found.append(Result(int(fields[0]), fields[1], int(fields[2]), fields[11].strip("'")))
    return found, end
