"""The hub of a pool: the connection to Redis, and one call for each of its scripts.

What must hold
  - Nobody waits for the hub: a call takes some seconds at most, and raises `HubAway` for whatever kept it from being
    answered. It may have been carried out all the same; every script may be called again.
  - A Redis that was started anew, with or without what it knew, is noticed by whoever comes first: it has no scripts.
    Before they are loaded again, `pool_scripts.RECOVER` says so to all.
  - The password is in no address, no message and no command line.

The library `redis` is imported when a connection is made, because it may be absent.
"""

from __future__ import annotations

import importlib
import json
import os
import pwd
import sys
import time
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

from batchsystems import pool_scripts
from batchsystems.abstract import BatchSystemError
from batchsystems.pool_claim import CLAIM
from batchsystems.pool_scripts import Script
from batchsystems.pool_signing import PASSWORD_FILE, Key, load_password

_PORT = 6379
_CONNECT_SECONDS = 3.0
_ANSWER_SECONDS = 5.0
_SCRIPTS = (*pool_scripts.ALL, CLAIM)


def elapsed() -> float:
    """Seconds on a clock that is never set, and goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


class HubAway(BatchSystemError):
    """The hub did not answer, or not as it should; the message says what happened."""


@dataclass(frozen=True)
class Address:
    """Where the hub is, and how one gets in; files of a certificate authority, a certificate and its key for TLS."""

    host: str
    port: int = _PORT
    database: int = 0
    tls: bool = False
    user: Optional[str] = None
    password: str = ""
    ca: Optional[str] = None
    certificate: Optional[str] = None
    certificate_key: Optional[str] = None

    def __str__(self) -> str:
        return f"{'rediss' if self.tls else 'redis'}://{self.host}:{self.port}/{self.database}"

    def __repr__(self) -> str:
        return f"Address({self})"  # without the password, which the usual one would show


def check_url(url: object) -> str:
    """A URL of a hub as it was given. Raises ValueError, which does not repeat a password."""
    text = str(url)
    parts = urllib.parse.urlsplit(text)
    if "@" in text and (parts.password is not None or ":" in text.rpartition("@")[0].partition("//")[2]):
        raise ValueError(
            "a URL with a password in it; put that into a file (mode 600), see --poolPasswordFile"
        )
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is no address of a hub")
    if parts.path.strip("/") and not parts.path.strip("/").isdigit():
        raise ValueError(f"{text!r}: after the host comes the number of a database, or nothing")
    _ = parts.port  # ValueError if it is none
    return text


def address(
    url: str,
    password_file: Optional[str] = None,
    ca: Optional[str] = None,
    certificate: Optional[str] = None,
    certificate_key: Optional[str] = None,
) -> Address:
    """What a URL and files of a command line mean. Raises BatchSystemError."""
    try:
        parts = urllib.parse.urlsplit(check_url(url))
    except ValueError as error:
        raise BatchSystemError(
            f"the hub: {error}; expected redis://HOST or rediss://USER@HOST:PORT/0"
        ) from error
    for path in (ca, certificate, certificate_key):
        if path is not None and not os.access(path, os.R_OK):
            raise BatchSystemError(f"{path} for the connection to the hub cannot be read")
    assert parts.hostname is not None
    return Address(
        parts.hostname,
        parts.port or _PORT,
        int(parts.path.strip("/") or 0),
        parts.scheme == "rediss",
        urllib.parse.unquote(parts.username) if parts.username else None,
        load_password(password_file or PASSWORD_FILE, default=password_file is None),
        ca,
        certificate,
        certificate_key,
    )


def user_name() -> str:
    """The user that we run as, as hubs name it: by letters that mean nothing else in the name of a key.

    By the number of this process's user: variables such as LOGNAME say what somebody has put there.
    """
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # in a container, for instance
        name = f"uid{os.geteuid()}"
    return urllib.parse.quote(name, safe="")


class Given(NamedTuple):
    """A job that a node was given: its name, its line, and the signed command."""

    name: str
    line: str
    payload: str


class Hub:
    """One user's space in a hub. For one thread; `listener` gives another one for another thread."""

    def __init__(self, where: Address, key: Key, user: Optional[str] = None) -> None:
        self.address = where
        self.key = key
        self.user = user or user_name()
        self.identity = f"{self.user}:{key.id}"
        self.space = f"jobtree:user:{self.identity}:"
        self._library = _library()
        self._redis = self._connection(_ANSWER_SECONDS)

    def _connection(self, seconds: float) -> Any:
        where = self.address
        encrypted: dict[str, Any] = {}
        if where.tls:
            encrypted = {
                "ssl": True,
                "ssl_ca_certs": where.ca,
                "ssl_certfile": where.certificate,
                "ssl_keyfile": where.certificate_key,
                "ssl_cert_reqs": "required",
                "ssl_check_hostname": True,
            }
        retry = importlib.import_module("redis.retry").Retry(
            importlib.import_module("redis.backoff").NoBackoff(), 0
        )
        return self._library.Redis(
            host=where.host,
            port=where.port,
            db=where.database,
            username=where.user,
            password=where.password or None,
            socket_timeout=seconds,
            socket_connect_timeout=_CONNECT_SECONDS,
            socket_keepalive=True,
            decode_responses=True,
            retry=retry,
            **encrypted,
        )

    def check(self) -> None:
        """Say so if one cannot get in. Raises BatchSystemError."""
        try:
            self._redis.ping()
        except self._library.AuthenticationError as error:
            raise BatchSystemError(
                f"the hub {self.address} does not let {self.address.user or 'its default user'} in: {error}. The "
                f"password is read from {PASSWORD_FILE}, or from the file that --poolPasswordFile names."
            ) from error
        except (self._library.RedisError, OSError) as error:
            raise BatchSystemError(
                f"the hub {self.address} cannot be reached: {error}. Expected a Redis there, version 7 or newer; see "
                "docs/howto/pool.md"
            ) from error

    def answer_within(self, seconds: float) -> None:
        """Wait no longer for an answer, for somebody who has little time."""
        self._redis.close()
        self._redis = self._connection(min(seconds, _ANSWER_SECONDS))

    def close(self) -> None:
        """Let go of the connection."""
        self._redis.close()

    # -- what scripts do ---------------------------------------------------------------------------------------

    def submit(self, runs: Mapping[str, Mapping[str, Any]], jobs: Sequence[Given]) -> list[str]:
        """Queue jobs; those names that others have, and then nothing was done."""
        about = [[run, json.dumps(what)] for run, what in runs.items()]
        return self._texts(self._run(pool_scripts.SUBMIT, self.identity, json.dumps(about), json.dumps(jobs)))

    def claim(self, *arguments: object) -> tuple[str, list[Given]]:
        """See batchsystems.pool_claim; why there was no more, and what there was."""
        why, *flat = self._texts(self._run(CLAIM, self.identity, *arguments))
        return why, [Given(*flat[i : i + 3]) for i in range(0, len(flat), 3)]

    def beat(self, *arguments: object) -> dict[str, Any]:
        """A node's sign of life; what it must know."""
        return self._object(self._run(pool_scripts.BEAT, self.identity, *arguments))

    def claim_running(self, node: str, jobs: Sequence[Given]) -> None:
        """What a node runs and the hub no longer knows."""
        self._run(pool_scripts.ASSERT, node, json.dumps(jobs))

    def abandon(self, node: str, beat: str) -> int:
        """A node is silent since this beat: its jobs, so many, go back. -1: it has been heard meanwhile."""
        return int(self._run(pool_scripts.ABANDON, node, beat))

    def leave(self, node: str, place: str) -> None:
        """A node ends, and runs nothing any more."""
        self._run(pool_scripts.LEAVE, node, place)

    def recovered(self, boot: str) -> None:
        """After this start of Redis every node has had its time."""
        self._run(pool_scripts.RECOVERED, boot)

    def news(self, runs: Iterable[str], taken: Iterable[str], count: bool) -> dict[str, Any]:
        """Ends of jobs of these runs, and how things stand."""
        arguments = (json.dumps(list(runs)), json.dumps(list(taken)), "1" if count else "0")
        return self._object(self._run(pool_scripts.NEWS, *arguments))

    def cancel(self, names: Iterable[str], grace: float) -> list[str]:
        """Have jobs ended; those that had not begun, and never will."""
        return self._texts(self._run(pool_scripts.CANCEL, repr(grace), json.dumps(list(names))))

    def cancels(self, node: str) -> dict[str, float]:
        """What is to be cancelled on a node, with the grace of each."""
        found = self._asked(lambda: self._redis.hgetall(f"{self.space}cancel:{node}"))
        return {name: float(grace) for name, grace in found.items()}

    def names(self, run: str) -> list[str]:
        """The jobs of a run that are queued, running, or whose end nobody has taken."""
        return self._texts(self._run(pool_scripts.LIST, run))

    def running(self) -> list[str]:
        """The jobs that some node has."""
        return self._texts(self._asked(lambda: self._redis.hkeys(f"{self.space}claim")))

    def avoid(self, run: str, hosts: Iterable[str]) -> None:
        """Start nothing of this run there if that can be helped."""
        self._run(pool_scripts.AVOID, run, json.dumps(list(hosts)))

    def sweep(self, days: float) -> None:
        """Forget runs that have nothing there for so long."""
        self._run(pool_scripts.SWEEP, repr(days))

    # -- asking ------------------------------------------------------------------------------------------------

    def wait(self, who: Sequence[str], seconds: int) -> bool:
        """Wait until one of these is woken; whether that was so. For a thread's own hub."""
        keys = [f"{self.space}wake:{one}" for one in who]
        return self._asked(lambda: self._redis.blpop(keys, seconds)) is not None

    def wake(self, who: Sequence[str]) -> None:
        """End somebody's wait."""
        for one in who[:1]:
            self.asked("LPUSH", f"{self.space}wake:{one}", "1")
            self.asked("EXPIRE", f"{self.space}wake:{one}", 60)

    def asked(self, command: str, *arguments: object) -> Any:
        """The answer to any command. Raises HubAway."""
        return self._asked(lambda: self._redis.execute_command(command, *arguments))

    def listener(self, seconds: float) -> Hub:
        """The same space by another connection, on which an answer may take so long."""
        other = Hub(self.address, self.key, self.user)
        other._redis.close()
        other._redis = other._connection(seconds + _ANSWER_SECONDS)
        return other

    def _run(self, script: Script, *arguments: object) -> Any:
        words = [self.space, *arguments]

        def once() -> Any:
            try:
                return self._redis.evalsha(script.sha, 0, *words)
            except self._library.exceptions.NoScriptError:
                self._redis.eval(pool_scripts.RECOVER, 0, os.urandom(8).hex())
                for each in _SCRIPTS:
                    self._redis.script_load(each.text)
                return self._redis.evalsha(script.sha, 0, *words)

        return self._asked(once)

    def _asked(self, call: Any) -> Any:
        try:
            return call()
        except (self._library.RedisError, OSError) as error:
            # What was sent may be answered later, on this connection: the next question gets a fresh one.
            self._redis.connection_pool.disconnect()
            raise HubAway(f"the hub {self.address}: {str(error).rstrip('.')}") from error

    @staticmethod
    def _texts(answer: Any) -> list[str]:
        return [str(one) for one in answer]

    @staticmethod
    def _object(answer: Any) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(answer)
        return found


def _library() -> Any:
    try:
        return importlib.import_module("redis")
    except ImportError as error:
        raise BatchSystemError(
            f"the Python library redis is not there ({error}). Install it on all machines of the pool: pip install "
            "'jobtree[pool]'"
        ) from error
