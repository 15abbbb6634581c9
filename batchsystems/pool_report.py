"""What there is at a hub, for people and programs: read with plain questions, of all spaces that one may read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from batchsystems.abstract import BatchSystemError
from batchsystems.pool_hub import Hub, HubAway

Row = dict[str, Any]


class Report:
    """Questions to a hub. Each method gives one dictionary for each thing. Raises HubAway."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        seconds, micro = hub.asked("TIME")
        self._now = int(seconds) + int(micro) / 1e6

    def nodes(self) -> list[Row]:
        """Nodes that have not been given up, and how they are."""
        rows = []
        for user, space in self._spaces():
            nodes = self._hash(space + "nodes")
            sizes, free, seen = (self._hash(space + kind) for kind in ("size", "free", "seen"))
            drained, sick = self._hash(space + "drain"), self._hash(space + "sick")
            for node, text in nodes.items():
                if node not in sizes or node not in seen:
                    continue  # it has left meanwhile, between two of these questions
                about = json.loads(text)
                cpu, memory, gpus, host = sizes[node].split(" ", 3)
                free_cpu, free_memory, free_gpus = free.get(node, "0 0 0").split(" ")
                health = self._health(space, node, 1)
                rows.append(
                    {
                        "node": node,
                        "user": user,
                        "host": host,
                        "place": about["place"],
                        "state": self._state(about, node in drained, sick.get(node)),
                        "cores": int(cpu) / 1000,
                        "free_cores": int(free_cpu) / 1000,
                        "memory": int(memory),
                        "free_memory": int(free_memory),
                        "gpus": int(gpus),
                        "free_gpus": int(free_gpus),
                        "jobs": int(self._hub.asked("SCARD", f"{space}held:{node}")),
                        "silent_seconds": round(self._now - int(seen[node]) / 1000, 1),
                        "timeout": about["timeout"],
                        "started": about["started"],
                        "pid": about["pid"],
                        "health": health[0] if health else None,
                    }
                )
        return sorted(rows, key=lambda row: str(row["node"]))

    def jobs(self) -> list[Row]:
        """Jobs that wait or run."""
        rows = []
        for user, space in self._spaces():
            claims, waiting = self._hash(space + "claim"), self._waiting_numbers(space)
            measured = self._measured(space, set(claims.values()))
            for name, line in self._hash(space + "line").items():
                priority, cpu, memory, gpus, run = line.split(" ", 4)
                node = claims.get(name)
                rows.append(
                    {
                        "job": name,
                        "user": user,
                        "run": run,
                        "state": "running" if node else "waiting",
                        "node": node,
                        "priority": int(priority),
                        "cores": int(cpu) / 1000,
                        "memory": int(memory),
                        "gpus": int(gpus),
                        "used": measured.get(name),
                        "ahead": waiting.get(name),
                    }
                )
        return sorted(rows, key=lambda row: (row["user"], row["run"], row["state"], row["job"]))

    def runs(self) -> list[Row]:
        """Runs that have jobs there, or whose masters have asked lately."""
        rows = []
        for user, space in self._spaces():
            use, seen = self._hash(space + "use"), self._hash(space + "seen")
            jobs = [row for row in self.jobs() if row["user"] == user]
            for run, text in self._hash(space + "runs").items():
                about = json.loads(text)
                asked = seen.get(f"run {run}")
                rows.append(
                    {
                        "run": run,
                        "user": user,
                        "host": about.get("host"),
                        "pid": about.get("pid"),
                        "priority": about.get("priority"),
                        "running": sum(row["run"] == run and row["state"] == "running" for row in jobs),
                        "waiting": sum(row["run"] == run and row["state"] == "waiting" for row in jobs),
                        "ends_not_taken": int(self._hub.asked("HLEN", f"{space}ends:{run}")),
                        "cores": int(use.get(f"c {run}", 0)) / 1000,
                        "memory": int(use.get(f"m {run}", 0)),
                        "master_silent_seconds": None
                        if asked is None
                        else round(self._now - int(asked) / 1000, 1),
                    }
                )
        return sorted(rows, key=lambda row: (row["user"], row["run"]))

    def users(self) -> list[Row]:
        """Users with a key: what they have there."""
        nodes, jobs = self.nodes(), self.jobs()
        rows = []
        for user, _ in self._spaces():
            theirs = [row for row in nodes if row["user"] == user]
            own = [row for row in jobs if row["user"] == user]
            rows.append(
                {
                    "user": user,
                    "nodes": len(theirs),
                    "cores": sum(row["cores"] for row in theirs),
                    "running": sum(row["state"] == "running" for row in own),
                    "waiting": sum(row["state"] == "waiting" for row in own),
                }
            )
        return rows

    def sick(self) -> list[Row]:
        """Nodes that are rested, and those that fell silent lately."""
        rows = []
        for user, space in self._spaces():
            for node, text in self._hash(space + "sick").items():
                found = json.loads(text)
                rows.append(
                    {
                        "node": node,
                        "user": user,
                        "host": found["host"],
                        "what": "sick",
                        "why": found["why"] or "jobs could not be run there",
                        "rests_for_seconds": max(0.0, round(found["until"] / 1000 - self._now, 1)),
                    }
                )
            for text in self._hub.asked("LRANGE", f"{space}gone", 0, -1):
                found = json.loads(text)
                rows.append(
                    {
                        "node": found["node"],
                        "user": user,
                        "host": found.get("host", ""),
                        "what": "silent",
                        "why": f"not heard any more; {found['jobs']} jobs went back",
                        "seconds_ago": round(self._now - found["at"] / 1000, 1),
                    }
                )
        return rows

    def health(self, node: str) -> list[Row]:
        """What a node has told of itself, newest first."""
        for _, space in self._spaces():
            found = self._health(space, node, 720)
            if found:
                return found
        return []

    def drain(self, named: str, drained: bool) -> list[str]:
        """Have nodes of this name, or on the host of this name, take nothing more (or something again); which.

        Raises BatchSystemError if there is none, or if one may not.
        """
        found = [row for row in self.nodes() if named in (row["node"], row["host"])]
        if not found:
            raise BatchSystemError(f"there is no node {named}, and none on a host of that name")
        for row in found:
            key = f"jobtree:user:{row['user']}:drain"
            try:
                self._hub.asked(*(("HSET", key, row["node"], "1") if drained else ("HDEL", key, row["node"])))
            except HubAway as error:
                raise BatchSystemError(f"node {row['node']} is {row['user']}'s: {error}") from error
            if not drained:
                self._hub.asked("LPUSH", f"jobtree:user:{row['user']}:wake:{row['node']}", "1")
        return [str(row["node"]) for row in found]

    # -- reading -----------------------------------------------------------------------------------------------

    def _spaces(self) -> Iterable[tuple[str, str]]:
        for user in sorted(self._hub.asked("SMEMBERS", "jobtree:users")):
            yield user, f"jobtree:user:{user}:"

    def _hash(self, key: str) -> Mapping[str, str]:
        found: Mapping[str, str] = self._hub.asked("HGETALL", key)
        return found

    def _health(self, space: str, node: str, number: int) -> list[Row]:
        return [
            json.loads(text) for text in self._hub.asked("LRANGE", f"{space}health:{node}", 0, number - 1)
        ]

    def _measured(self, space: str, nodes: Iterable[str]) -> Row:
        """What each running job uses, as its node has told last."""
        found: Row = {}
        for node in nodes:
            for health in self._health(space, node, 1):
                found.update(health["jobs"])
        return found

    def _waiting_numbers(self, space: str) -> dict[str, int]:
        """How many of the same run and shape each waiting job has before it."""
        return {
            name: number
            for line in self._hub.asked("SMEMBERS", f"{space}lines")
            for number, name in enumerate(self._hub.asked("ZRANGE", f"{space}q:{line}", 0, -1))
        }

    def _state(self, about: Mapping[str, Any], drained: bool, sick: Any) -> str:
        if drained:
            return "drained"
        if sick is not None and json.loads(sick)["until"] / 1000 > self._now:
            return "sick"
        return "up" if about["taking"] else "ending"
