"""Obeying requests to change the course of a run where no master runs: for jobTreeRun, which then takes its place for a
moment. It holds the tree's lock, so a master that starts meanwhile waits, or is refused, as by another master.

Nothing is issued and nothing runs. What runs without a master in a batch system that outlives it goes on: the next
master ends it if it is not wanted any more. Requests that only a master can obey (``killJob``) stay for that one.
"""

from __future__ import annotations

import contextlib
from typing import Any

from jobtree import files, restoring, soundness
from jobtree.collected import Collected
from jobtree.errors import DamagedFile, NotAJobTree, UsageError
from jobtree.lock import TreeLock
from jobtree.obeying import Obeyer
from jobtree.options import Settings
from jobtree.paths import TreePaths
from jobtree.removals import Remover
from jobtree.requests import Requests
from jobtree.steering_requests import KINDS
from jobtree.store import Store
from jobtree.telling import Teller
from jobtree.tree import Tree


def obey(paths: TreePaths) -> None:
    """Obey and answer all requests that lie there. Raises AnotherMaster, StorageError, UsageError."""
    holder = TreeLock(paths)
    holder.acquire()
    try:
        if restoring.config_of(paths) is None:
            raise NotAJobTree(f"{paths.root} holds no job tree yet.")
        soundness.ensure(paths)
        with (
            soundness.reading(paths),
            contextlib.closing(Store(paths.database, exclusive=files.is_network(paths.root))) as store,
        ):
            _obey(paths, store)
    finally:
        holder.release()


def _obey(paths: TreePaths, store: Store) -> None:
    requests = Requests(paths, KINDS)
    requests.discard()
    store.raise_generation()
    settings = _settings(paths)
    tree = Tree(settings.retry_count, settings.max_lost)
    tree.load(store.held_jobs(), store.counts())
    obeyer = Obeyer(paths, store, tree, settings, lambda settings: "", {})
    collected = Collected()
    store.begin()
    answers = [
        (request, obeyer.obey(request, collected)) for request in requests.take_all() if obeyer.knows(request)
    ]
    if tree.complete:
        store.set("ended", "complete")
    removals = store.note_removals(collected.removals)
    store.commit()
    Teller(paths.root).tell(collected.news)
    for request, answer in answers:
        requests.answer(request, answer)
    remover = Remover(paths, lambda: None)
    remover.add(removals)
    remover.close()
    store.begin()
    store.strike_removals(remover.take_done())
    store.commit()
    tree.check_invariants()


def _settings(paths: TreePaths) -> Settings:
    """The options of the last start."""
    found: Any = files.read_json(paths.settings) or {}
    if not isinstance(found, dict):
        raise DamagedFile(f"{paths.settings} is damaged: it holds a {type(found).__name__}.")
    try:
        return Settings.from_dict(found)
    except ValueError as error:
        raise UsageError(f"{paths.settings}: {error}.") from error
