"""One job of a fake Parasol node: runs it in a process group of its own and writes its wait status into a file."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """node_job.py DIRECTORY STATUS-FILE WORD..."""
    directory, status_file, *words = sys.argv[1:]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the hub ignores it
    pid = os.fork()
    if not pid:
        os.setpgid(0, 0)
        os.chdir(directory)
        try:
            os.execvp(words[0], words)
        finally:
            os._exit(1)  # what Parasol says of a command that it does not find
    with open(f"{status_file}.pid.new", "w") as file:
        file.write(str(pid))
    os.rename(f"{status_file}.pid.new", f"{status_file}.pid")
    _, status = os.waitpid(pid, 0)
    with open(f"{status_file}.new", "w") as file:
        file.write(str(status))
    os.rename(f"{status_file}.new", status_file)


if __name__ == "__main__":
    main()
