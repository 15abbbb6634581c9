"""Make the environment of the other engines: `python benchmarks/peers/environment.py INTERPRETER DIRECTORY`.

All of them are in requirements.txt, with exact versions. Nothing is done while that file is what it was when the
environment was made.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().with_name("requirements.txt")


def main() -> int:
    """Make it; the exit status of what failed, or 0."""
    interpreter, directory = sys.argv[1], Path(sys.argv[2])
    stamp = directory / "stamp"
    wanted = REQUIREMENTS.read_text(encoding="utf-8")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return 0
    print(f"Installing the other engines into {directory} (once; half a gigabyte)", flush=True)
    shutil.rmtree(directory, ignore_errors=True)
    python = str(directory / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in ([interpreter, "-m", "venv", str(directory)], [*pip, "--requirement", str(REQUIREMENTS)]):
        status = subprocess.call(command)
        if status:
            print(f"failed with status {status}: {' '.join(command)}", file=sys.stderr)
            return status
    stamp.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
