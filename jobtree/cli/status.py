"""jobTreeStatus: how far a run is, and what has failed and why."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Sequence
from typing import Any, Optional

from jobtree import clock, report, snapshot
from jobtree.cli import program
from jobtree.paths import TreePaths, job_name
from jobtree.quantities import format_duration
from jobtree.schema import FailureRow
from jobtree.shown import one_line
from jobtree.snapshot import Snapshot

_NAME = "jobTreeStatus"
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


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit status."""
    return program.run(_NAME, _command, argv)


def _parser() -> argparse.ArgumentParser:
    parser = program.parser(
        _NAME,
        "Show how far a run is: while it runs, and after its end, whatever that was.",
        "  jobTreeStatus --verbose ./tree       each failed job with its reason\n"
        "  jobTreeStatus ./tree --failIfNotComplete && echo done",
    )
    program.add_tree(parser)
    parser.add_argument("--verbose", action="store_true", help="tell of each failed job why")
    parser.add_argument(
        "--failIfNotComplete", action="store_true", help="exit status 1 unless all jobs are done"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="look through everything in the tree, and tell what is not as it should be; exit status 1 if anything",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    return parser


def _command(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.check:
        return _check(TreePaths(os.path.abspath(program.tree_of(arguments))), arguments.json)
    paths, _ = snapshot.find(program.tree_of(arguments))
    seen = snapshot.take(paths, failures=arguments.verbose)
    if arguments.json:
        print(json.dumps(_as_json(seen, arguments.verbose), indent=1))
    else:
        print("\n".join(_as_text(seen, arguments.verbose)))
    return 1 if arguments.failIfNotComplete and seen.state != snapshot.COMPLETE else 0


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
        print(f"{one_line(paths.root)}: {f'{wrong} things are wrong' if wrong else 'nothing is wrong'}")
    return 1 if wrong else 0


# -- for people ------------------------------------------------------------------------------------------------


def _as_text(seen: Snapshot, verbose: bool) -> list[str]:
    lines = [f"{one_line(seen.root)}: {_state(seen)}"]
    meaning = (
        _MEANING
        if seen.state == snapshot.RUNNING
        else {**_MEANING, "issued": "were out when the master ended"}
    )
    for state in _STATES:
        number = getattr(seen.counts, state)
        lines.append(f"{number:12d} {state:8} {meaning[state] if number else ''}".rstrip())
    if verbose:
        lines += _running(seen)
        for row in seen.failed:
            lines += ["", report.describe_failure(row, given_up=True)]
        for row in seen.retried:
            lines += ["", report.describe_failure(row, given_up=False)]
        if seen.counts.failed > len(seen.failed):
            lines += ["", f"{seen.counts.failed - len(seen.failed)} more have failed"]
        if seen.failed or seen.retried:
            lines.append("")
    elif seen.counts.failed:
        lines.append(f"See why with: {_NAME} --verbose {one_line(shlex.quote(seen.root))}")
    if seen.state not in (snapshot.RUNNING, snapshot.COMPLETE):
        lines.append(report.how_to_continue(seen.root))
    return lines


def _running(seen: Snapshot) -> list[str]:
    """A line for each running job, where the master has told of them."""
    lines = []
    for job in seen.running or ():
        what = f"{job_name(job.job)} ({one_line(job.name)})"
        where = one_line(job.host) or "the machine of the master"
        how = f"attempt {job.attempt}, bundle {job.bundle}"
        lines.append(f"{'':13}{what} runs on {where} for {format_duration(job.seconds)}, {how}")
    return lines


def _state(seen: Snapshot) -> str:
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
        "counts": seen.counts._asdict(),
        "classes": [{**kind._asdict(), "counts": kind.counts._asdict()} for kind in seen.classes],
    }
    if verbose:
        found["failed"] = [_failure(row) for row in seen.failed]
        found["retried"] = [_failure(row) for row in seen.retried]
        if seen.running is not None:
            found["running"] = [{**job._asdict(), "job": job_name(job.job)} for job in seen.running]
    return found


def _failure(row: FailureRow) -> dict[str, Any]:
    failure = row.failure
    return {
        "job": job_name(row.job),
        "class": row.name,
        "attempt": row.attempt,
        "reason": failure.kind,
        "message": failure.message,
        "traceback": failure.traceback,
        "output": failure.output,
        "log": row.log,
        "log_start": failure.log_start,
        "log_end": failure.log_end,
        "host": row.host,
        "bundle": row.bundle,
        "time": row.moment,
    }
