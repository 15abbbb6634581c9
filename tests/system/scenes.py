"""What scenes of documents are made of: the pipeline that they say is yours, programs, terminals, Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

import psutil

from tests.system import documents
from tests.system.legacy_script import CHECKOUT

HOWTO = CHECKOUT / "docs" / "howto"

#: The pipeline that the pages say is yours. With --wait, or WAIT in the environment of a page's terminal, two samples
#: take until the test lets them through.
PIPELINE = """
import argparse
from jobtree import Stack, Target

ASKED = {"cpu": 0.1, "memory": "100M", "time": 600}

def start(target, wait):
    leave(target.getGlobalTempDir())
    aligned = [target.addChildTargetFn(align, args=(sample, wait), **ASKED).rv() for sample in SAMPLES]
    target.setFollowOnFn(merge, args=(aligned,), **ASKED)

SAMPLES = ("ape", "bat", "cat", "dog", "elk")

def align(target, sample, wait):
    leave(target.getLocalTempDir())
    if sample == "cat" and not os.path.exists("mended"):
        raise ValueError("no such contig")
    if sample in ("dog", "elk") and wait:
        target.reportProgress(0.42, "aligning")
        pause()
    return sample

def merge(aligned):
    return len(aligned)

def leave(directory):
    with open(os.path.join(directory, "index"), "wb") as file:
        file.write(bytes(200_000))

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--wait", action="store_true")
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    wait = options.wait or "WAIT" in os.environ
    failed = Stack(Target.makeTargetFn(start, (wait,), **ASKED)).startJobTree(options)
    raise SystemExit(1 if failed else 0)
"""


def shown(
    page: str, directory: Path, scene: str, here: Optional[Mapping[str, str]] = None, **environment: str
) -> int:
    """Do what a page shows in a scene, and compare; returns the number of steps."""
    return documents.check(HOWTO / page, directory, scene, environment, documents.of_any_run, here)


def program(directory: Path, name: str, script: str) -> None:
    """A program that the terminals of a page find before others of this name."""
    path = directory / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def interrupt(name: str, directory: Path) -> bool:
    """Do what Ctrl-C does to a program of ours that runs there. Returns False: others see that it has ended."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.cwd() == str(directory) and name in " ".join(process.cmdline()[1:2]):
                process.send_signal(signal.SIGINT)
    return False
