"""Make the output and the pictures in the pages of examples again: `make pages`, or some: `make pages ARGS=sweep`.

In a page a transcript stands between two comments, ``<!-- run -->`` and ``<!-- end of run -->``: commands, each in a
line that begins with "$ ", and what they print. The commands are run, in a new directory that has the examples in it,
and what is printed now takes the place of what was there. ``<!-- run: kill the first after 8 jobs -->``: with SIGKILL.
``<!-- run: the last fails -->``: and must.
The directory is told as /home/ada, whatever it is. Look at the pictures afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
PICTURES = {
    "commands": "commands.png", "crawl": "crawl.png", "read_mapping": "mapped/coverage.png", "service": "service.png",
    "sort": "sort.png", "sweep": "sweep.png",
}  # fmt: skip
"""What the commands of a page draw."""
_TRANSCRIPT = re.compile(
    r"(<!-- run(?:: kill the first after (\d+) jobs|(: the last fails))? -->\n```\n).*?(```\n<!-- end of run -->)",
    re.DOTALL,
)


def main() -> None:
    """Make the pages that are named, or all."""
    parser = argparse.ArgumentParser(description="Make the pages of examples again.")
    parser.add_argument("pages", nargs="*", default=names(), help="their names; default: all")
    for name in parser.parse_args().pages:
        with tempfile.TemporaryDirectory() as directory:
            page = HERE / f"{name}.md"
            page.write_text(made_again(page.read_text(encoding="utf-8"), Path(directory)), encoding="utf-8")
            if name in PICTURES:
                shutil.copyfile(Path(directory) / PICTURES[name], HERE / f"{name}.png")


def names() -> list[str]:
    """Those of all pages."""
    return sorted(page.stem for page in HERE.glob("*.md"))


def made_again(text: str, directory: Path) -> str:
    """A page with what its commands print now."""
    for name in ("examples", "LICENSE"):
        (directory / name).symlink_to(CHECKOUT / name)

    def transcript(found: re.Match[str]) -> str:
        commands = re.findall(r"^\$ (.*)$", found.group(), re.MULTILINE)
        lines = []
        for number, command in enumerate(commands):
            kill_after = int(found.group(2)) if number == 0 and found.group(2) else None
            fails = bool(found.group(3)) and number == len(commands) - 1
            lines.append(f"$ {command}\n{printed(command, directory, kill_after, fails)}")
        return found.group(1) + "".join(lines) + found.group(4)

    return _TRANSCRIPT.sub(transcript, text)


def printed(command: str, directory: Path, kill_after: int | None, fails: bool = False) -> str:
    """Run a command of a page. Returns what it prints, on both of its outputs."""
    print(f"$ {command}", flush=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), str(CHECKOUT / "bin"), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(CHECKOUT)}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=directory, env=environment, stdout=output, stderr=output
        )
        if kill_after is not None:
            tree = re.findall(r"--jobTree (\S+)", command)[0]
            while process.poll() is None and jobs_done(directory / tree, environment) < kill_after:
                time.sleep(0.1)
            process.kill()
        status = process.wait()
        output.seek(0)
        text = output.read() + ("Killed\n" if status == -signal.SIGKILL else "")
    meant = -signal.SIGKILL if kill_after is not None else status if fails and status > 0 else 0
    if status != meant:
        sys.exit(f"exit status {status}, which was not meant to be:\n{text}")
    return text.replace(str(directory), "/home/ada")


def jobs_done(tree: Path, environment: dict[str, str]) -> int:
    """How many jobs of a tree are done; none, if there is no tree yet."""
    asked = subprocess.run(
        ["jobTreeStatus", str(tree), "--json"], env=environment, capture_output=True, text=True, check=False
    )
    try:
        return int(json.loads(asked.stdout)["counts"]["done"])
    except (ValueError, KeyError):
        return 0


if __name__ == "__main__":
    main()
