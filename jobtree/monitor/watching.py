"""Looks at every tree again and again, once for all who listen, so that many pages cost a run no more than one.

Each tree has a task of its own, because a file system may keep one waiting for as long as it likes. While nobody
listens, only the counts are read, and less often: for the history.

A tree that cannot be read just now is told as such, with the reason, and is looked at again; what was known stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Callable, Optional

from jobtree import clock
from jobtree.errors import JobTreeError
from jobtree.monitor.trees import WatchedTree

_UNHEARD_TIMES = 5
"""So many times as long it is from look to look while nobody listens."""


class Watch:
    """All trees, and what is amiss with them. every: seconds from one look to the next. Belongs to one event loop."""

    def __init__(self, trees: Sequence[WatchedTree], every: float) -> None:
        self.trees = trees
        self.troubles: dict[int, str] = {}
        self._every = every
        self._listeners = 0
        self._looks: dict[int, int] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._made: dict[int, str] = {}
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._news: Optional[asyncio.Event] = None
        self._heard: Optional[asyncio.Event] = None

    async def start(self) -> None:
        """Look at every tree once, so that the first answer is one, and go on doing so."""
        self._loop = asyncio.get_running_loop()
        self._news, self._heard = asyncio.Event(), asyncio.Event()
        self._locks = {tree.number: asyncio.Lock() for tree in self.trees}
        await asyncio.gather(*(self._look(tree, jobs_too=True) for tree in self.trees))
        self._tasks = [asyncio.create_task(self._go_on(tree)) for tree in self.trees]

    async def stop(self) -> None:
        """Look no more."""
        self.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        """All who listen have heard the last of it. From wherever, a handler of a signal for example."""
        self._closing = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._tell)

    async def news(self, seconds: float) -> AsyncIterator[frozenset[int]]:
        """The numbers of the trees that have been looked at since the last time, first of all; none after so long
        without any. Ends when the monitor does."""
        seen: dict[int, int] = {}
        self._listeners += 1
        assert self._heard is not None
        self._heard.set()
        try:
            while not self._closing:
                news = self._news
                fresh = frozenset(n for n, looks in self._looks.items() if seen.get(n) != looks)
                seen = dict(self._looks)
                yield fresh
                try:
                    assert news is not None
                    await asyncio.wait_for(news.wait(), seconds)
                except asyncio.TimeoutError:
                    pass
        finally:
            self._listeners -= 1

    def once(self, key: int, make: Callable[[], str]) -> str:
        """What make() returns, made once for all who listen, until the next look."""
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = make()
        return found

    async def fresh(self, tree: WatchedTree) -> None:
        """Look at a tree now, with its running jobs, unless that was done a moment ago."""
        async with self._locks[tree.number]:
            seen = tree.seen
            late = seen is None or not 0 <= clock.wall() - seen.time < self._every
            if late or (seen is not None and seen.running is None and seen.snapshot.master is not None):
                await self._look(tree, jobs_too=True)

    async def look(self, tree: WatchedTree) -> None:
        """Look at a tree now: something has been done about it."""
        async with self._locks[tree.number]:
            await self._look(tree, jobs_too=True)

    async def _go_on(self, tree: WatchedTree) -> None:
        while not self._closing:
            await self._pause()
            async with self._locks[tree.number]:
                await self._look(tree, self._listeners > 0)

    async def _look(self, tree: WatchedTree, jobs_too: bool) -> None:
        try:
            seen = await asyncio.to_thread(tree.look, jobs_too)
        except JobTreeError as error:
            self.troubles[tree.number] = str(error)
        else:
            self.troubles.pop(tree.number, None)
            tree.note(seen)
        self._looks[tree.number] = self._looks.get(tree.number, 0) + 1
        self._made.clear()
        self._tell()

    async def _pause(self) -> None:
        assert self._heard is not None
        if self._listeners:
            await asyncio.sleep(self._every)
            return
        self._heard.clear()
        try:
            await asyncio.wait_for(self._heard.wait(), self._every * _UNHEARD_TIMES)
        except asyncio.TimeoutError:
            pass

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = asyncio.Event()
