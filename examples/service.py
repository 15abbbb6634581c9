"""A real server as a service: a Redis that is up while texts are counted, and goes when they are.

    python examples/service.py --jobTree counting README.md docs/*.md

A target adds the Redis with addService(). It is started before the target's first child, its address comes to those who
need it as a promise, and it is stopped when the last of them is done. If it dies, or its machine or the master does, it
is started again, and those that were talking to it run again with its new address. It finds what it knew in its global
temporary directory, so what was counted stays counted; setting a number twice does no harm, adding to it would.
"""

import argparse
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections import Counter
from typing import Any

import redis

from jobtree import Service, Stack, Target


class Redis(Service):
    """A redis-server on this machine, behind a password, that has written down whatever it has confirmed."""

    def start(self) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        password = secrets.token_hex(16)
        settings = f"bind 127.0.0.1\nport {port}\nrequirepass {password}\nlogfile /dev/null\n"
        files = f'dir {self.getGlobalTempDir()}\nappendonly yes\nappendfsync always\nsave ""\n'
        self.server = self.startProcess(["redis-server", "-"], stdin=subprocess.PIPE, text=True)
        assert self.server.stdin is not None
        with self.server.stdin as standard_input:
            standard_input.write(settings + files)
        self.client = redis.Redis.from_url(f"redis://:{password}@127.0.0.1:{port}")
        while not self.answers():
            if self.server.poll() is not None:
                raise RuntimeError(f"redis-server ended with status {self.server.returncode}")
            time.sleep(0.05)
        return f"redis://:{password}@127.0.0.1:{port}"

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False

    def check(self) -> bool:
        return self.server.poll() is None and self.answers()

    def stop(self) -> None:
        self.server.terminate()
        self.server.wait()


class CountAll(Target):
    """The first target: whatever is below its child may talk to the Redis."""

    def __init__(self, paths: list[str]) -> None:
        Target.__init__(self, memory="100M")
        self.paths = paths

    def run(self) -> Any:
        address = self.addService(Redis()).rv()
        return self.addChildTarget(Texts(address, self.paths)).rv()


class Texts(Target):
    """A child for each text, and then one target that asks for the sum. Here the promise is an address."""

    def __init__(self, address: Any, paths: list[str]) -> None:
        Target.__init__(self, memory="100M")
        self.address = address
        self.paths = paths

    def run(self) -> Any:
        for path in self.paths:
            self.addChildFn(count, (self.address, path), memory="100M")
        return self.setFollowOnFn(most_frequent, (self.address, self.paths), memory="100M").rv()


def count(address: str, path: str) -> None:
    """Tell the Redis how often each word is in a text."""
    with open(path) as text:
        words = Counter(re.findall(r"[a-z]+", text.read().lower()))
    with redis.Redis.from_url(address) as client:
        client.delete(path)
        if words:
            client.zadd(path, dict(words))


def most_frequent(address: str, paths: list[str]) -> list[tuple[str, int]]:
    """Have the Redis add up what it was told."""
    with redis.Redis.from_url(address, decode_responses=True) as client:
        client.zunionstore("all", paths)
        return [(word, int(number)) for word, number in client.zrevrange("all", 0, 9, withscores=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("paths", nargs="+", help="text files")
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    if shutil.which("redis-server") is None:
        parser.error("redis-server is not installed")
    stack = Stack(CountAll([os.path.abspath(path) for path in options.paths]))
    if stack.startJobTree(options):
        raise SystemExit(1)
    for word, number in stack.result():
        print(f"{number:>8} {word}")


if __name__ == "__main__":
    main()
