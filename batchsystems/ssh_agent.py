"""What runs on a host for the ssh batch system: an agent for each connection, and a keeper for each job.

The master sends this file through the connection and talks to it in lines of JSON, so a host needs Python and nothing
else. What must hold

  - A job needs neither agent nor connection nor master. Its keeper is a daemon in a session of its own; the command
    has another one. The keeper writes down the end, and every later agent finds it.
  - What is known of a job is in its directory, on the host's own disk (TMP/jobtree-ssh-UID/KEY/NAME):
    `job.json` what was asked for; `lock` is locked as long as the keeper lives, so that nobody has to believe a
    process number; `keeper`, `child` process numbers; `cancel` the grace in seconds; `end` how it ended.
  - An agent whose connection has been replaced starts nothing any more, although it may still find commands on its
    standard input: each connection of a master has a number, and the highest that was ever seen is in `fence.MASTER`.
  - An end is kept until the master says that it has taken note of it.

How it fails: a keeper that was killed takes the job's process group with it, as soon as an agent looks; such a job is
lost. After a restart of the machine nothing is locked, and everything without an end is lost.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import pwd
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from typing import Any, Optional

_SCAN_SECONDS = 5.0
_WRITE_SECONDS = 60.0
_NOT_FOUND, _NOT_RUNNABLE = 127, 126
_COMMAND_ERRORS = (
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ENOTDIR, errno.EISDIR, errno.ELOOP,
    errno.ENAMETOOLONG, errno.E2BIG,
)  # fmt: skip
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Refused(Exception):
    """This host cannot be used; the message says why."""


# -- files of a job ------------------------------------------------------------------------------------------------


def make_spool(base: str, key: str) -> str:
    """The directory of all jobs of one job tree on this host. Raises Refused, OSError."""
    own = os.path.join(base, f"jobtree-ssh-{os.getuid()}")
    for path in (own, os.path.join(own, key)):
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise Refused(
                f"{path} must be a directory of user {os.getuid()} that nobody else can enter; remove it, or name "
                "another directory with tmp= in the hosts file"
            )
    return path


def read(path: str) -> str:
    """A small file; "" if it is not there."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def write(path: str, text: str) -> None:
    """Write a small file, whole or not at all."""
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(f"{path}.new", path)


def start_of(pid: int) -> str:
    """When a process was started, in words of the system; "" if there is none, or that cannot be told."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return ""


def has_ended(pid: int) -> bool:
    """Whether a child has; it stays there to be reaped."""
    found: Any = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return found is not None


def kill_group(pid: int, number: int) -> None:
    """Send a signal to a process group, if it is there."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


# -- the keeper ----------------------------------------------------------------------------------------------------


def start_keeper(path: str, job: dict[str, Any]) -> None:
    """Make the directory of a job, and start its keeper. Raises OSError; FileExistsError if the job is there."""
    new = os.path.join(os.path.dirname(path), f"new-{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    os.mkdir(new, 0o700)
    write(os.path.join(new, "job.json"), json.dumps(job))
    # Locked before anybody can see the job, and inherited by the keeper: at no moment does it look dead.
    lock = os.open(os.path.join(new, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.isdir(path):
            raise FileExistsError(path)
        os.rename(new, path)
        middle = os.fork()
        if middle == 0:
            try:
                os.setsid()
                if os.fork() == 0:
                    Keeper(path, job).run(lock)
            finally:
                os._exit(0)
    finally:
        os.close(lock)
    os.waitpid(middle, 0)


class Keeper:
    """The process that stays with one job."""

    def __init__(self, path: str, job: dict[str, Any]) -> None:
        self._path = path
        self._job = job
        self._grace: Optional[float] = None
        self._kill_at = 0.0

    def run(self, lock: int) -> None:
        """Run the job to its end, and write that down."""
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.set_inheritable(lock, False)
        for name in os.listdir("/dev/fd"):  # those of the agent: its end must be seen at once
            if int(name) > 2 and int(name) != lock:
                try:
                    os.close(int(name))
                except OSError:
                    pass  # that of the listing itself
        os.chdir("/")
        woken, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        # Handlers, because what is ignored is inherited.
        for number in (signal.SIGCHLD, signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        write(self._file("keeper"), str(os.getpid()))
        self._end(self._run(woken))

    def _run(self, woken: int) -> dict[str, Any]:
        self._look(0)
        if self._grace is not None:
            return {"detail": "cancelled before it was started", "lost": True}
        try:
            child = self._start()
        except OSError as error:
            words = f"cannot start {self._job['command'][0]!r}: {error}"
            if error.errno not in _COMMAND_ERRORS or getattr(error, "of_log", False):
                return {"detail": words, "lost": True}
            return {
                "detail": words,
                "status": _NOT_FOUND if error.errno == errno.ENOENT else _NOT_RUNNABLE,
            }
        except ValueError as error:  # NUL in an argument
            return {
                "detail": f"cannot start {self._job['command'][0]!r}: {error}",
                "status": _NOT_RUNNABLE,
            }
        write(self._file("child"), f"{child.pid} {start_of(child.pid)}")
        # Not reaped before what it has left is killed, so that its number cannot be anybody else's by then.
        while not has_ended(child.pid):
            self._look(child.pid)
            if select.select([woken], [], [], self._seconds_to_wait())[0]:
                os.read(woken, 4096)
        kill_group(child.pid, signal.SIGKILL)
        _, status, usage = os.wait4(child.pid, 0)
        end = {"peak": usage.ru_maxrss * _MAXRSS_UNIT, "cpu": usage.ru_utime + usage.ru_stime}
        if os.WIFSIGNALED(status):
            end["signal"] = os.WTERMSIG(status)
        else:
            end["status"] = os.WEXITSTATUS(status)
        return end

    def _start(self) -> subprocess.Popen[bytes]:
        job = self._job
        log = subprocess.DEVNULL
        if job["log"] is not None:
            try:
                log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            except OSError as error:
                error.of_log = True  # type: ignore[attr-defined]
                raise
        try:
            return subprocess.Popen(
                job["command"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=job["cwd"], env=job["env"],
                start_new_session=True,
            )  # fmt: skip
        finally:
            if log != subprocess.DEVNULL:
                os.close(log)

    def _seconds_to_wait(self) -> Optional[float]:
        return None if self._grace is None else max(0.01, min(self._kill_at - time.monotonic(), 1.0))

    def _look(self, child: int) -> None:
        """Do what a cancellation wants, if there is one."""
        now = time.monotonic()
        text = read(self._file("cancel"))
        if text:
            grace = float(text)
            if self._grace is None or grace < self._grace:
                if self._grace is None and grace > 0 and child:
                    kill_group(child, signal.SIGTERM)
                self._kill_at = now + grace if self._grace is None else min(self._kill_at, now + grace)
                self._grace = grace
        if self._grace is not None and now >= self._kill_at and child:
            kill_group(child, signal.SIGKILL)

    def _end(self, end: dict[str, Any]) -> None:
        if self._grace is not None:
            end["cancelled"] = True
        deadline = time.monotonic() + _WRITE_SECONDS
        while True:
            try:
                write(self._file("end"), json.dumps(end))
                break
            except OSError:
                if time.monotonic() > deadline or not os.path.isdir(self._path):
                    return
                time.sleep(1.0)  # a full disk may pass
        spool, name = os.path.split(self._path)
        for news in os.listdir(spool):
            if news.startswith("news-"):
                tell(os.path.join(spool, news), name)

    def _file(self, name: str) -> str:
        return os.path.join(self._path, name)


def tell(fifo: str, name: str) -> None:
    """Tell an agent that a job has ended; if it is gone, remove what it left."""
    try:
        pipe = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(pipe, f"{name}\n".encode())
        finally:
            os.close(pipe)
    except OSError as error:
        if error.errno == errno.ENXIO:
            os.unlink(fifo)


# -- the agent -----------------------------------------------------------------------------------------------------


class Agent:
    """One connection of one master to this host."""

    def __init__(self, spool: str, master: str, number: int) -> None:
        self._spool = spool
        self._number = number
        self._fence = os.path.join(spool, f"fence-{master}")
        self._fifo = os.path.join(spool, f"news-{master}-{number}")
        self._told: set[str] = set()
        os.close(self._pass_fence())
        os.mkfifo(self._fifo, 0o600)
        self._news = os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK)

    def run(self) -> None:
        """Do what the master says, until the connection ends."""
        rest = b""
        next_scan = 0.0
        try:
            while True:
                now = time.monotonic()
                if now >= next_scan:
                    self._scan()
                    next_scan = now + _SCAN_SECONDS
                ready, _, _ = select.select([0, self._news], [], [], max(0.0, next_scan - now))
                if self._news in ready:
                    for name in os.read(self._news, 65536).decode().split("\n"):
                        if name:
                            self._look_at(name)
                if 0 in ready:
                    data = os.read(0, 1 << 20)
                    if not data:
                        return
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        self._do(json.loads(line))
        finally:
            try:
                os.unlink(self._fifo)
            except FileNotFoundError:
                pass

    def _pass_fence(self) -> int:
        """Take the lock of the fence, which the caller closes. Ends this process if a later connection was here."""
        fence = os.open(self._fence, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(fence, fcntl.LOCK_EX)
        if int(os.pread(fence, 20, 0) or b"0") > self._number:
            sys.exit(0)
        os.pwrite(fence, b"%d" % self._number, 0)
        return fence

    def _do(self, message: dict[str, Any]) -> None:
        if "start" in message:
            fence = self._pass_fence()
            try:
                self._start(message["start"], message["job"])
            finally:
                os.close(fence)
        elif "cancel" in message:
            self._cancel(message["cancel"], message["grace"])
        elif "forget" in message:
            self._told.discard(message["forget"])
            shutil.rmtree(self._path(message["forget"]), ignore_errors=True)
        elif "list" in message:
            self._scan()
            say({"list": message["list"], "jobs": {name: self._booked(name) for name in self._names()}})
        elif "check" in message:
            say({"checked": check(message["check"])})
        elif "bye" in message:
            for name in (self._fence, self._fifo):
                try:
                    os.unlink(name)
                except FileNotFoundError:
                    pass
            try:
                os.rmdir(self._spool)
            except OSError:
                pass  # there are jobs, or other agents

    def _start(self, name: str, job: dict[str, Any]) -> None:
        path = self._path(name)
        try:
            start_keeper(path, job)
        except FileExistsError:
            pass  # it came twice
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            say({"end": name, "how": {"detail": f"it cannot be started: {error}", "lost": True}})
            return
        say({"started": name})

    def _cancel(self, name: str, grace: float) -> None:
        path = self._path(name)
        if not os.path.isdir(path):
            return
        before = read(os.path.join(path, "cancel"))
        if not before or grace < float(before):
            write(os.path.join(path, "cancel"), str(grace))
        keeper = read(os.path.join(path, "keeper"))
        if keeper and self._is_kept(path):
            os.kill(int(keeper), signal.SIGUSR1)

    def _scan(self) -> None:
        for name in self._names():
            self._look_at(name)

    def _look_at(self, name: str) -> None:
        """Tell the master of an end that it does not know from us."""
        if name in self._told:
            return
        path = self._path(name)
        if not os.path.isdir(path):
            return
        kept = self._is_kept(path)  # before the end is looked for: it is written before the lock is gone
        end = read(os.path.join(path, "end"))
        if not end and not kept:
            pid, _, begin = read(os.path.join(path, "child")).partition(" ")
            if pid and begin and start_of(int(pid)) == begin:
                kill_group(int(pid), signal.SIGKILL)
            cancelled = bool(read(os.path.join(path, "cancel")))
            how = {"lost": True, "detail": "its keeper is gone: killed, or the machine was restarted"}
            end = json.dumps({**how, "cancelled": cancelled})
            write(os.path.join(path, "end"), end)
        if end:
            self._told.add(name)
            say({"end": name, "how": json.loads(end)})

    def _booked(self, name: str) -> dict[str, Any]:
        """What a job takes: nothing any more when it has ended."""
        job = json.loads(read(os.path.join(self._path(name), "job.json")) or "{}")
        return {"booked": job.get("booked", [0, 0, {}, []]), "ended": name in self._told}

    def _names(self) -> list[str]:
        """The jobs of this spool: names have a dot, and what is not a job has none."""
        return [name for name in os.listdir(self._spool) if "." in name]

    @staticmethod
    def _is_kept(path: str) -> bool:
        try:
            lock = os.open(os.path.join(path, "lock"), os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def _path(self, name: str) -> str:
        return os.path.join(self._spool, name)


def check(wanted: dict[str, Any]) -> dict[str, Any]:
    """What this host sees of what the master has written: see batchsystems.ssh_check."""
    found = {}
    begin = time.monotonic()
    while True:
        try:
            # Listing the directory makes network file systems look again.
            os.listdir(os.path.dirname(wanted["file"]))
            found["read"] = read(wanted["file"]) == wanted["text"]
        except OSError as error:
            found["read"], found["error"] = False, str(error)
        found["delay"] = time.monotonic() - begin
        if found["read"] or found["delay"] > wanted["seconds"]:
            break
        time.sleep(0.05)
    if found["read"]:
        try:
            write(wanted["answer"], wanted["text"])
        except OSError as error:
            found["error"] = str(error)
    program = (
        "import importlib.metadata as m,json,platform,sys\n"
        "v={'Python': platform.python_version()}\n"
        "for n in sys.argv[1:]:\n"
        "    try: v[n]=m.version(n)\n"
        "    except m.PackageNotFoundError: v[n]=None\n"
        "print(json.dumps(v))"
    )
    try:
        done = subprocess.run(
            [wanted["python"], "-c", program, *wanted["libraries"]], stdin=subprocess.DEVNULL, capture_output=True,
            timeout=wanted["seconds"], cwd="/", check=False,
        )  # fmt: skip
        found["versions"] = json.loads(done.stdout) if done.returncode == 0 else {}
        if done.returncode:
            found["python_error"] = done.stderr.decode("utf-8", "replace")[-300:]
    except (OSError, subprocess.TimeoutExpired) as error:
        found["versions"], found["python_error"] = {}, str(error)
    found["missing"] = [path for path in wanted["paths"] if not os.path.exists(path)]
    return found


def say(message: dict[str, Any]) -> None:
    """Send a line to the master."""
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


def main() -> None:
    """Serve one connection; the first line says for whom."""
    with open(0, "rb", buffering=0, closefd=False) as given:  # not a byte more than the line
        told = json.loads(given.readline())
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = ""
    about = {"host": socket.gethostname(), "uid": os.getuid(), "user": name}
    try:
        agent = Agent(make_spool(told["tmp"], told["key"]), told["master"], told["number"])
    except (Refused, OSError) as error:
        say({"refused": str(error)})
        sys.exit(1)
    say({"hello": {**about, "python": platform.python_version()}})
    try:
        agent.run()
    except BrokenPipeError:
        pass  # nobody listens any more; the next agent tells


if __name__ == "__main__":
    main()
