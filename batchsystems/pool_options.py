"""The options of the batch system pool."""

from __future__ import annotations

import os
from typing import Any

from batchsystems.abstract import BackendOption, Capacity
from batchsystems.pool_hub import check_url
from batchsystems.pool_sealing import GPUS
from batchsystems.pool_signing import KEY_FILE, PASSWORD_FILE

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MOST_PRIORITY = 1000


def read_memory(text: str) -> int:
    """Bytes, from "512M" or "2.5G" (powers of 1024). Raises ValueError."""
    words = text.strip().lower().rstrip("b").rstrip("i")
    number = words.rstrip("kmgt")
    size = float(number) * _UNITS[words[len(number) :]] if words[len(number) :] in _UNITS else -1.0
    if not 0 < size < 2**53:
        raise ValueError(f"{text!r} is no size of a memory")
    return int(size)


def read_size(text: str) -> Capacity:
    """A node, from "64,512G", or "64,512G,4" with graphics cards. Raises ValueError."""
    words = text.split(",")
    if not 2 <= len(words) <= 3 or not 0 < float(words[0]) < 1e6:
        raise ValueError(f"{text!r} is no size of a node")
    gpus = int(words[2]) if len(words) == 3 else 0
    return Capacity(float(words[0]), read_memory(words[1]), {GPUS: gpus})


def _size(value: object) -> str:
    read_size(str(value))
    return str(value)


def _priority(value: Any) -> int:
    number = int(value)
    if abs(number) > _MOST_PRIORITY:
        raise ValueError(f"{number} is out of range")
    return number


def _seconds(value: Any) -> float:
    number = float(value)
    if not 0 <= number < 1e9:
        raise ValueError(f"{number} is out of range")
    return number


def _path(value: object) -> str:
    # A restart may be made in another directory.
    return os.path.abspath(os.path.expanduser(str(value)))


OPTIONS = (
    BackendOption(
        "--poolHub", "Where the hub is: redis://HOST:PORT, or rediss:// for TLS.", None, check_url,
        "redis://[USER@]HOST[:PORT][/DATABASE], without a password", "URL",
    ),
    BackendOption(
        "--poolPriority", "Of two runs of yours, the one with the higher number goes first; default: 0.", 0, _priority,
        f"a whole number between {-_MOST_PRIORITY} and {_MOST_PRIORITY}", "NUMBER",
    ),
    BackendOption(
        "--poolPatience", "Seconds that a job waits that is too large for all nodes; default: 600.", 600.0, _seconds,
        "seconds, 0 or more", "SECONDS",
    ),
    BackendOption(
        "--poolLargest", "Cores, memory, graphics cards of the largest node that may come (64,512G,4).", None, _size,
        "cores, memory and perhaps graphics cards, such as 64,512G,4", "SIZE",
    ),
    BackendOption(
        "--poolPasswordFile", f"A file with the password for the hub; default: {PASSWORD_FILE}, if it is there.", None,
        _path, "a file", "FILE",
    ),
    BackendOption(
        "--poolKeyFile", f"The file with your signing key, the same on all machines; default: {KEY_FILE}.", None,
        _path, "a file", "FILE",
    ),
    BackendOption(
        "--poolCA", "Certificates by which the hub's is checked (TLS); default: the system's.", None, _path, "a file",
        "FILE",
    ),
    BackendOption(
        "--poolCertificate", "Your own certificate, if the hub wants one (TLS).", None, _path, "a file", "FILE"
    ),
    BackendOption(
        "--poolCertificateKey", "The key of your own certificate.", None, _path, "a file", "FILE"
    ),
)  # fmt: skip
