"""What a run tells the user, and how an error ends a command.

News are log lines of the logger ``jobtree``. A failure is reported in full on standard error when a job is given up,
with everything that is needed to find out why. All text that came from targets is shown with its control characters
escaped: a log must not be able to move the cursor of whoever reads it.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from types import TracebackType
from typing import Optional

from jobtree import clock
from jobtree.errors import JobTreeError, RunStopped, UsageError
from jobtree.paths import job_name
from jobtree.schema import FailureRow
from jobtree.shown import one_line, shown

log: logging.Logger = logging.getLogger("jobtree")

REQUIRED: tuple[str, ...] = ("cloudpickle", "filelock", "psutil", "rich")
"""What an installation brings along (a test holds it to setup.cfg), and a checkout does not."""


def describe_failure(row: FailureRow, given_up: bool, root: str) -> str:
    """A failure for people, in a few lines or a few dozen; root: the job tree."""
    failure = row.failure
    what = "failed and is given up" if given_up else "failed and will be tried again"
    where = f"attempt {row.attempt} on {row.host or 'an unknown host'}, bundle {row.bundle or '-'}"
    if not row.attempt:
        where = "it was never started"
    lines = [
        f"Job {job_name(row.job)} ({one_line(row.name)}) {what}: {_indented(failure.message).strip()}",
        f"  {where}, {clock.text(row.moment)}, reason: {failure.kind}",
    ]
    lines.append(
        f"  to run it here, under a debugger: jobTreeRun --jobTree {one_line(shlex.quote(root))} --debug "
        f"{job_name(row.job)}"
    )
    if failure.traceback:
        lines.append(_indented(failure.traceback))
    if row.log is not None and failure.log_end > failure.log_start:
        lines.append(f"  The job seems to have left a log file, indicating failure: {one_line(row.log)}")
        lines.append(f"  (bytes {failure.log_start} to {failure.log_end}); its last lines:")
        lines.append(_indented(failure.output))
    return "\n".join(lines)


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in shown(text).rstrip("\n").split("\n"))


def jobs(number: int) -> str:
    """A number of jobs in words: "1 job", "2 jobs"."""
    return f"{number} job" if number == 1 else f"{number} jobs"


def how_to_continue(root: str) -> str:
    """The command that continues a tree."""
    return f"Continue with: {command('jobTreeRun', '--jobTree', root)}"


def command(*words: str) -> str:
    """A command line to copy."""
    return one_line(shlex.join(words))


def message_from_job(message: str) -> None:
    """A line that a target sent with logToMaster; the words before it are what other programs look for."""
    # Further lines are indented, so that none looks like a line of ours.
    log.critical(
        "Got message from job at time: %s : %s", clock.wall(), shown(message).replace("\n", "\n    ")
    )


def end_with(error: JobTreeError, program: Optional[str] = None) -> int:
    """Tell an error on standard error, without a traceback; returns the exit status."""
    prefix = f"{program}: " if program else "jobtree: "
    try:
        sys.stdout.flush()
        print(prefix + shown(str(error)), file=sys.stderr, flush=True)
    except OSError:
        # Our output goes to a disk that is full, or to nobody. What could not be written would be tried again when
        # Python ends, and the exit status, which is all that is left to say it with, would become another one.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in (1, 2):
            os.dup2(nowhere, number)
    return error.exit_status


def of_missing(error: BaseException) -> Optional[UsageError]:
    """What to tell instead of an error, if it is that something is not installed that jobtree needs; else None."""
    if not isinstance(error, ModuleNotFoundError) or error.name not in REQUIRED:
        return None
    return UsageError(
        f"{error.name} is missing, which jobtree needs: this Python does not find it. Install what is needed:\n"
        f"{command(sys.executable, '-m', 'pip', 'install', *REQUIRED)}"
    )


def install_excepthook() -> None:
    """Have errors of ours that nobody catches end the script with their message and status, not with a traceback."""
    previous = sys.excepthook
    if getattr(previous, "of_jobtree", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: Optional[TracebackType]) -> None:
        if isinstance(error, Interrupted):
            _die_of_sigint()
        error = of_missing(error) or error
        if isinstance(error, JobTreeError):
            # Raising SystemExit in the hook is how a hook sets the exit status.
            raise SystemExit(end_with(error))
        previous(kind, error, trace)

    hook.of_jobtree = True  # type: ignore[attr-defined]
    sys.excepthook = hook


class Interrupted(KeyboardInterrupt):
    """Ctrl-C stopped a run; what that means was said already."""


def interrupted() -> Interrupted:
    """The exception for a Ctrl-C that came before the run could stop in order, or once more while its end was told."""
    log.critical("Stopped by Ctrl-C. The same command again goes on from there.")
    return Interrupted()


def _die_of_sigint() -> None:
    # The way in which a shell learns that a program was interrupted and not merely unsuccessful (status 130).
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)


def stopped_by(number: int) -> BaseException:
    """The exception with which a run ends that was stopped by a signal, after it was said how to continue."""
    if number == signal.SIGINT:
        return Interrupted()
    return RunStopped(f"stopped by {signal.Signals(number).name}", number)
