"""Grid Engine's commands: what is said to them, and what their answers mean. Values and texts, no processes.

A submission is an array, also if it is one job, under a name of its own: "run-RUN.FIRST.TOKEN", where FIRST is the rest
of the name of its first job, for people, and the token is made for this one submission. (Names may not begin with a
digit.) So everything can be asked and said by name, and numbers, which are given out again after a crash, are never
needed.

Written for Grid Engine 8.1.9 and what is common to its relatives. What is not understood is never an end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, Optional
from xml.etree import ElementTree

from batchsystems.scheduled import Line, Node, Refusal, Request, read_tasks, write_tasks

ROOM_MEBIBYTES = 384
"""Memory for the processes around a command: Grid Engine counts the address space of all of them."""

_MOST_RANGES = 100

OWN_ARGUMENTS = frozenset(
    [
        "-N", "-t", "-tc", "-b", "-o", "-e", "-i", "-j", "-wd", "-cwd", "-r", "-w", "-sync", "-terse", "-V", "-a",
        "-hold_jid", "-hold_jid_ad", "-shell", "-now", "-h",
    ]
)  # fmt: skip
"""What is not the user's to give."""

REFUSALS = (
    (
        Refusal.AWAY,
        ("commlib error", "unable to send message to qmaster", "unable to contact qmaster", "connection refused"),
    ),
)  # fmt: skip

NamesOf = Callable[[str], Mapping[int, str]]


# -- submitting ------------------------------------------------------------------------------------------------


class Site(NamedTuple):
    """What is there to be asked for. `pe`: of several cores on one machine, None: there is none that could be chosen;
    `memory`: the resource, "" if memory is not asked for; `per_slot`: that is counted for each core."""

    known: bool = False
    nodes: tuple[Node, ...] = ()
    pe: Optional[str] = None
    memory: str = ""
    per_slot: bool = True


def job_name(run: str, first: str, token: str) -> str:
    """The name of an array."""
    return f"run-{run}.{first}.{token}"


def read_name(name: str) -> Optional[tuple[str, str]]:
    """The run and the token of an array's name; None if it is none of ours."""
    found = re.fullmatch(r"run-([A-Za-z0-9_-]+)\.[A-Za-z0-9_.-]+\.([0-9a-f]{12})", name)
    return (found.group(1), found.group(2)) if found else None


def native(request: Request, site: Site, exclude: Iterable[str], more: str) -> str:
    """The native specification for a request."""
    words = ["-b y -shell n -r n -w e"]
    if request.cpus > 1 and site.pe:
        words.append(f"-pe {site.pe} {request.cpus} -R y")
    if request.mebibytes and site.memory:
        mebibytes = request.mebibytes + ROOM_MEBIBYTES
        each = -(-mebibytes // request.cpus) if site.per_slot else mebibytes
        words.append(f"-l {site.memory}={each}M")
    if request.minutes is not None:
        words.append(f"-l h_rt={60 * request.minutes}")
    excluded = "|".join(sorted(exclude))
    if excluded:
        words.append(f"-l hostname=!({excluded})")
    return " ".join([*words, *([more] if more else [])])


def qdel(user: str, name: str, tasks: Iterable[int]) -> Iterator[list[str]]:
    """The commands that remove tasks of an array, or kill them: `-t` takes one range, and a line some hundred."""
    ranges = write_tasks(tasks).split(",")
    for start in range(0, len(ranges), _MOST_RANGES):
        words = [word for one in ranges[start : start + _MOST_RANGES] for word in (name, "-t", one)]
        yield ["qdel", "-u", user, *words]


# -- what has become of jobs -----------------------------------------------------------------------------------


def qstat(user: str) -> list[str]:
    """The one question: all jobs of a user that are queued or running."""
    return ["qstat", "-xml", "-s", "prs", "-u", user]


def read_queue(text: str, names_of: NamesOf) -> Optional[list[Line]]:
    """The lines that are of our making; None if the answer is not complete. names_of: of the tasks of a token."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return None
    found = []
    for element in root.iter("job_list"):
        known = {child.tag: (child.text or "").strip() for child in element}
        ours = read_name(known.get("JB_name", ""))
        if ours is None:
            continue
        run, token = ours
        number, tasks = known.get("JB_job_number", ""), read_tasks(known.get("tasks", ""))
        names = names_of(token)
        jobs = {index: names[index] for index in tasks if index in names}
        host = known.get("queue_name", "").partition("@")[2]
        submitted = known.get("JB_submission_time", "")
        found.append(
            Line(number, tasks, number, known.get("state", ""), "", None, submitted, host, token, jobs, run)
        )
    return found


def qacct(name: str) -> list[str]:
    """What became of an array that `qstat` does not know any more."""
    return ["qacct", "-j", name]


ENDED = "ended"


def read_accounts(text: str) -> list[Line]:
    """The records of `qacct -j`. The reason is "FAILED; maxvmem=...; wallclock=...; CATEGORY" (`grid_engine_ends`)."""
    found = []
    for record in re.split(r"^=+$", text, flags=re.MULTILINE):
        known = {}
        for line in record.splitlines():
            name, _, value = line.partition(" ")
            known[name] = value.strip()
        ours = read_name(known.get("jobname", ""))
        task = known.get("taskid", "")
        if ours is None or not task.isdigit():
            continue
        number = known.get("jobnumber", "")
        reason = "; ".join(
            [
                known.get("failed", ""),
                f"maxvmem={known.get('maxvmem', '')}",
                f"wallclock={known.get('ru_wallclock', '')}",
                known.get("category", ""),
            ]
        )
        found.append(
            Line(
                number,
                [int(task)],
                f"{number}.{task}",
                ENDED,
                reason,
                _wait_status(known),
                known.get("qsub_time", ""),
                known.get("hostname", ""),
                ours[1],
                {},
                ours[0],
            )  # fmt: skip
        )
    return found


def _wait_status(known: Mapping[str, str]) -> Optional[int]:
    """As of wait(2). A signal is 128 and its number, as in a shell, and something is said to have failed then."""
    status, failed = (re.match(r"\d+", known.get(name, "")) for name in ("exit_status", "failed"))
    if status is None or failed is None:
        return None
    number = int(status.group())
    if number > 128 and failed.group() != "0":
        return number - 128
    return number << 8


# -- what there is ---------------------------------------------------------------------------------------------


def bytes_of(text: str) -> int:
    """A size as Grid Engine writes it: "4G", "24105.562500M", "100"; k, m, g: powers of 1000. 0 for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTkmgt]?)", text)
    if found is None:
        return 0
    power = " kmgt".index(found.group(2).lower() or " ")
    return int(float(found.group(1)) * (1000 if found.group(2).islower() else 1024) ** power)


def read_instances(text: str) -> dict[str, tuple[int, bool]]:
    """From `qstat -f -xml`: host -> slots of its queues, and whether one of them may start jobs."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return {}
    found: dict[str, tuple[int, bool]] = {}
    for element in root.iter("Queue-List"):
        host = (element.findtext("name") or "").partition("@")[2]
        slots = int(element.findtext("slots_total") or 0)
        usable = not set(element.findtext("state") or "") & set("aAudDEsSCo")
        before, was = found.get(host, (0, False))
        found[host] = before + slots, was or usable
    return found


def read_host(text: str, memory: str) -> tuple[Optional[int], int]:
    """From `qconf -se HOST`: slots, if there are fewer than its queues have, and bytes of memory."""
    text = text.replace("\\\n", "")
    lines = dict(re.findall(r"^(\w+)\s+(.*)$", text, re.MULTILINE))
    given, load = (
        dict(re.findall(r"(\w+)=([^,\s]+)", lines.get(name, "")))
        for name in ("complex_values", "load_values")
    )
    slots = given.get("slots", "")
    total = bytes_of(load.get("mem_total", ""))
    return int(slots) if slots.isdigit() else None, bytes_of(given.get(memory, "")) or total


def read_consumable(text: str, name: str) -> Optional[str]:
    """From `qconf -sc`: how a resource is counted (YES, NO, JOB, HOST); None: there is none of that name."""
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 6 and name in words[:2]:
            return words[5]
    return None
