"""A real SLURM on this machine: munged, slurmctld, several slurmd, and slurmdbd with MariaDB if wanted.

Several slurmd on one machine ("multiple slurmd") play nodes; `config_overrides` lets them claim more cores and memory
than the machine has. All state, and the munge key, is in one directory, and all daemons listen on the loopback only:
NoInAddrAny and NoCtldInAddrAny make them bind what their own host name resolves to, which Debian's /etc/hosts makes a
127 address.

Partitions: `main`, the default, with all nodes, and `one`, with the first node alone. For jobs that can never run:
`down`, whose nodes may not be used.

By hand: `python -m tests.servers.slurm [--accounting] [--cgroup] DIRECTORY` starts one and waits for Ctrl-C.

Scheduler parameters: SLURM's defaults look for work every few seconds, which makes tests slow, and measures SLURM's
patience rather than ours.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

from tests.requirements import missing
from tests.servers import packages
from tests.servers.daemons import Daemons, ServerError, free_ports, tail, wait_until

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "munge")
ACCOUNTING_PACKAGES = ("slurmdbd", "slurm-wlm-mysql-plugin", "mariadb-server")

_CGROUP = "/sys/fs/cgroup"


def install() -> None:
    """Install everything that any variant needs, as root."""
    packages.install((*PACKAGES, *ACCOUNTING_PACKAGES))


def require_installed(accounting: bool = False, cgroup: bool = False) -> None:
    """Skip the calling test where SLURM cannot be started, or fail it (see `tests.requirements.missing`)."""
    if os.geteuid() != 0:
        missing("a SLURM for tests is started by root only")
    absent = packages.missing((*PACKAGES, *(ACCOUNTING_PACKAGES if accounting else ())))
    if absent:
        missing(f"not installed ('make clusters' does it): {' '.join(absent)}")
    folders = [os.path.join(_CGROUP, controller) for controller in ("freezer", "memory")]
    if cgroup and not all(os.access(folder, os.W_OK) for folder in folders):
        missing(f"control groups of version 1 are wanted, writable, in {' and '.join(folders)}")


@dataclass(frozen=True)
class Variant:
    """What a SLURM is to have.

    `accounting` slurmdbd and MariaDB, so that sacct answers
    `cgroup`     jobs are tracked and limited by control groups: no leaked children, OUT_OF_MEMORY is told
    `nodes`, `cpus`, `memory` (MiB of each) are what is claimed, not what there is
    `settings`   more lines for slurm.conf; a later line does not replace an earlier one
    """

    accounting: bool = False
    cgroup: bool = False
    nodes: int = 4
    cpus: int = 4
    memory: int = 4000
    settings: tuple[str, ...] = ()


class SlurmServer:
    """A running SLURM. `env` is what clients need in their environment."""

    def __init__(self, directory: str, variant: Variant) -> None:
        self.directory = directory
        self.variant = variant
        self.env = {"SLURM_CONF": self.path("slurm.conf")}
        self.ports = free_ports(variant.nodes + 3)
        # Control groups are named after nodes, and another SLURM may run on this machine.
        self.nodes = [f"p{self.ports}n{number + 1}" for number in range(variant.nodes)]
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))
        }
        self.daemons = Daemons(self.path("log"), {**clean, **self.env})
        self.first_job = 1
        self._controller = 0  # the process whose numbers of jobs are known to be new ones

    def path(self, *names: str) -> str:
        """A file in the server's directory."""
        return os.path.join(self.directory, *names)

    def start(self) -> None:
        """Start whatever is not running, and wait until it answers. Raises ServerError."""
        for name in ("munge", "state", "spool", "db"):
            os.makedirs(self.path(name), mode=0o755, exist_ok=True)
        write(self.path("cgroup.conf"), _CGROUP_CONF if self.variant.cgroup else "CgroupPlugin=cgroup/v1\n")
        self.write_configuration()
        self._start_munge()
        if self.variant.accounting:
            self._start_database()
            self.start_dbd()
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        wait_until(self._all_usable, "nodes to be up")

    def clear(self) -> None:
        """Let nothing be left of earlier tests: no job, no node out of use, no number that may be given out again.

        A controller that is killed forgets what it did in the last seconds. Of jobs whose end it has forgotten it
        finds out in time, and runs them again. Numbers that it gives out for the second time are refused by nodes
        that remember the first one: SLURM then takes the node out of use and holds the job, both for ever.
        """
        if self.daemons.pid("slurmctld") != self._controller:
            self.first_job += 100_000
            self.reconfigure()
            self._controller = self.daemons.pid("slurmctld")
        if self.run("squeue", "--noheader"):
            self.run("scancel", "--user=root")
            wait_until(lambda: not self.run("squeue", "--noheader"), "an empty queue")
        wait_until(self._all_usable, "nodes to be up")

    def describe(self) -> str:
        """How things stand, for the message of a test that has failed."""
        return "\n".join(
            (
                self.run("squeue", "--long", "--array"),
                self.run("scontrol", "--oneliner", "show", "job"),
                self.run("scontrol", "--oneliner", "show", "node"),
                *(f"{name}: {tail(self.daemons.log(name))}" for name in ("slurmctld", *self.nodes)),
            )
        )

    def stop(self) -> None:
        """End all jobs and all daemons."""
        if self.daemons.is_running("slurmctld"):
            with contextlib.suppress(ServerError):
                self.run("scancel", "--signal=KILL", "--user=root")
                wait_until(lambda: not self.run("squeue", "--noheader"), "the end of all jobs", seconds=15)
        self.daemons.stop_all()
        for controller in ("freezer", "memory", "cpuset", "cpu", "cpuacct", "devices"):
            for node in self.nodes:
                _remove_groups(os.path.join(_CGROUP, controller, f"slurm_{node}"))

    def run(self, *command: str, timeout: float = 60.0) -> str:
        """What a client program prints. Raises ServerError if it fails."""
        try:
            done = subprocess.run(
                command,
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
            raise ServerError(f"{' '.join(command)}: status {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    # -- daemons one by one, to be killed and started again by tests ------------------------------------------

    def start_controller(self) -> None:
        """Start slurmctld, unless it runs, and wait until it answers."""
        self.daemons.start("slurmctld", "slurmctld", "-D")
        self.daemons.wait_until(lambda: self._answers("scontrol", "ping"), "scontrol ping", "slurmctld")

    def start_node(self, node: str) -> None:
        """Start a node's slurmd, unless it runs."""
        os.makedirs(self.path("spool", node), exist_ok=True)
        self.daemons.start(node, "slurmd", "-D", "-N", node)

    def start_dbd(self) -> None:
        """Start slurmdbd, unless it runs, and wait until it answers."""
        self.daemons.start("slurmdbd", "slurmdbd", "-D")
        ask = ("sacctmgr", "--noheader", "--immediate", "list", "cluster")
        self.daemons.wait_until(lambda: self._answers(*ask), "sacctmgr", "slurmdbd")
        # Adding what is there already fails, and that is all right.
        self._answers("sacctmgr", "--immediate", "add", "cluster", "testcluster")
        self._answers("sacctmgr", "--immediate", "add", "account", "main")
        self._answers("sacctmgr", "--immediate", "add", "user", "root", "account=main")

    def write_configuration(self, *more: str) -> None:
        """Write slurm.conf with further lines; `reconfigure` makes the daemons read it."""
        write(self.path("slurm.conf"), _slurm_conf(self, more))

    def reconfigure(self, *more: str) -> None:
        """Make further lines of slurm.conf hold (none: only the variant's own)."""
        self.write_configuration(*more)
        self.run("scontrol", "reconfigure")

    def _start_munge(self) -> None:
        key = self.path("munge", "key")
        if not os.path.exists(key):
            with open(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(os.urandom(1024))
        if not self.daemons.is_running("munged"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path("munge", "socket"))
        names = ("key", "socket", "pid", "log", "seed")
        files = {name: self.path("munge", name) for name in names}
        self.daemons.start(
            "munged",
            "munged",
            "--foreground",
            "--force",
            "--num-threads=2",
            f"--key-file={files['key']}",
            f"--socket={files['socket']}",
            f"--pid-file={files['pid']}",
            f"--log-file={files['log']}",
            f"--seed-file={files['seed']}",
        )
        ask = ("munge", "-S", files["socket"], "-n")
        self.daemons.wait_until(lambda: self._answers(*ask), "munge", "munged")

    def _start_database(self) -> None:
        data, socket_ = self.path("db", "data"), self.path("db", "socket")
        if not os.path.isdir(data):
            self.run(
                "mariadb-install-db",
                "--no-defaults",
                "--user=root",
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            )
        self.daemons.start(
            "mariadbd",
            "mariadbd",
            "--no-defaults",
            "--user=root",
            f"--datadir={data}",
            f"--socket={socket_}",
            "--bind-address=127.0.0.1",
            f"--port={self.ports + 1}",
            "--innodb-buffer-pool-size=64M",
            "--innodb-lock-wait-timeout=900",  # slurmdbd refuses less
            "--skip-name-resolve",
        )
        ask = ("mariadb", "--no-defaults", "--user=root", f"--socket={socket_}", "--execute")
        self.daemons.wait_until(lambda: self._answers(*ask, "select 1"), "an answer", "mariadbd")
        self.run(
            *ask,
            "create user if not exists slurm@'127.0.0.1' identified by 'slurm';"
            "grant all on slurm_acct_db.* to slurm@'127.0.0.1'",
        )
        write(self.path("slurmdbd.conf"), _slurmdbd_conf(self), mode=0o600)

    def _all_up(self) -> bool:
        """Whether all nodes have registered, and jobs can run there."""
        return set(self._states().values()) <= {"idle", "mixed", "allocated", "completing"}

    def _all_usable(self) -> bool:
        """The same, after those that were taken out of use have been put back."""
        for node, state in self._states().items():
            if "drain" in state or "down" in state:
                self._answers("scontrol", "update", f"NodeName={node}", "State=RESUME")
        return self._all_up()

    def _states(self) -> dict[str, str]:
        """The state of each node, in lower case; a * after it: it does not answer."""
        told = self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T").split()
        return dict(zip(told[::2], told[1::2]))

    def _answers(self, *command: str) -> bool:
        try:
            self.run(*command, timeout=20)
        except ServerError:
            return False
        return True


@contextlib.contextmanager
def start(directory: Optional[str] = None, variant: Optional[Variant] = None) -> Iterator[SlurmServer]:
    """A SLURM that runs inside `with`; its clients need `server.env` in their environment.

    Its state is in `directory`; None: in a temporary one, which is removed afterwards.
    """
    # A short path, because sockets have room for about a hundred characters.
    made = tempfile.mkdtemp(prefix="slurm-", dir="/tmp") if directory is None else None
    if made is not None:
        os.chmod(made, 0o755)
    server = SlurmServer(os.path.abspath(directory or str(made)), variant or Variant())
    try:
        server.start()
        yield server
    finally:
        server.stop()
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def write(path: str, text: str, mode: int = 0o644) -> None:
    """Write a configuration file."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
        file.write(text)


def _remove_groups(folder: str) -> None:
    """Remove a node's control groups; those that are still in use stay."""
    for path, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(path)


_CGROUP_CONF = f"""\
CgroupPlugin=cgroup/v1
CgroupMountpoint={_CGROUP}
CgroupAutomount=no
ConstrainRAMSpace=yes
MinRAMSpace=1
"""


def _slurm_conf(server: SlurmServer, more: tuple[str, ...]) -> str:
    variant, host = server.variant, socket.gethostname().split(".")[0]
    lines = [
        "ClusterName=testcluster",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={server.ports}",
        "SlurmUser=root",
        "SlurmdUser=root",
        "AuthType=auth/munge",
        f"AuthInfo=socket={server.path('munge', 'socket')}",
        "CredType=cred/munge",
        "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny",
        f"StateSaveLocation={server.path('state')}",
        f"SlurmdSpoolDir={server.path('spool', '%n')}",
        f"SlurmctldPidFile={server.path('state', 'slurmctld.pid')}",
        f"SlurmdPidFile={server.path('spool', '%n.pid')}",
        "SlurmctldDebug=info",
        "SlurmdDebug=info",
        "MpiDefault=none",
        "SwitchType=switch/none",
        "ReturnToService=2",
        "SlurmdParameters=config_overrides",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=batch_sched_delay=0,sched_min_interval=10000,sched_interval=2,bf_interval=2,"
        "bf_resolution=1,default_queue_depth=1000",
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=task=1",
        "DefMemPerCPU=100",
        "MaxJobCount=20000",
        f"FirstJobId={server.first_job}",
        "InactiveLimit=0",
        "KillWait=2",
        "SlurmctldTimeout=10",
        "SlurmdTimeout=20",
        "TCPTimeout=2",
        "MessageTimeout=5",
        "UnkillableStepTimeout=30",
        "JobRequeue=1",
        # A job that can never run is refused, but in the partition that is for such jobs.
        "EnforcePartLimits=ALL",
        "JobCompType=jobcomp/none",
        *variant.settings,
        *more,
    ]
    given = {line.split("=", 1)[0] for line in (*variant.settings, *more)}
    defaults = {"MinJobAge": "300", "MaxArraySize": "1001"}
    lines += [f"{name}={value}" for name, value in defaults.items() if name not in given]
    if variant.cgroup:
        lines += ["ProctrackType=proctrack/cgroup", "TaskPlugin=task/cgroup", "JobAcctGatherParams=UsePss"]
    else:
        lines += ["ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none"]
        lines += ["JobAcctGatherParams=OverMemoryKill,UsePss"]
    if variant.accounting:
        lines += [
            "AccountingStorageType=accounting_storage/slurmdbd",
            "AccountingStorageHost=127.0.0.1",
            f"AccountingStoragePort={server.ports + 2}",
            # Where clients of slurmdbd find munge; otherwise they look at the usual place.
            f"AccountingStoragePass={server.path('munge', 'socket')}",
        ]
    else:
        lines.append("AccountingStorageType=accounting_storage/none")
    for number, node in enumerate(server.nodes):
        lines.append(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={server.ports + 3 + number} "
            f"CPUs={variant.cpus} RealMemory={variant.memory} State=UNKNOWN"
        )
    every = ",".join(server.nodes)
    lines += [
        f"PartitionName=main Nodes={every} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO",
        f"PartitionName=one Nodes={server.nodes[0]} MaxTime=INFINITE State=UP OverSubscribe=NO",
        f"PartitionName=down Nodes={server.nodes[-1]} MaxTime=INFINITE State=DOWN OverSubscribe=NO",
    ]
    return "\n".join(lines) + "\n"


def _slurmdbd_conf(server: SlurmServer) -> str:
    lines = [
        f"DbdHost={socket.gethostname().split('.')[0]}",
        "DbdAddr=127.0.0.1",
        f"DbdPort={server.ports + 2}",
        "AuthType=auth/munge",
        f"AuthInfo=socket={server.path('munge', 'socket')}",
        "SlurmUser=root",
        f"PidFile={server.path('db', 'slurmdbd.pid')}",
        "StorageType=accounting_storage/mysql",
        "StorageHost=127.0.0.1",
        f"StoragePort={server.ports + 1}",
        "StorageUser=slurm",
        "StoragePass=slurm",
        "StorageLoc=slurm_acct_db",
        "CommunicationParameters=NoInAddrAny",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Start a SLURM by hand."""
    parser = argparse.ArgumentParser(
        description="Start a SLURM of several nodes on this machine, until Ctrl-C."
    )
    parser.add_argument(
        "--accounting", action="store_true", help="with slurmdbd and MariaDB, so that sacct answers"
    )
    parser.add_argument(
        "--cgroup", action="store_true", help="jobs are tracked and limited by control groups"
    )
    parser.add_argument("directory", help="where its state is kept")
    arguments = parser.parse_args()
    install()
    with start(
        arguments.directory, Variant(accounting=arguments.accounting, cgroup=arguments.cgroup)
    ) as server:
        for name, value in server.env.items():
            print(f"export {name}={value}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
