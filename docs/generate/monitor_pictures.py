"""Make the pictures of jobTreeMonitor's page again: `make pictures`, with Debian's chromium and chromium-driver.

A real run is watched in a real browser until it is half-way and two jobs have failed; then the page is taken as a
laptop has it, light and dark, and as a phone has it. On the pictures the directory is told as /home/ada, and this
machine as node1. It takes a minute or so. Look at the pictures afterwards.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from selenium.webdriver import Chrome

CHECKOUT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(CHECKOUT))

from tests.servers import chromium  # noqa: E402
from tests.system.monitoring import Monitor, serving  # noqa: E402

PICTURES = {
    "monitor-light": (chromium.WIDE, False, None),
    "monitor-dark": (chromium.WIDE, True, 900),
    "monitor-phone": (chromium.PHONE, False, 1700),
}
"""By name: the size of the window, whether it is dark, and how much of the page is taken (None: all of it)."""

_LONGEST = 300.0

#: Reads of many samples are aligned and sorted, and variants called in each; two samples are unreadable.
PIPELINE = """
import argparse, random, sys, time
from jobtree import Stack, Target

class Study(Target):
    def run(self):
        for number in range(120):
            self.addChildTarget(Align(number))
        self.setFollowOnTarget(Report())

class Align(Target):
    def __init__(self, number):
        Target.__init__(self, memory="100M")
        self.number = number
    def run(self):
        seconds = random.Random(self.number).uniform(0.5, 2.5)
        for step in range(20):
            self.reportProgress(step / 20, f"{1000 * step:,} of 20,000 records")
            time.sleep(seconds / 20)
        print(f"sample {self.number}: reading reads_{self.number}.fastq")
        if self.number in (17, 41):
            print("record 31337: 151 letters, 148 qualities", file=sys.stderr)
            raise ValueError(f"reads_{self.number}.fastq: record 31337 is cut off")
        self.setFollowOnTarget(Call(self.number))

class Call(Target):
    def __init__(self, number):
        Target.__init__(self, memory="200M")
        self.number = number
    def run(self):
        for chromosome in range(3):
            self.addChildTarget(CallChromosome(self.number, chromosome))

class CallChromosome(Target):
    def __init__(self, number, chromosome):
        Target.__init__(self, memory="50M")
        self.number, self.chromosome = number, chromosome
    def run(self):
        time.sleep(random.Random(f"{self.number}.{self.chromosome}").uniform(0.1, 0.8))

class Report(Target):
    def run(self):
        pass

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    Stack.addJobTreeOptions(parser)
    sys.exit(1 if Stack(Study()).startJobTree(parser.parse_args()) else 0)
"""


def main() -> None:
    """Make all of them."""
    parser = argparse.ArgumentParser(description="Make the pictures of jobTreeMonitor's page again.")
    parser.add_argument(
        "--output", type=Path, default=CHECKOUT / "docs" / "images", metavar="DIR", help="where"
    )
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "variants.py").write_text(PIPELINE)
        # The browser first: it takes longest to start, and what happens before it looks is not on the charts.
        with (
            chromium.start(directory / "profile") as driver,
            running(directory) as tree,
            serving(directory / "home", tree, every=1.0) as monitor,
        ):
            driver.get(monitor.page)
            until_half_way(monitor)
            take_all(driver, directory, output)


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Path]:
    """The pipeline, from when its tree is there; the tree."""
    tree = directory / "variants"
    options = ["--jobTree", str(tree), "--maxThreads", "8", "--retryCount", "0"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    run = subprocess.Popen(
        [sys.executable, "variants.py", *options], cwd=directory, env=environment, stderr=subprocess.DEVNULL
    )
    try:
        while not (tree / "config.json").exists():
            time.sleep(0.05)
            if run.poll() is not None:
                raise SystemExit("the pipeline has ended before it began")
        yield tree
    finally:
        run.terminate()
        run.wait()


def until_half_way(monitor: Monitor) -> None:
    """Wait until there is something to see."""
    deadline = time.monotonic() + _LONGEST
    while time.monotonic() < deadline:
        tree = monitor.told("/1")
        succeeded = sum(kind["succeeded"] for kind in tree["classes"])
        if tree["state"] != "running":
            raise SystemExit(f"the run has come to an end: it is {tree['state']}")
        if succeeded >= 300 and tree["counts"]["failed"] == 2 and tree["running"]:
            return
        time.sleep(0.2)
    raise SystemExit("the run takes longer than it should")


def take_all(driver: Chrome, directory: Path, output: Path) -> None:
    """Take the page as it is now, in every shape."""
    output.mkdir(exist_ok=True)
    driver.execute_script("document.querySelector('#failures summary').click()")
    while "Traceback" not in driver.execute_script("return document.querySelector('#failures').innerText"):
        time.sleep(0.1)
    for name, (size, dark, most) in PICTURES.items():
        chromium.show_as(driver, size, dark)
        driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        driver.execute_script(_RENAME, {str(directory): "/home/ada", socket.gethostname(): "node1"})
        height = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]["height"]
        clip = {"x": 0, "y": 0, "width": size[0], "height": min(height, most or height), "scale": 1}
        taken = driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True, "clip": clip}
        )
        picture = Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")
        picture.quantize(256, dither=Image.Dither.NONE).save(output / f"{name}.png", optimize=True)
        print(output / f"{name}.png")


_RENAME = """
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node = walker.nextNode(); node !== null; node = walker.nextNode()) {
  let text = node.data;
  for (const [from, to] of Object.entries(arguments[0])) text = text.replaceAll(from, to);
  if (text !== node.data) node.data = text;
}
"""


if __name__ == "__main__":
    main()
