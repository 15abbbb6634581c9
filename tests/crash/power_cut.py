"""Runs a pipeline on a file system that loses power, boots, and starts it again, until it has ended.

    python tests/crash/power_cut.py --runs 200 --seed 7 [--local] [--lies]

One run: the power is cut several times, each time after so many operations of the file system as the seed says; all
processes are killed in that instant, and what was not synced is lost, all of it or a subset. Then the file system is
mounted again with what is left, and the same command started. At the end it must have ended right: every target's files
there when the one that needs them looks, the result right, nothing left behind, and no target started again after
something had been started that followed from its success.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Optional

from tests.crash.mounts import DEADLINE_SECONDS, Machine, Mount

PIPELINE = Path(__file__).with_name("power_cut_pipeline.py")

WHOLE_RUN = 900
"""Operations of an undisturbed run, roughly: what moments are drawn from."""


class WrongEnd(AssertionError):
    """Something was lost, or done twice."""


class PowerCuts:
    """One job tree on one disk. local: jobtree takes the disk for one of this machine; lies: syncs do nothing."""

    def __init__(self, directory: Path, seed: int, local: bool = False, lies: bool = False) -> None:
        self._directory = directory
        self._chance = random.Random(seed)
        self._local = local
        self._lies = lies
        self.output = directory / "output"
        self._mountpoint = directory / "mounted"
        self._witness = directory / "witness"
        self.cuts = 0

    def run(self, cuts: int) -> None:
        """Cut the power up to so many times, then let it run to its end. Raises WrongEnd."""
        longest = WHOLE_RUN
        while True:
            last = self.cuts >= cuts
            cut_at = None if last else self._chance.randint(1, longest)
            if self._boot(cut_at):
                break
            self.cuts += 1
            self._check_witness()
            longest = max(50, longest * 2 // 3)
        self._check_witness()

    def _boot(self, cut_at: Optional[int]) -> bool:
        """Mount what there is and start the command; whether it ended before the power went."""
        arguments = ["--image", self._directory / "image", "--seed", self._chance.getrandbits(32)]
        if cut_at is not None:
            arguments += ["--cut-at", cut_at]
        if self._chance.random() < 0.3:
            arguments.append("--lose-all")
        if self._lies:
            arguments.append("--lies")
        mount = Mount("power_cut_fs.py", self._mountpoint, self._directory / "mount.log", *arguments)
        with mount:
            tree = mount.path / "runs" / "tree"
            machine = self._start(tree)
            try:
                ended = machine.pidfd()
                ready, _, _ = select.select([ended, mount.says], [], [], DEADLINE_SECONDS)
                os.close(ended)
                if not ready:
                    raise WrongEnd("it does not end")
                if mount.says in ready:
                    return False
                status = machine.wait()
                if status:
                    raise WrongEnd(f"exit status {status}")
                self._check_tree(tree)
                return True
            finally:
                machine.kill()
                mount.close(kill=True)
                machine.wait()

    def _start(self, tree: Path) -> Machine:
        variables = {"JOBTREE_TEST_WITNESS": str(self._witness), "TMPDIR": str(self._temporary())}
        if self._local:
            variables["JOBTREE_TEST_LOCAL"] = "1"
        # No tries: a target that misses something must not find it the second time.
        command = [
            sys.executable,
            str(PIPELINE),
            "--jobTree",
            str(tree),
            "--retryCount",
            "0",
            "--maxThreads",
            "3",
        ]
        return Machine(command, self.output, self._directory, variables)

    def _temporary(self) -> Path:
        path = self._directory / "tmp"
        path.mkdir(exist_ok=True)
        return path

    def _check_tree(self, tree: Path) -> None:
        left = [
            str(path)
            for name in ("bundles", "claims", "outcomes", "globalTempDirs", "requests", "values")
            for path in (tree / name).rglob("*")
            if not path.is_dir() or name == "globalTempDirs"
        ]
        left += [str(path) for path in self._temporary().iterdir()]
        # What the run returned was large values' sum, so no file of a value is left either.
        if left:
            raise WrongEnd(f"left behind: {left}")

    def _check_witness(self) -> None:
        """No target starts again once something has followed from its success."""
        over: dict[str, str] = {}
        try:
            lines = self._witness.read_text().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            _, name, cause = line.split(" ")
            if name in over:
                raise WrongEnd(f"{name} started again, although {over[name]} had followed from it")
            over.setdefault(cause, name)


def wrong(directory: Path, seed: int, local: bool, lies: bool, cuts: int) -> Optional[str]:
    """One run; None if it ended right, else what was wrong, with what was printed."""
    scene = PowerCuts(directory, seed, local, lies)
    try:
        scene.run(cuts)
    except WrongEnd as error:
        printed = scene.output.read_text(errors="replace")[-3000:] if scene.output.exists() else ""
        return f"seed {seed}, cut {scene.cuts}: {error}\n{printed}"
    return None


def cuts_of(seed: int) -> int:
    """How often a run of this seed is cut."""
    return random.Random(seed).randint(1, 4)


def main() -> int:
    """Run it; exit status 1 if a run ended wrong (with --lies: if one ended right)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--local", action="store_true", help="as on a disk of this machine")
    parser.add_argument("--lies", action="store_true", help="the disk answers to a sync and does nothing")
    parser.add_argument("--keep", action="store_true", help="stop at the first wrong end and leave its files")
    options = parser.parse_args()
    bad = 0
    for seed in range(options.seed, options.seed + options.runs):
        directory = Path(tempfile.mkdtemp(prefix="jobtree-power-"))
        what = wrong(directory, seed, options.local, options.lies, cuts_of(seed))
        bad += what is not None
        print(f"seed {seed}: right" if what is None else what, flush=True)
        if what is not None and options.keep:
            print(f"its files: {directory}")
            break
        shutil.rmtree(directory)
    print(f"{options.runs} runs from seed {options.seed}: {bad} ended wrong")
    return int(bad > 0) if not options.lies else int(bad < options.runs)


if __name__ == "__main__":
    sys.exit(main())
