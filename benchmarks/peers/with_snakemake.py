"""Snakemake on one machine: one rule with as many output files as there are tasks, and one that adds them up.

Each task is the shell's echo, which costs it less than a script or a run block would. Files are its state.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.peers.answer import SLOTS, give, number

SNAKEFILE = """
COUNT = {count}

rule add_up:
    input: expand("out/{{i}}", i=range(COUNT))
    output: "sum"
    run:
        with open(output[0], "w") as file:
            file.write(str(sum(int(open(name).read()) for name in input)))

rule task:
    output: "out/{{i}}"
    shell: "echo {{wildcards.i}} > {{output}}"
"""


def main() -> None:
    """Run them."""
    Path("Snakefile").write_text(SNAKEFILE.format(count=number()))
    command = [sys.executable, "-m", "snakemake", "--cores", str(SLOTS), "--quiet", "all"]
    subprocess.run(command, check=True)
    give(int(Path("sum").read_text()))


if __name__ == "__main__":
    main()
