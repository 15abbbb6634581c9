"""jobTreeStatus: how far a run is, and what has failed and why."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any, Callable, Optional

from jobtree import clock, job_views, report, snapshot
from jobtree.cli import disk_view, program
from jobtree.contents import TargetClass
from jobtree.errors import UsageError
from jobtree.job_views import View, failure_as_json
from jobtree.paths import TreePaths, job_name
from jobtree.quantities import format_duration
from jobtree.shown import one_line
from jobtree.snapshot import Snapshot

_NAME = "jobTreeStatus"
_FOLLOW_SECONDS = 2.0
_STATES = ("ready", "issued", "blocked", "failed", "done")
_MEANING = {
    "ready": "can start as soon as there is room",
    "issued": "running, or about to",
    "blocked": "wait for their children",
    "failed": "given up",
    "done": "",
}
_IN_WORDS = {
    snapshot.COMPLETE: "complete: every job is done",
    snapshot.FAILED: "ended with failed jobs",
    snapshot.STOPPED: "stopped before the end",
    snapshot.INTERRUPTED: "interrupted: its master died, or the machine did",
}
_NOT_BEGUN = "nothing of it has run yet: its start was refused, or its master died at once"


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit status."""
    return program.run(_NAME, _command, argv)


def _parser() -> argparse.ArgumentParser:
    parser = program.parser(
        _NAME,
        "Show how far a run is: while it runs, and after its end, whatever that was. It only looks.",
        "  jobTreeStatus --failed ./tree        each failed job with its reason\n"
        "  jobTreeStatus --why 17-3 ./tree      why that job does not run\n"
        "  jobTreeStatus --tree --follow ./tree\n"
        "  jobTreeStatus ./tree --failIfNotComplete && echo done",
    )
    program.add_tree(parser)
    views = parser.add_argument_group("views of single jobs", "One of them, instead of how far the run is.")
    shown = parser.add_argument_group("how it is shown")
    answers = parser.add_argument_group("answers for scripts", "The exit status is 0 for yes, 1 for no.")
    shown.add_argument("--verbose", action="store_true", help="tell of each failed job why")
    views.add_argument("--failed", action="store_true", help="the jobs that were given up, and why")
    views.add_argument(
        "--running", action="store_true", help="what runs at this moment: how long, where, its log"
    )
    views.add_argument("--why", metavar="JOB", help="why this job is not running, or not done, in words")
    views.add_argument("--log", metavar="JOB", help="what this job has printed")
    views.add_argument("--tree", action="store_true", help="the jobs that are not done, below one another")
    shown.add_argument("--below", metavar="JOB", help="with --tree: only this job and what is below it")
    shown.add_argument(
        "--depth", metavar="N", type=_positive, default=3, help="with --tree: so many levels; default: 3"
    )
    shown.add_argument(
        "--most",
        metavar="N",
        type=_positive,
        default=20,
        help="so many jobs of each list, and classes, at most; default: 20",
    )
    shown.add_argument(
        "--follow",
        action="store_true",
        help=f"show it again every {_FOLLOW_SECONDS:g} seconds, until the run is over",
    )
    answers.add_argument("--failIfNotComplete", action="store_true", help="whether all jobs are done")
    answers.add_argument(
        "--check",
        action="store_true",
        help="whether everything in the tree is as it should be, and if not, what",
    )
    shown.add_argument("--json", action="store_true", help="one JSON object, for programs")
    return parser


def _command(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.check:
        return _check(TreePaths(os.path.abspath(program.tree_of(arguments))), arguments.json)
    paths, config = snapshot.find(program.tree_of(arguments), shared=True)
    view = _view(paths, arguments)
    while True:
        # In this order: what was shown last is the end, where it has ended.
        seen = snapshot.take(paths, failures=arguments.verbose) if view is None or arguments.follow else None
        _show(
            view() if view is not None else _overall(_required(seen), paths, config.run, arguments), arguments
        )
        if not arguments.follow or (seen is not None and seen.state != snapshot.RUNNING):
            break
        time.sleep(_FOLLOW_SECONDS)
    if not arguments.failIfNotComplete:
        return 0
    return 0 if (seen or snapshot.take(paths)).state == snapshot.COMPLETE else 1


def _required(seen: Optional[Snapshot]) -> Snapshot:
    assert seen is not None
    return seen


def _view(paths: TreePaths, arguments: argparse.Namespace) -> Optional[Callable[[], View]]:
    """The view of single jobs that was asked for; None: how far the tree is. Raises UsageError for two of them."""
    most = arguments.most
    views: dict[str, Callable[[], View]] = {}
    if arguments.failed:
        views["--failed"] = lambda: job_views.failed(paths, most)
    if arguments.running:
        views["--running"] = lambda: job_views.running(paths, most)
    if arguments.why is not None:
        views["--why"] = lambda: job_views.why(paths, arguments.why)
    if arguments.log is not None:
        views["--log"] = lambda: job_views.log(paths, arguments.log)
    if arguments.tree or arguments.below is not None:
        views["--tree"] = lambda: job_views.tree(paths, arguments.below, arguments.depth, most)
    if len(views) > 1:
        raise UsageError(f"{' and '.join(views)} were given, and one view at a time is shown.")
    return next(iter(views.values()), None)


def _overall(seen: Snapshot, paths: TreePaths, run: str, arguments: argparse.Namespace) -> View:
    disk = disk_view.look(paths, run)
    return View(
        _as_text(seen, arguments.verbose, arguments.most, disk),
        {**_as_json(seen, arguments.verbose), "disk": disk.value},
    )


def _show(view: View, arguments: argparse.Namespace) -> None:
    if arguments.json:
        # One line each when there are many, so that a program can tell them apart.
        print(json.dumps(view.value, indent=None if arguments.follow else 1), flush=True)
        return
    if arguments.follow and sys.stdout.isatty():
        sys.stdout.write("\x1b[H\x1b[2J")
    elif arguments.follow:
        print(f"-- {clock.text(clock.wall())}")
    print("\n".join(view.lines), flush=True)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} was given, and a whole number from 1 on is expected")
    return int(text)


def _so_many(wrong: int) -> str:
    if wrong == 1:
        return "1 thing is wrong"
    return f"{wrong} things are wrong" if wrong else "nothing is wrong"


def _check(paths: TreePaths, as_json: bool) -> int:
    from jobtree import (
        check,
    )  # it imports half of the library, which takes longer than to say how far a run is

    found = check.check(paths)
    wrong = sum(finding.wrong for finding in found)
    if as_json:
        print(
            json.dumps(
                {"jobTree": paths.root, "wrong": wrong, "findings": [vars(f) for f in found]}, indent=1
            )
        )
    else:
        for finding in found:
            print(f"{one_line(finding.path)}: {one_line(finding.found)}")
            print(f"    {one_line(finding.advice)}")
        print(f"{one_line(paths.root)}: {_so_many(wrong)}")
    return 1 if wrong else 0


# -- for people ------------------------------------------------------------------------------------------------


def _as_text(seen: Snapshot, verbose: bool, most: int, disk: View) -> list[str]:
    lines = [f"{one_line(seen.root)}: {_state(seen)}"]
    if seen.paused is not None and seen.state != snapshot.COMPLETE:
        go_on = f"jobTreeRun --goOn {one_line(shlex.quote(seen.root))}"
        lines.append(f"paused by {one_line(seen.paused)}: nothing is issued. Go on with: {go_on}")
    meaning = (
        _MEANING
        if seen.state == snapshot.RUNNING
        else {**_MEANING, "issued": "were out when the master ended"}
    )
    for state in _STATES:
        number = getattr(seen.counts, state)
        lines.append(f"{number:12d} {state:8} {meaning[state] if number else ''}".rstrip())
    kinds = [kind for kind in seen.classes if sum(kind.counts)]
    if len(kinds) > 1:
        lines += ["", *_classes(kinds, most)]
    lines += disk.lines
    if verbose:
        lines += _running(seen)
        for row in seen.failed:
            lines += ["", report.describe_failure(row, True, seen.root)]
        for row in seen.retried:
            lines += ["", report.describe_failure(row, False, seen.root)]
        if seen.counts.failed > len(seen.failed):
            lines += ["", f"{seen.counts.failed - len(seen.failed)} more have failed"]
        if seen.failed or seen.retried:
            lines.append("")
    elif seen.counts.failed:
        lines.append(f"See why with: {_NAME} --verbose {one_line(shlex.quote(seen.root))}")
    if seen.state not in (snapshot.RUNNING, snapshot.COMPLETE):
        lines.append(report.how_to_continue(seen.root))
    return lines


def _classes(kinds: Sequence[TargetClass], most: int) -> list[str]:
    """A table of counts by class, the largest first. Names come last, because nothing bounds their length."""
    shown = sorted(kinds, key=lambda kind: (-sum(kind.counts), kind.name))
    lines = ["".join(f"{state:>9}" for state in _STATES) + "  class"]
    for kind in shown[:most]:
        lines.append("".join(f"{number:9d}" for number in kind.counts) + f"  {one_line(kind.name)}")
    if len(shown) > most:
        lines.append(f"and {len(shown) - most} more classes (--most N)")
    return lines


def _running(seen: Snapshot) -> list[str]:
    """A line for each running job, where the master has told of them."""
    lines = []
    for job in seen.running or ():
        what = f"{job_name(job.job)} ({one_line(job.name)})"
        where = one_line(job.host) or "the machine of the master"
        how = f"attempt {job.attempt}, bundle {job.bundle}{job_views.progress(job)}"
        lines.append(f"{'':13}{what} runs on {where} for {format_duration(job.seconds)}, {how}")
    return lines


def _state(seen: Snapshot) -> str:
    if seen.state == snapshot.INTERRUPTED and sum(seen.counts) == seen.counts.ready == 1:
        return _NOT_BEGUN
    if seen.state != snapshot.RUNNING:
        return _IN_WORDS[seen.state]
    if seen.master is None:
        return "running, by a master that has just started"
    master = seen.master
    return (
        f"running on host {one_line(master.host)} with pid {master.pid}, since {clock.text(master.started)}"
    )


# -- for programs ----------------------------------------------------------------------------------------------


def _as_json(seen: Snapshot, verbose: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "jobTree": seen.root,
        "state": seen.state,
        "master": seen.master._asdict() if seen.master is not None else None,
        "paused": seen.paused,
        "counts": seen.counts._asdict(),
        "classes": [{**kind._asdict(), "counts": kind.counts._asdict()} for kind in seen.classes],
    }
    if verbose:
        found["failed"] = [failure_as_json(row) for row in seen.failed]
        found["retried"] = [failure_as_json(row) for row in seen.retried]
        if seen.running is not None:
            found["running"] = [{**job._asdict(), "job": job_name(job.job)} for job in seen.running]
    return found
