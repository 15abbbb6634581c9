"""Make a virtual environment with this checkout and what tests it: `python3 .ci/venv.py DIRECTORY [EXTRAS]`.

The interpreter that runs this file is the one that the environment gets. Nothing is done when the environment
is up to date: its stamp names the interpreter, the checkout's place, and what was to be installed when it was
made. Several of these may run at once; the first one works and the others wait for it.

Debian's python3 can make an environment but, without the package python3-venv, no pip in it. Then the
interpreter's own pip installs into it from outside; where that is missing too, the message says what to install.

This file must start on any Python 3, to be able to say that 3.9 is needed.
"""

import configparser
import fcntl
import os
import shutil
import subprocess
import sys

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
EXTRAS = sys.argv[2] if len(sys.argv) > 2 else "test,lint"


def main():
    # type: () -> None
    directory = os.path.abspath(sys.argv[1])
    if sys.version_info < (3, 9):
        sys.exit(
            "jobtree needs Python 3.9 or later; %s is %s.\nName another: make PYTHON=python3.12 ..."
            % (sys.executable, sys.version.split()[0])
        )
    os.makedirs(os.path.dirname(directory), exist_ok=True)
    with open(directory + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = os.path.join(directory, "stamp")
        wanted = description()
        if read(stamp) == wanted:
            return
        print("Installing jobtree and its tools into %s (once)" % os.path.relpath(directory))
        sys.stdout.flush()
        if not same_interpreter(read(stamp), wanted):
            shutil.rmtree(directory, ignore_errors=True)
        install(directory)
        with open(stamp, "w") as file:
            file.write(wanted)


def description():
    # type: () -> str
    """What the environment depends on, its interpreter first."""
    lines = [os.path.realpath(sys.executable), sys.version.replace("\n", " "), CHECKOUT, EXTRAS]
    # Not the settings of tools: they change often and install nothing.
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(os.path.join(CHECKOUT, "setup.cfg"))
    for section in parser.sections():
        if section.startswith("options"):
            lines += ["%s = %s" % item for item in parser.items(section)]
    return "\n".join(lines + [""])


def same_interpreter(description, other):
    # type: (str, str) -> bool
    """Whether an environment of the one description can be brought up to the other, or must be made anew."""
    return description.splitlines()[:3] == other.splitlines()[:3]


def read(path):
    # type: (str) -> str
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def install(directory):
    # type: (str) -> None
    python = os.path.join(directory, "bin", "python")
    if runs("import ensurepip"):
        run([sys.executable, "-m", "venv", directory])
        pip = [python, "-m", "pip"]
    elif runs("import pip; assert int(pip.__version__.split('.')[0]) >= 23"):
        run([sys.executable, "-m", "venv", "--without-pip", directory])
        pip = [sys.executable, "-m", "pip", "--python", python]
    else:
        sys.exit(
            "%s has neither ensurepip nor a pip of its own, so it cannot make a virtual environment.\n"
            "On Debian and Ubuntu: apt install python3-venv   (or python%d.%d-venv)\n"
            "Then run the same command again." % (sys.executable, *sys.version_info[:2])
        )
    pip += ["install", "--quiet", "--disable-pip-version-check"]
    # PEP 660, which an editable install without setup.py needs, came with pip 21.3.
    run([*pip, "pip>=21.3"])
    run([*pip, "--editable", ".[%s]" % EXTRAS])


def runs(statement):
    # type: (str) -> bool
    """Whether the statement runs in a fresh copy of this interpreter."""
    return subprocess.call([sys.executable, "-c", statement], stderr=subprocess.DEVNULL) == 0


def run(command):
    # type: (list[str]) -> None
    status = subprocess.call(command, cwd=CHECKOUT)
    if status:
        sys.exit("failed with status %d: %s" % (status, " ".join(command)))


if __name__ == "__main__":
    main()
