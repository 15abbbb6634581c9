"""A real Grid Engine on this machine: sge_qmaster, and sge_execd with as many slots as wanted.

The packages' binaries, and everything else in a directory of its own: SGE_ROOT with one cell, the spools, the
accounting file. Both daemons bind all addresses and have no option against it: a small library that is loaded before
libc binds the loopback for them. Their host is called `localhost` whatever the machine's name, so that it
does not matter what that resolves to.

One host with one queue, `all.q`; a parallel environment, `smp`, whose slots are on one host; memory that jobs ask for
as `h_vmem` is taken from what the host has. A job that can never run is refused, unless it is submitted with `-w n`.

By hand: `python -m tests.servers.grid_engine [--slots N] DIRECTORY` starts one and waits for Ctrl-C.

Scheduling: the defaults look for work every 15 seconds, which makes tests slow, and measures Grid Engine's patience
rather than ours. Every second is the least that it can be told.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

import psutil

from tests.requirements import missing
from tests.servers import packages
from tests.servers.daemons import Daemons, ServerError, free_ports, wait_until

PACKAGES = ("gridengine-master", "gridengine-exec", "gridengine-client", "gridengine-drmaa1.0")
_TO_BUILD = ("gcc", "libc6-dev")

#: Where Debian's packages have what they install. The programs in /usr/bin are slow wrappers of these.
PROGRAMS = "/usr/lib/gridengine"
DRMAA_LIBRARY = "/usr/lib/gridengine-drmaa/lib/libdrmaa.so.1.0"
_SHARE = "/usr/share/gridengine"

HOST = "localhost"
CELL = "default"
QUEUE = "all.q"


def install() -> None:
    """Install what it needs, as root."""
    # Otherwise the packages set up a cell of their own, for which they want to know the machine's full name.
    packages.preseed("gridengine-common", "shared/gridengineconfig", "boolean", "false")
    packages.install((*PACKAGES, *_TO_BUILD))


def require_installed() -> None:
    """Skip the calling test where Grid Engine cannot be started, or fail it (see `tests.requirements.missing`)."""
    if os.geteuid() != 0:
        missing("a Grid Engine for tests is started by root only")
    absent = packages.missing((*PACKAGES, *_TO_BUILD))
    if absent:
        missing(f"not installed ('make clusters' does it): {' '.join(absent)}")
    try:
        _own_names()
    except OSError:
        name = socket.gethostname()
        missing(f"Grid Engine wants an address of this machine, {name}: a line in /etc/hosts will do")


@dataclass(frozen=True)
class Variant:
    """What a Grid Engine is to have.

    `slots`   how many jobs of one core its host runs at a time
    `memory`  how much `h_vmem` these may ask for altogether
    Both are what is claimed, not what there is.
    """

    slots: int = 8
    memory: str = "16G"


class GridEngineServer:
    """A running Grid Engine. `env` is what clients need in their environment, as its settings.sh would set it."""

    def __init__(self, directory: str, variant: Variant) -> None:
        self.directory = directory
        self.variant = variant
        self.ports = free_ports(2)
        architecture = self._architecture()
        programs = self.path("root", "bin", architecture)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SGE_", "DRMAA_"))}
        self.env = {
            "SGE_ROOT": self.path("root"),
            "SGE_CELL": CELL,
            "SGE_CLUSTER_NAME": f"p{self.ports}",
            "SGE_ARCH": architecture,
            "SGE_QMASTER_PORT": str(self.ports),
            "SGE_EXECD_PORT": str(self.ports + 1),
            "DRMAA_LIBRARY_PATH": DRMAA_LIBRARY,
            "PATH": f"{programs}:{clean.get('PATH', os.defpath)}",
        }
        # SGE_ND: stay in the foreground.
        daemons = {**clean, **self.env, "SGE_ND": "1", "LD_PRELOAD": self.path("loopback.so")}
        self.daemons = Daemons(self.path("log"), daemons)

    def path(self, *names: str) -> str:
        """A file in the server's directory."""
        return os.path.join(self.directory, *names)

    @property
    def accounting(self) -> str:
        """The accounting file, which qacct reads."""
        return self.path("root", CELL, "common", "accounting")

    def start(self) -> None:
        """Start whatever is not running, and wait until jobs can run. Raises ServerError."""
        if not os.path.exists(self.path("spooled")):
            self._make_root()
            self._make_loopback()
            self._make_spool()
            _write(self.path("spooled"), "")
        if not (self.daemons.is_running("qmaster") and self.is_up()):
            # An execd that outlives a qmaster finds the next one after half a minute only, and then holds back for
            # ten minutes what DRMAA's jobs have come to.
            self.daemons.stop("execd")
        self.start_master()
        self.start_execution()

    def clear(self) -> None:
        """Let nothing be left of earlier tests: no job, and a queue that takes jobs."""
        self._end_jobs(seconds=30)
        self.run("qmod", "-c", QUEUE)  # the error state
        self.run("qmod", "-e", QUEUE)  # enabled

    def forget_jobs(self) -> None:
        """Remove all jobs, also those of whose end it has not heard: after a restart of the qmaster, for minutes."""
        # It fails where there is none, or the last one has ended meanwhile.
        self._answers("qdel", "-f", "-u", "*")

    def stop(self) -> None:
        """End all jobs and all daemons."""
        if self.daemons.is_running("qmaster") and self.daemons.is_running("execd"):
            with contextlib.suppress(ServerError):
                self._end_jobs(seconds=15)
        self.daemons.stop("execd")
        if self.daemons.is_running("qmaster"):
            self.daemons.kill("qmaster")  # which is as good as SIGTERM, but that takes it seven seconds
        # A job is the child of a shepherd, which outlives the daemon that started it.
        for pid in glob.glob(self.path("execd", "*", "active_jobs", "*", "pid")):
            with contextlib.suppress(OSError, ValueError, psutil.Error):
                with open(pid, encoding="ascii") as file:
                    shepherd = psutil.Process(int(file.read()))
                if shepherd.environ().get("SGE_ROOT") == self.env["SGE_ROOT"]:
                    for process in (*shepherd.children(recursive=True), shepherd):
                        process.kill()

    def run(self, *command: str, timeout: float = 60.0) -> str:
        """What a client program prints. Raises ServerError if it fails."""
        program = os.path.join(PROGRAMS, command[0])
        try:
            done = subprocess.run(
                [program, *command[1:]],
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ServerError(f"{' '.join(command)}: no answer in {timeout:g} s") from error
        if done.returncode:
            said = f"{done.stdout.strip()} {done.stderr.strip()}".strip()
            raise ServerError(f"{' '.join(command)}: status {done.returncode}: {said}")
        return done.stdout.strip()

    # -- daemons one by one, to be killed and started again by tests ------------------------------------------

    def start_master(self) -> None:
        """Start sge_qmaster, unless it runs, and wait until it answers."""
        if not self.daemons.is_running("qmaster"):
            # Left behind when it was killed; it is our child, so that nobody else's is removed.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path("qmaster", "lock"))
        self.daemons.start("qmaster", os.path.join(PROGRAMS, "sge_qmaster"))
        self.daemons.wait_until(lambda: self._answers("qconf", "-sh"), "an answer of sge_qmaster", "qmaster")
        if not os.path.exists(self.path("configured")):
            self._configure()
            _write(self.path("configured"), "")

    def start_execution(self) -> None:
        """Start sge_execd, unless it runs, and wait until its queue takes jobs."""
        self.daemons.start("execd", os.path.join(PROGRAMS, "sge_execd"))
        self.daemons.wait_until(self.is_up, f"the queue {QUEUE} to be up", "execd")

    def is_up(self) -> bool:
        """Whether the host has reported to the qmaster, and its queue is in no bad state."""
        lines = self.run("qstat", "-f", "-q", QUEUE).splitlines()
        words = next((line.split() for line in lines if line.startswith(f"{QUEUE}@")), [])
        # queuename, qtype, resv/used/tot., load_avg, arch, and states if there are any
        return len(words) == 5 and words[4] == self.env["SGE_ARCH"]

    def _end_jobs(self, seconds: float) -> None:
        if not self.run("qstat", "-u", "*"):
            return
        self._answers("qdel", "-u", "*")  # fails where the last job has ended meanwhile
        try:
            wait_until(lambda: not self.run("qstat", "-u", "*"), "the end of all jobs", seconds=seconds)
        except ServerError:
            self.forget_jobs()
            wait_until(lambda: not self.run("qstat", "-u", "*"), "an empty queue")

    # -- what is there before the first start ------------------------------------------------------------------

    def _architecture(self) -> str:
        script = os.path.join(_SHARE, "util", "arch")
        return subprocess.run([script], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    def _make_root(self) -> None:
        """SGE_ROOT, whose programs are the packages'."""
        common = self.path("root", CELL, "common")
        for folder in (common, self.path("qmaster", "job_scripts"), self.path("execd"), self.path("conf")):
            os.makedirs(folder, exist_ok=True)
        for name in ("bin", "lib", "util", "utilbin"):
            with contextlib.suppress(FileExistsError):
                os.symlink(f"/var/lib/gridengine/{name}", self.path("root", name))
        _write(os.path.join(common, "bootstrap"), _lines(_bootstrap(self)))
        _write(os.path.join(common, "act_qmaster"), f"{HOST}\n")
        _write(os.path.join(common, "host_aliases"), f"{HOST} {' '.join(_own_names())}\n")
        _write(os.path.join(common, "sge_request"), "-w e\n")

    def _make_loopback(self) -> None:
        _write(self.path("loopback.c"), _LOOPBACK)
        command = ["cc", "-shared", "-fPIC", "-o", self.path("loopback.so"), self.path("loopback.c"), "-ldl"]
        subprocess.run(command, check=True)

    def _make_spool(self) -> None:
        """The data base of the qmaster."""
        shutil.rmtree(self.path("spool"), ignore_errors=True)
        os.mkdir(self.path("spool"))
        with open(os.path.join(_SHARE, "default-configuration"), encoding="ascii") as file:
            configuration = self._file("configuration", _with(file.read(), _configuration(self)))
        resources = os.path.join(_SHARE, "util", "resources")
        self.run("spoolinit", "berkeleydb", "libspoolb", self.path("spool"), "init")
        self.run("spooldefaults", "configuration", configuration)
        self.run("spooldefaults", "complexes", os.path.join(resources, "centry"))
        self.run("spooldefaults", "usersets", os.path.join(resources, "usersets"))
        self.run("spooldefaults", "managers", "root")
        self.run("spooldefaults", "operators", "root")

    def _configure(self) -> None:
        """What a qmaster that runs is told once."""
        schedule = {
            "schedule_interval": "0:0:1",
            "flush_submit_sec": "1",
            "flush_finish_sec": "1",
            "max_reservation": "20",
        }
        self.run("qconf", "-Msconf", self._file("schedule", _with(self.run("qconf", "-ssconf"), schedule)))
        complexes = _with(self.run("qconf", "-sc"), {"h_vmem": "h_vmem MEMORY <= YES YES 100M 0"})
        self.run("qconf", "-Mc", self._file("complexes", complexes))
        self.run("qconf", "-Ap", self._file("environment", _lines(_PARALLEL_ENVIRONMENT)))
        self._answers("qconf", "-ah", HOST)  # fails where it is one already: the qmaster's own host is
        self.run("qconf", "-as", HOST)
        self.run("qconf", "-Ae", self._file("host", _lines(_host(self.variant))))
        self.run("qconf", "-Aq", self._file("queue", _lines(_queue(self.variant))))

    def _file(self, name: str, text: str) -> str:
        path = self.path("conf", name)
        _write(path, text)
        return path

    def _answers(self, *command: str) -> bool:
        try:
            self.run(*command, timeout=20)
        except ServerError:
            return False
        return True


@contextlib.contextmanager
def start(directory: Optional[str] = None, variant: Optional[Variant] = None) -> Iterator[GridEngineServer]:
    """A Grid Engine that runs inside `with`; its clients need `server.env` in their environment.

    Its state is in `directory`; None: in a temporary one, which is removed afterwards.
    """
    with contextlib.ExitStack() as stack:
        if directory is None:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="sge-", dir="/tmp"))
            os.chmod(directory, 0o755)
        server = GridEngineServer(os.path.abspath(directory), variant or Variant())
        stack.callback(server.stop)
        server.start()
        yield server


def _own_names() -> list[str]:
    """All names that this machine may call itself by. Raises OSError if its own has no address."""
    name = socket.gethostname()
    canonical, aliases, _ = socket.gethostbyname_ex(name)
    return sorted({name, canonical, *aliases} - {HOST})


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _lines(settings: dict[str, str]) -> str:
    """A file of settings, as Grid Engine writes and reads them."""
    return "".join(f"{name} {value}\n" for name, value in settings.items())


def _with(text: str, settings: dict[str, str]) -> str:
    """The text of such a file with these settings instead of its own."""
    kept = [line for line in text.splitlines() if line.split(" ", 1)[0] not in settings]
    return "".join(f"{line}\n" for line in kept) + _lines(settings)


_LOOPBACK = """\
/* Who binds all addresses gets the loopback. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>

int bind(int socket, const struct sockaddr *address, socklen_t size)
{
    int (*libc_bind)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
    if (address->sa_family == AF_INET && size >= sizeof(struct sockaddr_in)) {
        struct sockaddr_in changed = *(const struct sockaddr_in *)address;
        if (changed.sin_addr.s_addr == htonl(INADDR_ANY))
            changed.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return libc_bind(socket, (struct sockaddr *)&changed, sizeof changed);
    }
    return libc_bind(socket, address, size);
}
"""


def _bootstrap(server: GridEngineServer) -> dict[str, str]:
    return {
        "admin_user": "none",
        "default_domain": "none",
        "ignore_fqdn": "true",
        "spooling_method": "berkeleydb",
        "spooling_lib": "libspoolb",
        "spooling_params": server.path("spool"),
        "binary_path": PROGRAMS,
        "qmaster_spool_dir": server.path("qmaster"),
        "security_mode": "none",
        "listener_threads": "2",
        "worker_threads": "2",
        "scheduler_threads": "1",
    }


def _configuration(server: GridEngineServer) -> dict[str, str]:
    """What differs from the defaults of the whole cluster."""
    # Processes of a job are found by a group of its own; another Grid Engine may run on this machine.
    groups = 30000 + server.ports
    return {
        "execd_spool_dir": server.path("execd"),
        "mailer": "/bin/true",
        "administrator_mail": "none",
        "min_uid": "0",
        "min_gid": "0",
        "shell_start_mode": "unix_behavior",
        "load_report_time": "00:00:02",
        "max_unheard": "00:00:20",
        "gid_range": f"{groups}-{groups + 99}",
        # Without INHERIT_ENV=false jobs have the daemon's environment, with SGE_ND and LD_PRELOAD.
        "execd_params": "INHERIT_ENV=false,ENABLE_ADDGRP_KILL=true",
        "reporting_params": "accounting=true reporting=false flush_time=00:00:01 accounting_flush_time=00:00:00 "
        "joblog=false sharelog=00:00:00",
    }


_PARALLEL_ENVIRONMENT = {
    "pe_name": "smp",
    "slots": "999",
    "user_lists": "NONE",
    "xuser_lists": "NONE",
    "start_proc_args": "NONE",
    "stop_proc_args": "NONE",
    "allocation_rule": "$pe_slots",
    "control_slaves": "FALSE",
    "job_is_first_task": "TRUE",
    "urgency_slots": "min",
    "accounting_summary": "FALSE",
    "qsort_args": "NONE",
}


def _host(variant: Variant) -> dict[str, str]:
    nothing = ("user_lists", "xuser_lists", "projects", "xprojects", "usage_scaling", "report_variables")
    return {
        "hostname": HOST,
        "load_scaling": "NONE",
        "complex_values": f"h_vmem={variant.memory},slots={variant.slots}",
        **dict.fromkeys(nothing, "NONE"),
    }


def _queue(variant: Variant) -> dict[str, str]:
    """A queue without limits; without thresholds too, for the load of this machine is not only ours."""
    nothing = (
        "load_thresholds", "suspend_thresholds", "ckpt_list", "prolog", "epilog", "starter_method",
        "suspend_method", "resume_method", "terminate_method", "owner_list", "user_lists", "xuser_lists",
        "subordinate_list", "complex_values", "projects", "xprojects", "calendar",
    )  # fmt: skip
    limits = ("rt", "cpu", "fsize", "data", "stack", "core", "rss", "vmem")
    return {
        "qname": QUEUE,
        "hostlist": HOST,
        "seq_no": "0",
        "nsuspend": "1",
        "suspend_interval": "00:05:00",
        "priority": "0",
        "min_cpu_interval": "00:05:00",
        "processors": "UNDEFINED",
        "qtype": "BATCH INTERACTIVE",
        "pe_list": "smp",
        "rerun": "FALSE",
        "slots": str(variant.slots),
        "tmpdir": "/tmp",
        "shell": "/bin/sh",
        "shell_start_mode": "unix_behavior",
        "notify": "00:00:60",
        "initial_state": "default",
        **dict.fromkeys(nothing, "NONE"),
        **{f"{kind}_{limit}": "INFINITY" for limit in limits for kind in ("s", "h")},
    }


def main() -> None:
    """Start a Grid Engine by hand."""
    parser = argparse.ArgumentParser(description="Start a Grid Engine on this machine, until Ctrl-C.")
    parser.add_argument("--slots", type=int, default=8, help="how many jobs run at a time (default 8)")
    parser.add_argument("directory", help="where its state is kept")
    arguments = parser.parse_args()
    install()
    with start(arguments.directory, Variant(slots=arguments.slots)) as server:
        for name, value in server.env.items():
            print(f"export {name}={value}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
