"""The hosts file of the ssh batch system.

    # one host a line
    localhost            cores=4  memory=8G
    ada@big.example.org  cores=32 memory=256G  python=/opt/python3.11/bin/python3  tmp=/scratch
    old                  cores=8  memory=32G   limit.licence=2  drain

The first word is what `ssh` takes: a name of ~/.ssh/config, a host, user@host. Whoever reads the file takes all of it
or, if there is a mistake, nothing.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from batchsystems.abstract import BatchSystemError, human_bytes

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)([kmgt]?)(?:i?b)?", re.IGNORECASE)
_LEAST_MEMORY = 1 << 20  # less is a unit that was forgotten
_KEYS = "cores=, memory=, python=, tmp=, limit.NAME=, drain"


@dataclass(frozen=True)
class HostLine:
    """One host. cores in thousandths; drain: nothing new is to be started there."""

    name: str
    cores: int
    memory: int
    python: str = sys.executable
    tmp: str = "/tmp"
    limits: Mapping[str, int] = field(default_factory=dict, hash=False)
    drain: bool = False


def read_hosts(path: str) -> dict[str, HostLine]:
    """The hosts of a file, by name. Raises BatchSystemError, which names the line and what is wrong there."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise BatchSystemError(f"the hosts file {path} cannot be read: {error}") from error
    hosts: dict[str, HostLine] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            host = _host(words)
            if host.name in hosts:
                raise ValueError(f"{host.name} is there twice")
        except ValueError as error:
            raise BatchSystemError(f"{path}, line {number}: {error}") from error
        hosts[host.name] = host
    if not hosts:
        raise BatchSystemError(f"{path} names no host; expected lines such as: HOST cores=8 memory=32G")
    return hosts


def _host(words: list[str]) -> HostLine:
    name = words[0]
    if name.startswith("-") or "=" in name or "/" in name:
        raise ValueError(f"the first word is {name!r}; expected a host: HOST or USER@HOST")
    found: dict[str, str] = {}
    limits: dict[str, int] = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if key.startswith("limit.") and key != "limit." and equals:
            limits[key[len("limit.") :]] = _whole(key, value)
        elif (key in ("cores", "memory", "python", "tmp") and equals) or word == "drain":
            if key in found:
                raise ValueError(f"{key} is given twice")
            found[key] = value
        else:
            raise ValueError(f"{word!r} is not understood; expected one of: {_KEYS}")
    for key in ("cores", "memory"):
        if key not in found:
            raise ValueError(f"{name} has no {key}=; expected HOST cores=8 memory=32G")
    for key in ("python", "tmp"):
        if key in found and not os.path.isabs(found[key]):
            raise ValueError(f"{key}={found[key]} is no absolute path")
    more = {key: found[key] for key in ("python", "tmp") if key in found}
    cores, memory = _cores(found["cores"]), _memory(found["memory"])
    return HostLine(name, cores, memory, limits=limits, drain="drain" in found, **more)


def _cores(text: str) -> int:
    try:
        cores = float(text)
    except ValueError:
        cores = -1.0
    if not 0 < cores < 1e6:
        raise ValueError(f"cores={text}; expected a number of cores, more than 0")
    return int(cores * 1000)


def _memory(text: str) -> int:
    match = _MEMORY.fullmatch(text)
    if match is None or float(match[1]) == 0:
        raise ValueError(f"memory={text}; expected a size such as 32G or 512M")
    size = int(float(match[1]) * _UNITS[match[2].lower()])
    if size < _LEAST_MEMORY:
        raise ValueError(f"memory={text} is {human_bytes(size)}; expected a size such as {text}G or 512M")
    return size


def _whole(key: str, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{key}={text}; expected a whole number")
    return int(text)
