"""Starting a run and continuing one, which are the same thing.

``execute`` opens or makes the job tree, takes its lock, records the environment, recovers what an earlier master left,
and turns the master's loop. Everything that a restart replaces (options, environment) is written again at each start;
what it keeps (the tree, the run's token) is not touched.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
from typing import Any, NamedTuple, Optional

from batchsystems import registry
from batchsystems.abstract import AbstractBatchSystem, BatchSystemError, Setup
from batchsystems.acid_test import AcidTest
from batchsystems.single_machine import SingleMachine
from jobtree import (
    clock,
    copies,
    definitions,
    ending,
    environment,
    files,
    lanes,
    launcher,
    lock,
    processtree,
    recording,
    report,
    restoring,
    serialization,
    sharing,
    soundness,
    summary,
    treedir,
)
from jobtree.backends import Make
from jobtree.countable import GPUS
from jobtree.disk_usage import Measurer
from jobtree.environment import Environment
from jobtree.errors import (
    DamagedTree,
    JobTreeError,
    RunStopped,
    StorageError,
    SyncFailed,
    UsageError,
)
from jobtree.events import ROOT_PARENT, Job, State
from jobtree.frames import Packed
from jobtree.garbage import rare_collections
from jobtree.killing import Killed, kill_all
from jobtree.master import Master
from jobtree.notifying import OnEnd
from jobtree.options import Settings
from jobtree.paths import TreePaths
from jobtree.progress import Progress
from jobtree.quantities import format_duration
from jobtree.recorded import Recorded
from jobtree.schema import ChildRow
from jobtree.starter import LauncherStarter
from jobtree.store import Store
from jobtree.target import Target
from jobtree.tree import Tree

log: logging.Logger = logging.getLogger("jobtree")

ROOT = 1
"""The number of the root job: the first of bundle 0, which does not exist."""


class Ended(NamedTuple):
    """How a run ended: jobs done and failed in all, and where to read the result."""

    done: int
    failed: int
    waiting: int


def execute(
    settings: Settings, target: Optional[Target], restore: bool = False, same_target: bool = False
) -> Ended:
    """Run the tree at settings.job_tree to its end. target: its root if it is to be made; None: it must exist.

    restore: its database is damaged; go back to the copy of it first (jobtree.restoring).
    same_target: a tree that was made for another target is refused, and not gone on with.
    Raises UsageError, AnotherMaster, StorageError; RunStopped or KeyboardInterrupt when it was stopped.
    """
    paths = _paths(settings)
    _check_built(settings)
    if settings.share_with is not None:
        sharing.group_number(settings.share_with)
    existed = restoring.is_there(paths)
    if not existed:
        if target is None:
            raise UsageError(
                f"{paths.root} is not a job tree, so there is nothing to continue. Start the script that makes it, "
                "or look for it elsewhere."
            )
        treedir.make_root(paths)
    with OnEnd(paths, settings.on_end) as on_end:
        holder = lock.TreeLock(paths)
        holder.acquire()
        try:
            return _run_locked(paths, settings, target, restore, same_target, on_end)
        except DamagedTree as error:
            raise DamagedTree(copies.explain(paths, str(error))) from error
        finally:
            holder.release()


def _run_locked(
    paths: TreePaths,
    settings: Settings,
    target: Optional[Target],
    restore: bool,
    same_target: bool,
    on_end: OnEnd,
) -> Ended:
    config = restoring.config_of(paths)  # again: before we had the lock another master may have made it
    treedir.remove_interrupted(paths)
    if config is not None:
        if restore:
            make = _maker(paths, settings, config.run)
            config = restoring.go_back(
                paths, config, lambda run: ending.end_all(paths, run, settings.lease, make)
            )
        else:
            soundness.ensure(paths)
            config = restoring.agree(paths, config)
    if config is not None and target is not None:
        difference = _difference(config, target)
        if difference is not None and same_target:
            raise UsageError(
                f"{paths.root} was made for {difference[0]}. Give another directory, or remove this one; run() without "
                "a target goes on with what is in it."
            )
        if difference is not None:
            log.warning("the job tree was started with %s: %s", *difference)
    recorded = recording.record(paths, settings, target)
    if not os.path.isdir(recorded.directory):
        raise UsageError(
            f"{recorded.directory} is gone: targets run in the directory in which the script was started. Make it "
            "again, or start the script itself, with the same --jobTree, in another one."
        )
    files.write_json(paths.settings, settings.to_dict())
    if config is None:
        assert target is not None
        config = _make_tree(paths, target, recorded)
        new = True
    else:
        new = False
    with (
        soundness.reading(paths),
        contextlib.closing(Store(paths.database, exclusive=files.is_network(paths.root))) as store,
    ):
        return _run_store(paths, settings, recorded, config, store, new, on_end)


def _run_store(
    paths: TreePaths,
    settings: Settings,
    recorded: Environment,
    config: treedir.Config,
    store: Store,
    new: bool,
    on_end: OnEnd,
) -> Ended:
    shared = sharing.of(paths, settings)
    started = clock.elapsed()
    tree = _load(store, settings, config)
    if store.bundles():
        processtree.kill_strays(config.run)
    if not tree.complete:
        log.info(
            "%s job tree %s: %s ready, %d waiting, %d done", "New" if new else "Continuing", paths.root,
            report.jobs(tree.totals[State.READY]), tree.totals[State.BLOCKED], tree.totals[State.DONE],
        )  # fmt: skip
    already_complete = tree.complete
    warm_up = not already_complete
    batch = _batch_system(paths, settings, recorded, config.run, tree, False, warm_up)
    big = None
    try:
        if settings.big_batch_system is not None:
            big = _batch_system(paths, settings, recorded, config.run, tree, True, warm_up)
        make = _maker(paths, settings, config.run)
        if not already_complete:
            on_end.begun(tree)
        master = Master(paths, store, tree, batch, settings, recorded, config.run, make, big, shared)
        master.recover()  # also a complete tree's: the master may have died before it had cleaned up
        with (
            copies.Copier(paths, store, settings.copy_every, master.stop),
            Measurer(paths, config.run),
            Progress(master.outlook, settings.no_progress),
            rare_collections(),
        ):
            master.run()
    except StorageError as error:
        if isinstance(error, SyncFailed):
            soundness.distrust(paths)
        store.abandon()
        raise
    finally:
        batch.close()
        if big is not None:
            big.close()
        if isinstance(batch, AcidTest) and not already_complete:
            log.info(
                "acidTest killed %d of %d workers; the same again: --acidTestSeed %d", batch.killed, batch.started,
                batch.seed,
            )  # fmt: skip
    store.close()  # before anybody is told that all is well
    if already_complete:
        return _already_complete(paths, tree)
    master.teller.tell_counted(tree.totals[State.FAILED])
    for line in summary.lines(store, tree):
        log.info("%s", line)
    took = format_duration(clock.elapsed() - started)
    log.info("This start has taken %s. %s", took, summary.about_logs(paths, settings.keep_logs))
    return _end(paths, master, tree)


def _paths(settings: Settings) -> TreePaths:
    if not settings.job_tree:
        raise UsageError(
            "Specify --jobTree DIR: the directory in which the run keeps its state (made if it is not there)."
        )
    environment.working_directory()  # targets run there, and names of files may be relative to it
    return TreePaths(os.path.abspath(settings.job_tree))


def _check_built(settings: Settings) -> None:
    """Say so at once when something is asked for that this version does not have."""
    try:
        first = registry.batch_system_class(settings.batch_system)
        big = registry.batch_system_class(settings.big_batch_system) if settings.big_batch_system else None
    except BatchSystemError as error:
        raise UsageError(str(error)) from None
    if big is None:
        return
    if big is first or (issubclass(big, SingleMachine) and issubclass(first, SingleMachine)):
        raise UsageError(
            f"--bigBatchSystem {settings.big_batch_system} is the same as --batchSystem {settings.batch_system}: both "
            "would promise the same machines. Leave it out, or name another one."
        )
    if settings.big_memory_threshold is None and settings.big_cpu_threshold is None:
        log.warning(
            "--bigBatchSystem without --bigMemoryThreshold and --bigCpuThreshold: it gets only what cannot fit into %s",
            settings.batch_system,
        )


def _batch_system(
    paths: TreePaths,
    settings: Settings,
    recorded: Environment,
    run: str,
    tree: Tree,
    big: bool,
    warm_up: bool,
) -> AbstractBatchSystem:
    """Make the batch system of --batchSystem, or that of --bigBatchSystem. Raises UsageError."""
    name = settings.big_batch_system if big else settings.batch_system
    assert name is not None
    kind = registry.batch_system_class(name)
    if not issubclass(kind, SingleMachine):
        try:
            return _maker(paths, settings, run)(name)
        except BatchSystemError as error:
            raise UsageError(f"--{'bigBatchSystem' if big else 'batchSystem'} {name}: {error}") from error
    starter = LauncherStarter(paths, recorded, run, launcher.read_mode(settings.start), log.warning)
    cpu, most_memory = lanes.most_here(settings, big)
    gpus = settings.limits.get(GPUS)
    if issubclass(kind, AcidTest):

        def cannot_lose_more(name: str) -> bool:
            # Of a job that the worker went straight on to nothing is known here yet; it has lost nothing so far.
            jobs = tree.in_bundle(int(name.rpartition(".")[2]))
            return settings.max_lost == 1 or any(job.losses >= settings.max_lost - 1 for job in jobs)

        batch: SingleMachine = AcidTest(
            cpu, most_memory, starter, settings.acid_test_seed, spare=cannot_lose_more, gpus=gpus
        )
    else:
        batch = SingleMachine(cpu, most_memory, starter, gpus)
    if warm_up:
        starter.warm_up()
    return batch


def _maker(paths: TreePaths, settings: Settings, run: str) -> Make:
    """What makes a batch system other than this machine by its name, with the options of this start."""

    def make(name: str) -> AbstractBatchSystem:
        kind = registry.batch_system_class(name)
        directory = paths.backend(name)
        os.makedirs(directory, 0o700, exist_ok=True)
        options = {option.name: settings.of_backend(option) for option in kind.OPTIONS}
        return kind.create(
            Setup(run, directory, options, *lanes.most(settings, name == settings.big_batch_system))
        )

    return make


def kill_without_master(paths: TreePaths, run: str) -> list[Killed]:
    """End what an ended master has left in batch systems that outlive it. The caller holds the tree's lock."""
    try:
        settings = Settings.from_dict(files.read_json(paths.settings) or {})
    except ValueError as error:
        raise UsageError(f"{paths.settings}: {error}") from error
    return kill_all(paths, run, _maker(paths, settings, run), settings.grace)


# -- making and loading ----------------------------------------------------------------------------------------


def _pack_root(target: Target, recorded: Environment) -> Packed:
    return serialization.pack(target, recorded.main.name if recorded.main is not None else None)


def _make_tree(paths: TreePaths, target: Target, recorded: Environment) -> treedir.Config:
    target.rv()  # what the root's run() returns is the result of the run
    packed = _pack_root(target, recorded)
    treedir.make_directories(paths)
    soundness.trust(paths)
    files.write_new(paths.database)  # made here for its mode: SQLite would let others read it
    store = Store(paths.database, new=True, exclusive=files.is_network(paths.root))
    try:
        store.raise_generation()
        store.begin()
        tree = Tree()
        shape = store.shape(packed.name, packed.memory, packed.cpu, packed.countable)
        row = ChildRow(ROOT, shape, packed.memory or 0, packed.time or 0.0, packed.payload, packed.mentions)
        tree.add_root(Job(ROOT, ROOT_PARENT, shape), [row])
        store.write(tree.take_changes(), tree.counts)
        token = Recorded(target).token
        assert token is not None
        store.keep_result(token)
        store.set("result_token", token)
        store.commit()
    finally:
        store.close()
    digest = serialization.fingerprint(target)
    return treedir.write_config(paths, packed.name, digest, treedir.new_token())


def _difference(config: treedir.Config, target: Target) -> Optional[tuple[str, str]]:
    """What a tree was started with, if that is not this target, and what follows for a restart."""
    main = environment.main_module()
    name = serialization.stored_name(target, main.name if main is not None else definitions.NAME)
    if name != config.root:
        return (
            f"{config.root} and is given {name} now",
            "it goes on with what it has, and the new one is not run. Give another --jobTree to run that.",
        )
    if serialization.fingerprint(target) != config.root_digest:
        return (
            f"other arguments of {config.root}",
            "it goes on with those. Options (limits, retries, batch system, logging) are taken from this start.",
        )
    return None


def _load(store: Store, settings: Settings, config: Optional[treedir.Config] = None) -> Tree:
    store.raise_generation()
    tree = Tree(settings.retry_count, settings.max_lost)
    tree.load(store.held_jobs(), store.counts())
    store.begin()
    if store.get("ended") == "in order" and tree.totals[State.FAILED]:
        log.info("%s that failed will be tried again", report.jobs(tree.totals[State.FAILED]))
        tree.renewed()
        store.renew_failed()
        store.write(tree.take_changes(), tree.counts)
    if store.get("ended") != "complete":
        store.set("ended", "")
    store.set("kernel", soundness.this_kernel())
    if config is not None:
        store.set("config", config.to_json())
    store.commit()
    return tree


# -- ending ----------------------------------------------------------------------------------------------------


def _already_complete(paths: TreePaths, tree: Tree) -> Ended:
    log.info(
        "The job tree %s is complete (%s): nothing to do. Remove it, or give another --jobTree, to run again.",
        paths.root, report.jobs(tree.totals[State.DONE]),
    )  # fmt: skip
    return Ended(tree.totals[State.DONE], 0, 0)


def _end(paths: TreePaths, master: Master, tree: Tree) -> Ended:
    done, failed = tree.totals[State.DONE], tree.totals[State.FAILED]
    waiting = tree.totals[State.READY] + tree.totals[State.BLOCKED]
    why = master.stopped_by
    for backend, number in master.left.items():
        log.critical(
            "%s in %s without a master. The next start takes over what they have done; to end them: jobTreeKill %s",
            "1 bundle goes on" if number == 1 else f"{number} bundles go on", backend, shlex.quote(paths.root),
        )  # fmt: skip
    if why is not None:
        again = report.how_to_continue(paths.root)
        log.critical("Stopped: %s done, %d failed, %d waiting. %s", report.jobs(done), failed, waiting, again)
        raise report.stopped_by(why) if isinstance(why, int) else RunStopped(why)
    if failed:
        log.critical(
            "%s failed, %d waiting for that, %d done. See why: jobTreeStatus --verbose %s\n%s", report.jobs(failed),
            waiting, done, shlex.quote(paths.root), report.how_to_continue(paths.root),
        )  # fmt: skip
    else:
        log.info("Complete: %s done. The record of the run is in %s", report.jobs(done), paths.root)
    return Ended(done, failed, waiting)


def result(root: str) -> Any:
    """What the run() of a tree's root target returned, once the tree is complete. Raises JobTreeError if it is not."""
    paths = TreePaths(os.path.abspath(root))
    store = Store(paths.database, exclusive=files.is_network(paths.root))
    try:
        token = store.get("result_token")
        kept = store.values.result()
        if token not in kept:
            raise JobTreeError(f"{paths.root} has no result: its root target has not ended")
        values = {t: _reader(paths, value) for t, value in kept.items()}
        return serialization.unpack(values[token](), values)
    finally:
        store.close()


def _reader(paths: TreePaths, value: Any) -> Any:
    """Reads a kept value: its bytes, or the file of that name."""
    return (lambda: value) if isinstance(value, bytes) else (lambda: files.read(paths.absolute(value)) or b"")
