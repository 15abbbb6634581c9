"""A tree that a group may look at: ``--shareWith GROUP``.

What must hold
  - The group reads how far the run is and what has failed (status.json), what targets have used (report.json), who
    runs it, and the logs of what runs or has failed. It reads nothing else: the database and the bundles hold code and
    values.
  - Nobody but the owner ever writes, steers, or holds a lock; so the group is told by the master (jobtree.published)
    instead of looking for itself, and of a run that has ended what its master told last.
  - A start without the option closes the tree again, before anything else happens in it.

How it fails: UsageError for a group that does not exist or that we are not in, before anything is made. A log that
cannot be handed over stays ours, and the run goes on.
"""

from __future__ import annotations

import grp
import logging
import os
import stat
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Optional

from jobtree import files
from jobtree.contents import Contents
from jobtree.errors import UsageError
from jobtree.paths import TreePaths

if TYPE_CHECKING:
    from jobtree.options import Settings  # what it imports would cost who only looks

log: logging.Logger = logging.getLogger("jobtree")

_DIRECTORY, _FILE = 0o750, 0o640
_MOST_REMEMBERED = 10_000
_NAMED_IN_REPORTS = ("batch_system", "job_time", "default_memory", "default_cpu", "max_cpus", "max_threads")


def group_number(group: str) -> int:
    """The number of a group, given by name or number. Raises UsageError if there is none, or it is not one of ours."""
    try:
        number = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise UsageError(
            f"--shareWith {group}: there is no such group on this machine. Yours are listed by: id -Gn"
        ) from None
    if os.geteuid() != 0 and number not in (os.getegid(), *os.getgroups()):
        raise UsageError(
            f"--shareWith {group}: you are not in that group, and can share only with one that you are in. Yours are "
            "listed by: id -Gn"
        )
    return number


class Sharing:
    """The owner's side, for a group that has this number. settings: those options that a report names."""

    def __init__(self, paths: TreePaths, group: int, settings: Mapping[str, Any]) -> None:
        self.settings: Mapping[str, Any] = settings
        self._paths = paths
        self._group = group
        self._known: set[str] = set()
        self._failing = False

    def open(self) -> None:
        """At the start of a run. Raises StorageError."""
        try:
            self._give(self._paths.root, _DIRECTORY)
            self._give(os.path.join(self._paths.root, "logs"), _DIRECTORY)
            for path in (self._paths.config, self._paths.lock_owner):
                self._give(path, _FILE)
        except OSError as error:
            raise files.refused(error, self._paths.root) from error

    def publish(self, data: bytes) -> None:
        """Replace what the group reads of the run's state. Raises StorageError."""
        files.replace(self._paths.status, data, _FILE, self._group)

    def report(self, data: bytes) -> None:
        """Replace what the group reads of what targets have used. Raises StorageError."""
        files.replace(self._paths.report, data, _FILE, self._group)

    def share_logs(self, told: Contents) -> None:
        """Hand over the logs of what is told of: what runs, and what has failed."""
        names = {self._paths.log(_bundle(job.bundle)) for job in told.running or ()}
        names.update(
            self._paths.absolute(row.log) for row in (*told.failed, *told.retried) if row.log is not None
        )
        self._share(sorted(names - self._known))

    def _share(self, logs: Iterable[str]) -> None:
        if len(self._known) > _MOST_REMEMBERED:
            self._known.clear()
        for path in logs:
            try:
                self._give(os.path.dirname(path), _DIRECTORY)
                self._give(path, _FILE)
                self._known.add(path)
            except FileNotFoundError:
                pass  # it has printed nothing yet, or is over
            except OSError as error:
                if not self._failing:
                    log.warning("%s cannot be shared with the group: %s", path, error.strerror)
                self._failing = True

    def _give(self, path: str, mode: int) -> None:
        """By a descriptor: what is given is what was looked at, and no symbolic link is followed."""
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if status.st_gid != self._group:
                os.fchown(fd, -1, self._group)
            if stat.S_IMODE(status.st_mode) != mode:
                os.fchmod(fd, mode)
        finally:
            os.close(fd)


def close(paths: TreePaths) -> None:
    """At the start of a run that is not shared: the directory is the owner's alone, and with it all that is in it."""
    try:
        if stat.S_IMODE(os.stat(paths.root).st_mode) & 0o077:
            os.chmod(paths.root, 0o700)
    except OSError as error:
        raise files.refused(error, paths.root) from error


def of(paths: TreePaths, settings: Settings) -> Optional[Sharing]:
    """What the option asks for, done: a tree that is open to the group, or to nobody."""
    if settings.share_with is None:
        close(paths)
        return None
    named = {name: getattr(settings, name) for name in _NAMED_IN_REPORTS}
    sharing = Sharing(paths, group_number(settings.share_with), named)
    sharing.open()
    return sharing


def _bundle(name: str) -> int:
    """The number of a bundle in its name, RUN.NUMBER."""
    return int(name.rpartition(".")[2])
