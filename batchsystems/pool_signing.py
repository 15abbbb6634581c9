"""Who may run what in a pool: each user's key, and what is signed with it.

The hub carries commands from masters to nodes, and whoever can write to the hub can put any text there. So what a node
runs is signed (HMAC-SHA256) with a key that the user's masters and nodes share as a file and the hub never sees; what
a node tells of an end is signed likewise. A node runs nothing else, and as nobody else than the user it runs as.

What is signed names the job, its user and its resources, and when it ceases to hold. An old signed text that is put
into the hub again can do no more than start the same job of the same user once more; that is what a pool may do by
itself after a failure, and what the claim in the job tree makes harmless. It binds no hub: one hub goes by many names.

The key is a file of 64 hexadecimal digits that only its owner can read, made by whoever needs it first. Where
machines do not share the home directory it is copied. The password for Redis is a file as well: command lines and
environments can be seen by others, and are written into logs.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
from typing import Any

from batchsystems.abstract import BatchSystemError, End, EndKind, Reason

DIRECTORY = "~/.config/jobtree"
KEY_FILE = f"{DIRECTORY}/pool-key"
PASSWORD_FILE = f"{DIRECTORY}/pool-password"

JOB = "job"
END = "end"


class Forged(Exception):
    """A text was not signed with this key, or does not say what it should; the message says which."""


class Key:
    """A signing key. `id` tells it from others and gives nothing away."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.id = hashlib.sha256(b"the name of this key: " + secret).hexdigest()[:12]

    def sign(self, kind: str, content: Any) -> str:
        """The content as a signed text; kind: JOB or END, so that one is never taken for the other."""
        text = json.dumps(content, separators=(",", ":"))
        return f"{self._code(kind, text)} {text}"

    def read(self, kind: str, signed: str) -> Any:
        """The content of a signed text. Raises Forged."""
        code, _, text = signed.partition(" ")
        if not hmac.compare_digest(code.encode("utf-8", "replace"), self._code(kind, text).encode()):
            raise Forged(f"it was not signed with the key {self.id}")
        return json.loads(text)  # we have written it ourselves

    def _code(self, kind: str, text: str) -> str:
        return hmac.new(
            self._secret, f"{kind}\n{text}".encode("utf-8", "backslashreplace"), hashlib.sha256
        ).hexdigest()


def load_key(path: str) -> Key:
    """The key in a file, which is made if it is not there. Raises BatchSystemError."""
    path = os.path.expanduser(path)
    try:
        if not os.path.exists(path):
            _make_key(path)
        text = _read_private(path)
        secret = bytes.fromhex(text)
    except OSError as error:
        raise BatchSystemError(f"the key of the pool, {path}, cannot be read or made: {error}") from error
    except ValueError:
        secret = b""
    if len(secret) < 32:
        raise BatchSystemError(
            f"{path} holds no key of a pool; expected 64 hexadecimal digits. Remove it, and a new one is made; then "
            "copy that to all machines of the pool, and start their nodes again."
        )
    return Key(secret)


def load_password(path: str, default: bool) -> str:
    """The password in a file; empty if there is none. default: the file need not be there. Raises BatchSystemError."""
    path = os.path.expanduser(path)
    try:
        return _read_private(path)
    except FileNotFoundError:
        if default:
            return ""
        raise BatchSystemError(f"there is no {path}; expected a file with the password for the hub") from None
    except OSError as error:
        raise BatchSystemError(f"the password file {path} cannot be read: {error}") from error


def _read_private(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        mode = os.fstat(file.fileno())
        if mode.st_mode & (stat.S_IRWXG | stat.S_IRWXO) or mode.st_uid not in (os.geteuid(), 0):
            raise BatchSystemError(
                f"{path} can be read by others (mode {stat.S_IMODE(mode.st_mode):o}, owner {mode.st_uid}), or is not "
                f"yours; what is in it must be known to you alone. If it still is: chmod 600 {path}"
            )
        return file.read().strip()


def _make_key(path: str) -> None:
    """Make a key, whole as soon as it is there; should somebody else do so at the same time, theirs is taken."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    new = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(os.urandom(32).hex() + "\n")
        try:
            os.link(new, path)
        except FileExistsError:
            pass
    finally:
        os.unlink(new)


def end_as_json(end: End) -> dict[str, Any]:
    """An end as it is signed."""
    return {**vars(end), "kind": end.kind.value, "reason": end.reason and end.reason.value}


def end_from_json(stored: dict[str, Any]) -> End:
    """The end that was signed."""
    reason = stored["reason"] and Reason(stored["reason"])
    return End(**{**stored, "kind": EndKind(stored["kind"]), "reason": reason})
