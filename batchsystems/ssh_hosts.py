"""The hosts that there are now: the hosts file is read again when it has changed.

A host that is new gets a connection. One that is gone from the file keeps it, gets nothing new, and is let go by
whoever knows its jobs. A file with a mistake changes nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Sequence

from batchsystems.abstract import BatchSystemError
from batchsystems.ssh_file import HostLine, read_hosts
from batchsystems.ssh_link import Link

log = logging.getLogger("jobtree.ssh")

_LOOK_SECONDS = 1.0


class Hosts:
    """lines: what the file says; links: the connections, also to hosts that are gone from it; both by name."""

    def __init__(self, file: str, directory: str, ssh: Sequence[str]) -> None:
        self._file = file
        self._directory = directory
        self._ssh = list(ssh)
        self._master = os.urandom(8).hex()
        self._stamp = self._stamp_of_file()
        self.next_look = 0.0
        self.lines = read_hosts(file)
        self.links = {name: self._link(line) for name, line in self.lines.items()}

    def all(self) -> list[Link]:
        """Every host."""
        return list(self.links.values())

    def open(self) -> list[Link]:
        """Those that can be reached and take jobs."""
        return [link for link in self.all() if link.about is not None and not link.place.line.drain]

    def read_file(self) -> None:
        """Read the file again if it has changed; look at it once a second."""
        now = time.monotonic()
        if now < self.next_look:
            return
        self.next_look = now + _LOOK_SECONDS
        stamp = self._stamp_of_file()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            lines = read_hosts(self._file)
        except BatchSystemError as error:
            log.warning("%s. The hosts stay as they were.", error)
            return
        for name, line in lines.items():
            if name not in self.links:
                log.info("%s is new in the hosts file", name)
                self.links[name] = self._link(line)
            else:
                self.links[name].place.line = line
        for name in set(self.links) - set(lines):
            if not self.links[name].place.line.drain:
                log.info("%s is gone from the hosts file: it gets nothing new", name)
            old = self.links[name].place.line
            self.links[name].place.line = HostLine(name, 0, 0, old.python, old.tmp, drain=True)
        self.lines = lines

    def _link(self, line: HostLine) -> Link:
        # Hosts of one file may be the same machine, or share a disk.
        key = hashlib.sha256(f"{self._directory}\0{line.name}".encode("utf-8", "surrogateescape")).hexdigest()
        return Link(line, key[:16], self._master, self._ssh)

    def _stamp_of_file(self) -> tuple[int, ...]:
        try:
            found = os.stat(self._file)
        except OSError:
            return ()
        return (found.st_mtime_ns, found.st_size, found.st_ino)
