"""How many bundles a second go through the hub of a pool: a real Redis, a real master's side, and simulated nodes.

    python -m benchmarks.pool_claims [--nodes 1000] [--bundles 20000] [--processes 2] [--runs 4]

Each simulated node sends what a real one sends (a beat in its time, claims with the ends of what it had) and checks the
signature of what it gets; only the commands are not run. The figure is for everything that the hub does for a bundle:
submitted by one of several runs, claimed by one of the nodes, its end told, and that taken by the master.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from typing import Any, NamedTuple

import psutil

from batchsystems.abstract import AbstractBatchSystem, End, EndKind, Submission
from batchsystems.pool import Pool
from batchsystems.pool_hub import Address, Hub, elapsed
from batchsystems.pool_signing import END, JOB, end_as_json, load_key
from tests.servers import redis

_CORES = 8
_MEMORY = 1 << 35
_TIMEOUT = 60.0
_PERIOD = 5.0


class SimulatedNode:
    """The conversation of a node with the hub."""

    def __init__(self, hub: Hub, number: int) -> None:
        self._hub = hub
        self._name = f"simulated-{number}"
        self._beats = 0
        self._next_beat = 0.0
        self._ends: list[list[object]] = []

    def turn(self) -> int:
        """Beat if that is due, tell ends, take jobs, and end them; how many ends were told."""
        if elapsed() >= self._next_beat:
            self._beat()
        told, self._ends = self._ends, []
        _, given = self._hub.claim(
            self._name, self._name, _CORES * 1000, _MEMORY, _CORES * 1000, _MEMORY, _CORES, 64, 60, "",
            json.dumps(told), 0, 0,
        )  # fmt: skip
        for job in given:
            wanted = self._hub.key.read(JOB, job.payload)
            end = End(wanted["name"], EndKind.FINISHED, 0, host=self._name)
            self._ends.append([job.name, self._hub.key.sign(END, end_as_json(end)), 0, ""])
        return len(told)

    def _beat(self) -> None:
        self._beats += 1
        self._next_beat = elapsed() + _PERIOD
        about = {"host": self._name, "pid": 1, "place": "", "timeout": _TIMEOUT, "started": 0, "taking": True}
        self._hub.beat(
            self._name, self._beats, json.dumps(about), _CORES * 1000, _MEMORY, self._name, round(_TIMEOUT * 1000),
            round(_PERIOD * 1000), json.dumps({"load": [0, 0, 0], "jobs": {}}),
            json.dumps([end[0] for end in self._ends]), "[]", 0,
        )  # fmt: skip


def simulate(where: Address, key_file: str, numbers: range, there: Any, over: Any) -> None:
    """One process with some of the nodes, each in its turn."""
    hub = Hub(where, load_key(key_file))
    nodes = [SimulatedNode(hub, number) for number in numbers]
    for node in nodes:
        node.turn()
    there.wait()
    while not over.is_set():
        if not sum(node.turn() for node in nodes):
            time.sleep(0.005)
    hub.close()


class Measured(NamedTuple):
    """rate: bundles a second; hub: seconds of CPU that the hub needed for one, which another load changes less."""

    rate: float
    hub: float


def measure(nodes: int, bundles: int, processes: int, runs: int) -> Measured:
    """Send so many bundles through a hub."""
    variant = redis.Variant(sync="everysec")
    with tempfile.TemporaryDirectory(prefix="pool-") as directory, redis.start(variant=variant) as server:
        key_file = os.path.join(directory, "key")
        hub = Hub(server.address, load_key(key_file))
        context = multiprocessing.get_context("spawn")
        there, over = context.Barrier(processes + 1), context.Event()
        workers = [
            context.Process(
                target=simulate, args=(server.address, key_file, range(i, nodes, processes), there, over)
            )
            for i in range(processes)
        ]
        for worker in workers:
            worker.start()
        try:
            there.wait()
            with Pool(hub, directory) as batch:
                before = _cpu(server)
                rate = _through(batch, bundles, runs)
                return Measured(rate, (_cpu(server) - before) / bundles)
        finally:
            over.set()
            for worker in workers:
                worker.join()


def _cpu(server: redis.RedisServer) -> float:
    times = psutil.Process(server.daemons.pid("redis")).cpu_times()
    return float(times.user + times.system)


def _through(batch: AbstractBatchSystem, bundles: int, runs: int) -> float:
    environment = {"PATH": "/bin"}
    command = ("/usr/bin/python3", "/usr/lib/jobtree/supervisor.py", "/shared/tree", "RUN.BUNDLE")
    names = [f"run{number % runs}.{number}" for number in range(bundles)]
    begun = time.perf_counter()
    for start in range(0, bundles, 500):
        batch.issue([Submission(name, command, env=environment) for name in names[start : start + 500]])
    missing = set(names)
    while missing:
        for end in batch.poll(1.0):
            missing.remove(end.name)  # a KeyError would be an end that is told twice
    return bundles / (time.perf_counter() - begun)


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(
        description="Measure how many bundles a second go through the hub of a pool."
    )
    parser.add_argument("--nodes", type=int, default=1000, help="simulated nodes of 8 cores; default: 1000")
    parser.add_argument("--bundles", type=int, default=20_000, help="default: 20000")
    parser.add_argument("--processes", type=int, default=2, help="that the nodes are spread over; default: 2")
    parser.add_argument("--runs", type=int, default=4, help="whose bundles they are; default: 4")
    arguments = parser.parse_args()
    found = measure(arguments.nodes, arguments.bundles, arguments.processes, arguments.runs)
    print(
        f"{arguments.bundles} bundles, {arguments.nodes} nodes: {found.rate:.0f} bundles/s through the hub, which "
        f"needed {1e6 * found.hub:.0f} microseconds of CPU for each"
    )


if __name__ == "__main__":
    main()
