"""Every name inside a job tree directory is spelled here and nowhere else.

    tree.sqlite (-wal, -shm)   the tree (jobtree.store)
    copy.sqlite                how it was a while ago, should that be damaged (jobtree.copies)
    tree.sqlite.damaged        what was damaged, after a return to the copy
    synced                     is there unless a sync has failed (jobtree.soundness)
    lock, lock.json            held, and described, by the master that runs it (jobtree.lock)
    status.json                how far it is, where nobody else can read the database (jobtree.published)
    report.json                what targets have used, for the group that a tree is shared with
    usage.json                 what the tree takes of the disk, measured from time to time (jobtree.disk_usage)
    config.json                what this directory is: format, run token, how to import the script (jobtree.environment)
    settings.json              the options of the latest start, which jobTreeRun goes on with
    environment.json           variables, working directory, sys.path of the latest start
    definitions.pickle         what a notebook defines, if one started it (jobtree.definitions)
    bundles/0/17               what bundle 17 is to run           (jobtree.frames)
    outcomes/0/17              what its worker has written down
    claims/0/17                who runs it: made once, by whoever wins
    heartbeats/0/17            its supervisor's sign of life, where workers outlive the master (jobtree.heartbeat)
    backends/slurm/            what a batch system keeps for later starts
    logs/0/17.log              what its targets printed
    values/0/17-3              returned values too large for the database
    globalTempDirs/0/17.0/3    the global temporary directory of job 17-3
    requests/                  what commands ask of the running master

A directory holds about a thousand entries at most: bundles go by thousands, and so do the jobs that one bundle made.
All paths are derived from the root, so that a finished or idle tree can be moved.
"""

from __future__ import annotations

import os
import re

FORMAT = 6
"""The version of all that is laid out here and in the database; another one is refused."""

JOB_BITS = 31
"""A job's number is ``bundle << JOB_BITS | n``: the n-th job that the bundle made. So workers can name new jobs."""

_LOW = (1 << JOB_BITS) - 1


def job_id(bundle: int, n: int) -> int:
    """The number of the n-th job (from 1) that a bundle made."""
    return bundle << JOB_BITS | n


def job_name(id: int) -> str:
    """A job's number as people read and type it: bundle-n."""
    return f"{id >> JOB_BITS}-{id & _LOW}"


def job_number(name: str) -> int:
    """The other way. Raises ValueError for what is no name of a job."""
    found = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,10})", name.strip())
    if found is None or int(found[2]) > _LOW:
        raise ValueError(
            f"{name!r} is no job. Jobs have names like 17-3: jobTreeStatus --failed, --running and --tree show them"
        )
    return job_id(int(found[1]), int(found[2]))


def bundle_of_job(id: int) -> int:
    """The bundle that made a job."""
    return id >> JOB_BITS


def bundle_of_value(path: str) -> int:
    """The bundle in which a large value was returned, from ``TreePaths.value``."""
    number = os.path.basename(path).partition("-")[0]
    return int(number) if number.isdigit() else 0


class TreePaths:
    """The names inside one job tree directory. root: an absolute path."""

    __slots__ = ("root",)

    def __init__(self, root: str) -> None:
        self.root: str = root

    @property
    def database(self) -> str:
        """The SQLite file."""
        return os.path.join(self.root, "tree.sqlite")

    @property
    def copy(self) -> str:
        """The copy of the database that the master makes from time to time."""
        return os.path.join(self.root, "copy.sqlite")

    def damaged(self) -> list[str]:
        """What is kept of a damaged database after a return to the copy."""
        return [f"{self.database}.damaged{suffix}" for suffix in ("", "-wal", "-shm", "-journal")]

    @property
    def synced(self) -> str:
        """The mark that is taken away when a sync has failed."""
        return os.path.join(self.root, "synced")

    @property
    def lock(self) -> str:
        """The file that a running master keeps locked."""
        return os.path.join(self.root, "lock")

    @property
    def lock_trial(self) -> str:
        """There for a moment while it is tried whether locks exclude."""
        return os.path.join(self.root, "lock.trial")

    @property
    def lock_owner(self) -> str:
        """Who holds the lock, for messages."""
        return os.path.join(self.root, "lock.json")

    @property
    def status(self) -> str:
        """What a running master tells of the tree to other machines."""
        return os.path.join(self.root, "status.json")

    @property
    def report(self) -> str:
        """What targets have used, for the group that the tree is shared with."""
        return os.path.join(self.root, "report.json")

    @property
    def usage(self) -> str:
        """What the tree takes of the disk, as its master has measured it."""
        return os.path.join(self.root, "usage.json")

    @property
    def config(self) -> str:
        """What makes this directory a job tree."""
        return os.path.join(self.root, "config.json")

    @property
    def environment(self) -> str:
        """The environment of the latest start."""
        return os.path.join(self.root, "environment.json")

    @property
    def definitions(self) -> str:
        """What ``__main__`` defined at the latest start, where that has no file."""
        return os.path.join(self.root, "definitions.pickle")

    @property
    def settings(self) -> str:
        """The options of the latest start."""
        return os.path.join(self.root, "settings.json")

    @property
    def requests(self) -> str:
        """The directory of requests to the master."""
        return os.path.join(self.root, "requests")

    @property
    def global_dirs(self) -> str:
        """The directory of all global temporary directories."""
        return os.path.join(self.root, "globalTempDirs")

    def directories(self) -> list[str]:
        """The directories of a new job tree."""
        names = (
            "bundles", "claims", "outcomes", "heartbeats", "logs", "values", "requests", "globalTempDirs", "backends"
        )  # fmt: skip
        return [os.path.join(self.root, name) for name in names]

    def _of_bundle(self, kind: str, bundle: int) -> str:
        return os.path.join(self.root, kind, str(bundle // 1000), str(bundle))

    def bundle(self, bundle: int) -> str:
        """What a bundle is to run."""
        return self._of_bundle("bundles", bundle)

    def outcome(self, bundle: int) -> str:
        """What a bundle's worker writes down."""
        return self._of_bundle("outcomes", bundle)

    def claim(self, bundle: int) -> str:
        """The file whose making decides who runs the bundle."""
        return self._of_bundle("claims", bundle)

    def heartbeat(self, bundle: int) -> str:
        """The sign of life of a bundle's supervisor."""
        return self._of_bundle("heartbeats", bundle)

    def backend(self, name: str) -> str:
        """What the batch system of this name keeps between starts."""
        return os.path.join(self.root, "backends", name.replace(os.sep, "_"))

    def log(self, bundle: int) -> str:
        """What the targets of a bundle print."""
        return self._of_bundle("logs", bundle) + ".log"

    def value(self, bundle: int, n: int) -> str:
        """A large value returned in a bundle, relative to the root."""
        return os.path.join("values", str(bundle // 1000), f"{bundle}-{n}")

    def global_dir(self, id: int) -> str:
        """The global temporary directory of a job."""
        bundle, n = id >> JOB_BITS, id & _LOW
        return os.path.join(self.global_dirs, str(bundle // 1000), f"{bundle}.{n // 1000}", str(n))

    def relative_global_dir(self, id: int) -> str:
        """The same, relative to the root."""
        return os.path.relpath(self.global_dir(id), self.root)

    def existing_values(self) -> list[str]:
        """The files of large values that there are, as ``value`` gives them."""
        found: list[str] = []
        for folder, _, names in os.walk(os.path.join(self.root, "values")):
            found.extend(os.path.relpath(os.path.join(folder, name), self.root) for name in names)
        return found

    def backends_used(self) -> list[str]:
        """The names of batch systems that keep something here."""
        return sorted(_names(os.path.join(self.root, "backends")))

    def numbers_used(self, *kinds: str) -> list[int]:
        """Numbers of bundles of which something is there: files of these kinds, or anything at all."""
        found = []
        everything = ("bundles", "claims", "outcomes", "heartbeats", "logs", "values", "globalTempDirs")
        for kind in kinds or everything:
            for folder, names, others in os.walk(os.path.join(self.root, kind)):
                if os.path.dirname(folder) == os.path.join(self.root, kind):
                    found += [int(number) for number in map(_leading_number, [*names, *others]) if number]
                    names[:] = []
        return found

    def existing_global_dirs(self) -> list[int]:
        """The jobs whose global temporary directories there are."""
        found: list[int] = []
        for thousand in _numbers(self.global_dirs):
            for group in _names(os.path.join(self.global_dirs, str(thousand))):
                bundle = group.partition(".")[0]
                if bundle.isdigit():
                    for n in _numbers(os.path.join(self.global_dirs, str(thousand), group)):
                        found.append(job_id(int(bundle), n))
        return found

    def absolute(self, relative: str) -> str:
        """A path that is kept relative to the root."""
        return os.path.join(self.root, relative)


def _leading_number(name: str) -> str:
    return re.split(r"[^0-9]", name, maxsplit=1)[0]


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _numbers(path: str) -> list[int]:
    return [int(name) for name in _names(path) if name.isdigit()]
