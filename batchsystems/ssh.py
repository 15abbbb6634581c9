"""Machines that are reached by ssh, as a batch system: no scheduler, no daemon, a file that names the hosts.

    python pipeline.py --batchSystem ssh --sshHosts hosts --jobTree /shared/tree

What must hold
  - Jobs need nobody: not the connection, not the master (batchsystems.ssh_agent). A later master finds them again by
    looking at the hosts.
  - Cores and memory of a host are counted here, and never promised twice: what a host says that it runs counts,
    whoever has started it, until it says that it is over.
  - A job belongs to the host that it was sent to, until that host says what became of it. A host that cannot be
    reached is tried again, with growing pauses; nothing is known of its jobs meanwhile. After `patience` they are
    reported as LOST: whoever submitted them decides, by lease or claim, whether they may run elsewhere. Should the host
    come back, they go on taking room there until they are over.
  - The hosts file may be edited at any time. A host that is drained, or is gone from the file, gets nothing new; what
    it runs is waited for. A mistake in the file changes nothing but a warning.

Jobs wait here, and a master that dies takes them with it: none of them has begun.
"""

from __future__ import annotations

import logging
import math
import os
import select
import shlex
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any, ClassVar, Optional

from batchsystems import ssh_check
from batchsystems.abstract import (
    AbstractBatchSystem,
    BackendOption,
    BatchSystemError,
    Capacity,
    End,
    EndKind,
    Reason,
    Resources,
    Setup,
    Submission,
)
from batchsystems.commands import Waiter
from batchsystems.machine import VISIBLE_GPUS
from batchsystems.ssh_file import HostLine
from batchsystems.ssh_hosts import Hosts
from batchsystems.ssh_jobs import Job, Jobs, end_of
from batchsystems.ssh_link import Link
from batchsystems.ssh_options import OPTIONS
from batchsystems.ssh_placement import GPUS, Booked, Need, Placement, capacity, why_never, why_waiting

log = logging.getLogger("jobtree.ssh")

_ASK_SECONDS = 10.0
"""Between questions for everything that a host has; ends come without a question."""
_FIRST_SECONDS = 15.0
"""So long the start waits for the first word of each host."""
_SYNC_SECONDS = 25.0
_CLOSE_SECONDS = 10.0
_KEPT_STRANGERS = 10_000


class Ssh(AbstractBatchSystem):
    """Jobs on the hosts of a file.

    directory: tells the jobs of this job tree from others on the same hosts; ssh: the ssh command; patience: seconds
    for which a host may be away before its jobs are reported as lost; unfit: those for which a job may wait that has
    become too large for every host.
    """

    outlives_master = True
    OPTIONS: ClassVar[tuple[BackendOption, ...]] = OPTIONS

    def __init__(
        self,
        directory: str,
        hosts_file: str,
        ssh: Sequence[str] = ("ssh",),
        patience: float = 60.0,
        max_cpu: Optional[float] = None,
        max_memory: Optional[int] = None,
        unfit: float = 60.0,
    ) -> None:
        self._directory = os.path.abspath(directory)
        self._hosts = Hosts(hosts_file, self._directory, ssh)
        self._patience = patience
        self._unfit = unfit
        self._placement = Placement(max_cpu, max_memory)
        self._jobs = Jobs()
        self._strangers: dict[str, float] = {}  # cancelled, and not known here
        self._unclaimed: dict[
            str, tuple[Link, dict[str, Any]]
        ] = {}  # ends of jobs that nobody here asked for
        self._untold: dict[str, Link] = {}
        self._polled: list[str] = []
        self._troubles: dict[str, str] = {}  # what was said of hosts already
        self._avoided: frozenset[str] = frozenset()
        self._checks: dict[str, dict[str, Any]] = {}
        self._next_ask = 0.0
        self._waiter = Waiter()
        self._closed = False
        self._until(lambda: all(link.tried for link in self._hosts.links.values()), _FIRST_SECONDS)

    @classmethod
    def create(cls, setup: Setup) -> AbstractBatchSystem:
        """Make one with the options of a command line, and check the hosts. Raises BatchSystemError."""
        made = cls.unchecked(setup)
        try:
            found = made.check_hosts()
            bad = [host for host in found if host.problems]
            if len(bad) == len(found):
                raise BatchSystemError("no host can be used:\n" + ssh_check.report(found))
            if bad:
                log.warning("%s", ssh_check.report(bad))
        except BatchSystemError:
            made.close()
            raise
        return made

    @classmethod
    def unchecked(cls, setup: Setup) -> Ssh:
        """The same, and whether the hosts can be used is another question."""
        file = setup.options["sshHosts"]
        if not file:
            raise BatchSystemError("which hosts? Give --sshHosts FILE; docs/howto/ssh.md says what is in it")
        ssh = ["ssh", *shlex.split(setup.options["sshArgs"] or "")]
        patience = setup.options["sshPatience"]
        return cls(setup.directory, file, ssh, patience, setup.max_cpu, setup.max_memory)

    # -- the contract ------------------------------------------------------------------------------------------

    def issue(self, submissions: Sequence[Submission]) -> None:
        """Hand over submissions. Raises NeverFits, BatchSystemError."""
        self._require_open()
        counted = {name for line in self._hosts.lines.values() for name in line.limits}
        needs: dict[str, Need] = {}
        for submission in submissions:
            name = submission.name
            booked = any(name in link.place.booked for link in self._hosts.all())
            if booked or name in self._jobs.known or name in needs:
                raise BatchSystemError(
                    f"{name} is already queued or running; each submission needs a name of its own"
                )
            needs[name] = Need.of(submission.resources, counted)
            never = why_never(name, needs[name], list(self._hosts.lines.values()))
            if never is not None:
                raise never
        for submission in submissions:
            self._jobs.add(Job(submission.name, needs[submission.name], submission, None))
        self._hosts.next_look = 0.0
        self._turn()

    def cancel(self, names: Iterable[str], grace: float = 0.0) -> None:
        """End these jobs."""
        self._require_open()
        for name in names:
            job = self._jobs.known.get(name)
            if job is not None and job.link is None:
                detail = "cancelled before it was started"
                self._jobs.end(End(name, EndKind.KILLED, reason=Reason.CANCELLED, detail=detail))
            elif job is not None:
                job.grace = min(grace, job.grace) if job.cancelled else grace
                job.cancelled = True
                self._tell(job.link, {"cancel": name, "grace": job.grace})
            elif "." in name and "/" not in name:
                self._strangers[name] = grace
                if len(self._strangers) > _KEPT_STRANGERS:
                    del self._strangers[next(iter(self._strangers))]
                for link in self._hosts.all():
                    self._tell(link, {"cancel": name, "grace": grace})
        self._turn()

    def poll(self, timeout: float) -> list[End]:
        """The ends not yet reported."""
        self._require_open()
        deadline = time.monotonic() + timeout
        self._forget_polled()
        while True:
            self._turn()
            if self._jobs.ends or self._wait(deadline) or time.monotonic() >= deadline:
                self._turn()
                ends = self._jobs.take_ends()
                self._polled += [end.name for end in ends]
                return ends

    def wake(self) -> None:
        """Make `poll` return."""
        self._waiter.wake()

    def list_issued(self, run: str) -> list[str]:
        """Names of queued or running jobs; asks the hosts, and waits for their answers."""
        self._require_open()
        self._turn()
        links = self._hosts.all()
        asked = {link: link.ask() for link in links if link.about is not None}
        failures = {link: link.failures for link in links}

        def is_away(link: Link) -> bool:
            return link.about is None and link.failures > failures[link]

        def is_settled(link: Link) -> bool:
            if link.about is not None:
                return link.synced and link.answered >= asked.get(link, 0)
            if not is_away(link):
                link.try_now()
            return is_away(link)

        self._until(lambda: all(is_settled(link) for link in links), _SYNC_SECONDS)
        for link in links:
            # One that is away for long is left out: what it has must be over, or show signs of life elsewhere.
            if not is_settled(link) or (is_away(link) and not link.is_given_up(self._patience)):
                raise BatchSystemError(
                    f"{link.name} cannot be asked now: {link.trouble or 'no answer in time'}"
                )
        prefix = run + "."
        for link in self._hosts.all():
            for name, booked in link.place.booked.items():
                if (
                    name.startswith(prefix)
                    and name not in self._jobs.known
                    and not self._jobs.was_reported(name)
                ):
                    self._jobs.add(Job(name, booked.need, None, link))
        for name, (link, how) in list(self._unclaimed.items()):
            if name.startswith(prefix):
                del self._unclaimed[name]
                self._jobs.add(Job(name, Need(0, 0), None, link))
                self._hear_end(link, name, how)
        ended = {end.name for end in self._jobs.ends}
        return sorted(name for name in {*self._jobs.known, *ended} if name.startswith(prefix))

    def running(self) -> list[str]:
        """Names of the jobs that hosts have begun."""
        self._require_open()
        return [job.name for job in self._jobs.known.values() if job.acked]

    def capacity(self) -> Capacity:
        """The largest of everything that a host has."""
        return capacity(self._hosts.lines.values())

    def slots(self, resources: Resources) -> Optional[int]:
        """On the hosts that can be reached; what others have takes nothing from these."""
        if not resources.cpu and not resources.memory:
            return None
        number = 0.0
        for link in self._hosts.open():
            by_cpu = link.place.line.cores // (resources.cpu * 1000) if resources.cpu else math.inf
            by_memory = link.place.line.memory // resources.memory if resources.memory else math.inf
            number += min(by_cpu, by_memory)
        return int(number) + self._elsewhere()

    def counts(self, name: str) -> bool:
        """What the hosts file limits."""
        return any(name in line.limits for line in self._hosts.lines.values())

    def why_waiting(self, name: str) -> str:
        """What it asks for, and what hosts there are."""
        job = self._jobs.known.get(name)
        hosts = {link.name: link.place for link in self._hosts.all()}
        return "" if job is None or job.link is not None else why_waiting(job.need, hosts)

    def queue_room(self) -> int:
        """So that as many wait as there are cores."""
        self._require_open()
        cores = sum(max(1, link.place.line.cores // 1000) for link in self._hosts.open())
        return max(0, 2 * cores - (len(self._jobs.known) - self._elsewhere()))

    def avoid(self, hosts: Collection[str]) -> None:
        """By the name in the hosts file, or the host's own."""
        self._avoided = frozenset(hosts)

    def set_limits(self, cpu: Optional[float], memory: Optional[int]) -> None:
        """Over all hosts."""
        self._placement.set_limits(cpu, memory)

    def close(self) -> None:
        """Hand over what was asked for; jobs go on."""
        if self._closed:
            return
        if self._strangers:  # hosts that are being connected have not heard of it
            self._until(lambda: all(link.tried for link in self._hosts.links.values()), _CLOSE_SECONDS)
        self._forget_polled()
        self._closed = True
        deadline = time.monotonic() + _CLOSE_SECONDS
        for link in self._hosts.all():
            link.close(max(0.1, deadline - time.monotonic()))
        self._waiter.close()

    def __enter__(self) -> Ssh:
        return self

    def check_hosts(self) -> list[ssh_check.HostCheck]:
        """Check every host: what it sees of our files, who we are there, which versions it has."""
        self._require_open()
        links = list(self._hosts.links.values())
        wanted = ssh_check.prepare(self._directory, len(links))
        asked = list(zip(links, wanted))
        for link, told in asked:
            if link.about is not None:
                link.send({"check": {**told, "python": link.place.line.python}})
        self._until(
            lambda: all(link.about is None or link.name in self._checks for link in links),
            ssh_check.SECONDS + _SYNC_SECONDS,
        )
        found, self._checks = self._checks, {}
        checks = [ssh_check.judge(a.name, a.about, found.get(a.name), told, a.trouble) for a, told in asked]
        ssh_check.clean_up(wanted)
        return checks

    # -- a turn ------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._hosts.read_file()
        now = time.monotonic()
        asks = now >= self._next_ask
        if asks:
            self._next_ask = now + _ASK_SECONDS
        for link in self._hosts.all():
            for message in link.turn():
                self._hear(link, message)
            if asks and link.about is not None:
                link.ask()
            if link.about is None:
                self._lose_after_patience(link)
            if link.name not in self._hosts.lines and not link.place.booked and not self._jobs.on(link):
                link.close(_CLOSE_SECONDS)
                del self._hosts.links[link.name]
        self._start()

    def _hear(self, link: Link, message: dict[str, Any]) -> None:
        if "hello" in message:
            for job in self._jobs.on(link):
                if job.cancelled:
                    link.send({"cancel": job.name, "grace": job.grace})
            for name, grace in self._strangers.items():
                link.send({"cancel": name, "grace": grace})
            link.ask()
            self._troubles.pop(link.name, None)
            log.info("%s: connected (%s)", link.name, link.hostname)
        elif "lost" in message:
            number = len(self._jobs.on(link))
            if self._troubles.get(link.name) != message["lost"]:
                log.warning(
                    "%s cannot be reached: %s. It is tried again%s.", link.name, message["lost"].rstrip("."),
                    f"; nothing is known of the {number} jobs there" if number else "",
                )  # fmt: skip
            self._troubles[link.name] = message["lost"]
        elif "started" in message:
            begun = self._jobs.known.get(message["started"])
            if begun is not None:
                begun.acked = True
        elif "end" in message:
            self._hear_end(link, message["end"], message["how"])
        elif "list" in message:
            self._hear_list(link, message["list"], message["jobs"])
        elif "checked" in message:
            self._checks[link.name] = message["checked"]

    def _hear_end(self, link: Link, name: str, how: dict[str, Any]) -> None:
        link.place.booked.pop(name, None)
        job = self._jobs.known.get(name)
        if job is not None and job.link is link:
            self._jobs.end(end_of(name, how, link.name, job.cancelled))
            self._untold[name] = link  # the host keeps it until our caller has it
            return
        elif name in self._strangers:
            del self._strangers[name]
        elif not self._jobs.was_reported(name):
            self._unclaimed[name] = (link, how)
            return
        self._tell(link, {"forget": name})

    def _hear_list(self, link: Link, number: int, jobs: dict[str, Any]) -> None:
        """A host has said what it has: the truth about everything that was sent before the question."""
        link.answered, link.synced = number, True
        for name, told in jobs.items():
            cpu, memory, countable, gpus = told["booked"]
            if not told["ended"] and name not in link.place.booked:
                link.place.booked[name] = Booked(
                    Need(cpu, memory, tuple(sorted(countable.items()))), tuple(gpus)
                )
        ours = {job.name for job in self._jobs.on(link)}
        for name in set(link.place.booked) - set(jobs) - ours:
            del link.place.booked[name]
        for job in self._jobs.on(link):
            if job.name in jobs:
                job.acked = True
            elif job.sent < number and job.acked:
                link.place.booked.pop(job.name, None)
                how = {"lost": True, "detail": f"{link.name} knows nothing of it any more"}
                self._jobs.end(end_of(job.name, how, link.name, job.cancelled))
            elif job.sent < number and job.cancelled:
                link.place.booked.pop(job.name, None)
                how = {"detail": "cancelled before it was started"}
                self._jobs.end(end_of(job.name, how, link.name, True))
            elif job.sent < number:
                self._jobs.give_back(job)

    def _start(self) -> None:
        """Send what can start to where it can."""
        for link in self._hosts.all():
            place = link.place
            # Until it has said what it has, nobody knows what is free.
            place.open = link.about is not None and link.synced
            place.avoided = link.name in self._avoided or link.hostname in self._avoided
        if not self._jobs.waiting:
            return
        links = {link.place: link for link in self._hosts.all()}
        for name, place, booked in self._placement.place(self._jobs.waiting, list(links)):
            job, link = self._jobs.known[name], links[place]
            del self._jobs.waiting[name]
            job.link, job.sent = link, link.asked
            link.send({"start": name, "job": self._described(job, place.line, booked)})
        self._find_unfit()

    def _elsewhere(self) -> int:
        """How many jobs are on hosts that get nothing new now."""
        open_ = set(self._hosts.open())
        return sum(1 for job in self._jobs.known.values() if job.link is not None and job.link not in open_)

    def _described(self, job: Job, line: HostLine, booked: Booked) -> dict[str, Any]:
        """A job as the agent wants it."""
        submission, need = job.submission, job.need
        assert submission is not None
        command = list(submission.command)
        if command[0] == sys.executable:
            command[0] = line.python
        env = dict(os.environ if submission.env is None else submission.env)
        if GPUS in line.limits:
            env[VISIBLE_GPUS] = ",".join(str(gpu) for gpu in booked.gpus)
        cwd = os.getcwd() if submission.cwd is None else submission.cwd
        return {
            "command": command, "env": env, "cwd": os.path.abspath(cwd),
            "log": submission.log and os.path.abspath(submission.log),
            "booked": [need.cpu, need.memory, dict(need.countable), booked.gpus],
        }  # fmt: skip

    def _find_unfit(self) -> None:
        """What has become too large for every host, because the file was edited."""
        now, lines = time.monotonic(), list(self._hosts.lines.values())
        verdicts: dict[Need, Optional[str]] = {}
        for name, need in list(self._jobs.waiting.items()):
            if need not in verdicts:
                never = why_never(name, need, lines)
                verdicts[need] = None if never is None else str(never)
            why, job = verdicts[need], self._jobs.known[name]
            if why is None:
                job.unfit_since = None
            elif job.unfit_since is None:
                job.unfit_since = now
            elif now - job.unfit_since >= self._unfit:
                self._jobs.end(End(name, EndKind.KILLED, reason=Reason.NEVER_FITS, detail=why))

    def _forget_polled(self) -> None:
        """Hosts need not keep ends any more that our caller was given by the last `poll`."""
        for name in self._polled:
            self._tell(self._untold.pop(name, None), {"forget": name})
        self._polled.clear()

    def _lose_after_patience(self, link: Link) -> None:
        if not link.is_given_up(self._patience):
            return
        for job in self._jobs.on(link):
            detail = f"{link.name} cannot be reached: {link.trouble}"
            # It is not cancelled: it may be well, and whoever submitted it sees its signs of life.
            self._jobs.end(end_of(job.name, {"lost": True, "detail": detail}, link.name, False))
        if link.name not in self._hosts.lines:
            link.place.booked.clear()

    @staticmethod
    def _tell(link: Optional[Link], message: dict[str, Any]) -> None:
        """Tell a host, if there is a connection; what matters is said again to the next."""
        if link is not None and link.about is not None:
            link.send(message)

    # -- waiting -----------------------------------------------------------------------------------------------

    def _wait(self, until: float) -> bool:
        """Wait for a moment, or for anything to do; whether `wake` was called."""
        poll = select.poll()
        until = min(until, self._next_ask, self._hosts.next_look)
        if self._jobs.ends:
            return False
        for link in self._hosts.all():
            until = min(until, link.register(poll))
        return self._waiter.wait_with(poll, until)

    def _until(self, condition: Any, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self._turn()
        while not condition() and time.monotonic() < deadline:
            self._wait(deadline)
            self._turn()

    def _require_open(self) -> None:
        if self._closed:
            raise BatchSystemError("this batch system has been closed; make a new one")
