"""The mutants: small changes of the library, each of which breaks a promise, and the tests that must notice.

``old`` must be found exactly once in the function (``Class.method`` or ``function``) of the file; otherwise the table
is out of date and ``mutants.py`` says so. A test is a path for pytest, or ``points`` with arguments of every_point.py.
Where several are named, the first are the fast ones.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One change: in a function of a file these lines become those. why: what it breaks. tests: who must notice."""

    file: str
    function: str
    old: str
    new: str
    why: str
    tests: tuple[str, ...]


FILES = "tests/unit/test_files.py"
WINDOWS = "tests/unit/test_master_windows.py"
STORE = "tests/unit/test_store_errors.py"
WORKER_RULES = "tests/system/test_worker_protocol.py"
MASTER = "tests/unit/test_master.py"
LOST = "points --only power --match lost --sample 60"
LOST_RARELY = "points --only power --match lost --sample 400"
POWER = "points --only power --sample 60"
NFS = "tests/crash/test_nfs_client.py"
PUBLISHED = "tests/unit/test_published.py"
OBEYING = "tests/unit/test_obeying.py"
REQUESTS = "tests/unit/test_requests.py"
SERVICES = "tests/unit/test_master_services.py"
REAL_SERVICES = "tests/system/test_services.py"
SERVICE_TROUBLE = "tests/system/test_service_trouble.py"
DEATH = "points --only death --sample 60"
WORKER = "points --only worker --sample 120"

MUTANTS = (
    # -- a sync is left out, or its failure is not believed
    Mutant("jobtree/files.py", "write_durably", "fsync(fd, path)", "pass",
           "a file is renamed into place before its content is on the disk", (FILES, LOST)),
    Mutant("jobtree/files.py", "replace_durably", "fsync_directory(os.path.dirname(path))", "pass",
           "a replaced file is the old one again after a power cut", (FILES, LOST)),
    Mutant("jobtree/files.py", "fsync", "raise refused(error, path, SyncFailed) from error", "return",
           "a failed fsync is taken for one that has worked", (FILES,)),
    Mutant("jobtree/files.py", "fdatasync", "raise refused(error, path, SyncFailed) from error", "return",
           "a failed fdatasync is taken for one that has worked", (FILES,)),
    Mutant("jobtree/files.py", "make_durable", "if _syncfs(fd) == 0:", "if fd >= 0:",
           "syncfs is left out: what targets left is not on the disk when they count as done", (FILES, LOST)),
    Mutant("jobtree/files.py", "_sync_file", "fsync(fd, path)", "pass",
           "without syncfs, files of targets are not synced one by one", (FILES,)),
    Mutant("jobtree/files.py", "sync_tree", "_fsync_open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)", "pass",
           "without syncfs, names that targets made are not synced", (FILES,)),
    Mutant("jobtree/files.py", "make_durable", "fsync_directory(path)", "pass",
           "without syncfs, a global temporary directory may be gone with its name",
           ("points --only each-file --sample 200",)),
    Mutant("jobtree/treedir.py", "put_config", "files.fsync_directory(paths.root)", "pass",
           "config.json may be there after a power cut and what it speaks of not", ("tests/unit/test_treedir.py",)),
    Mutant("jobtree/treedir.py", "put_config", "files.fsync_way_to(paths.root)", "pass",
           "the whole job tree may be gone after a power cut", (LOST,)),
    Mutant("jobtree/store.py", "Store._open", "PRAGMA synchronous = FULL", "PRAGMA synchronous = NORMAL",
           "a commit returns before it is on the disk", (STORE,)),
    Mutant("jobtree/database.py", "to_log_mode", "PRAGMA journal_mode = WAL", "PRAGMA journal_mode = MEMORY",
           "a master that dies in a commit leaves a damaged database", (STORE,)),
    Mutant("jobtree/attempt.py", "Attempt._keep", "files.write_durably(absolute, data)",
           "files.write_new(absolute, data)",
           "a large value may be empty after a power cut, and counts as returned", (LOST,)),
    Mutant("jobtree/attempt.py", "Attempt._keep", "files.fsync_names(absolute, place.paths.root)", "pass",
           "the file of a large value may be gone after a power cut", (LOST,)),
    Mutant("jobtree/attempt.py", "Attempt.run", "place.outcome.flush(sync=True)", "place.outcome.flush()",
           "a worker goes on to what may destroy the input of a target whose outcome can still be lost",
           (LOST_RARELY,)),
    Mutant("jobtree/attempt.py", "Attempt._make_durable",
           "files.make_durable([self._place.paths.global_dirs], self._place.synced)", "pass",
           "a worker goes on before what the target left is on the disk", (LOST_RARELY,)),
    # -- a commit and the act that follows it are swapped, or their transaction is split
    Mutant("jobtree/master.py", "Master._finish",
           "self._store.commit()\n        if submissions:\n            self._issue(submissions)",
           "if submissions:\n            self._issue(submissions)\n        self._store.commit()",
           "bundles are submitted before it is written down that they are", (MASTER, DEATH)),
    Mutant("jobtree/master.py", "Master._finish", "self._store.commit()",
           "self.teller.tell(collected.news)\n        collected.news.clear()\n        self._store.commit()",
           "the user is told what may not have happened", (MASTER, DEATH)),
    Mutant("jobtree/master.py", "Master._finish", "self._store.commit()",
           "self._remover.add(removals)\n        removals = []\n        self._store.commit()",
           "files are removed that a restart may still need", (MASTER, DEATH)),
    Mutant("jobtree/master.py", "Master._finish", "self._store.commit()",
           "for number, log_too in over:\n            bundles.remove_bundle(self._paths, number, log_too)\n"
           "        over = ()\n        self._store.commit()",
           "outcome files are removed before what they say is committed", (MASTER, DEATH)),
    Mutant("jobtree/master.py", "Master._finish", "files.make_durable(",
           "self._store.commit(), self._store.begin(), files.make_durable(",
           "a success is committed before the files that it left are on the disk", (MASTER, LOST)),
    Mutant("jobtree/master.py", "Master._finish", "self._store.note_removals(collected.removals)",
           "[(0, path) for path in collected.removals]",
           "what is to go is not written down: a crash before it has gone leaves it behind for ever", (WINDOWS,)),
    Mutant("jobtree/master.py", "Master._look_around", "self._store.adopted(offsets)", "pass",
           "how far outcome files were read is not in the transaction that adopts them: they are read again",
           ("tests/unit/test_master_adopts.py", DEATH)),
    Mutant("jobtree/attempt.py", "Attempt._keep", "place.outcome.flush()", "pass",
           "the file of a large value is made before it is written down: a worker that dies leaves it behind",
           (WORKER,)),
    Mutant("jobtree/attempt.py", "Attempt.global_temp_dir", "self._place.outcome.flush()", "pass",
           "a global temporary directory is made before it is written down", (WORKER,)),
    # -- a number, a mark or a claim is not looked at
    Mutant("jobtree/tree.py", "Tree.current", "job.attempt != attempt or ", "",
           "the late report of an older attempt counts", ("tests/unit/test_tree.py",)),
    Mutant("jobtree/adoption.py", "Adopter._succeeded",
           "if job is None or (pending.total if pending is not None else 0) != count:", "if job is None:",
           "a target counts although some of its children were not read", (WINDOWS,)),
    Mutant("jobtree/adoption.py", "Adopter._failed", "self._drop(bundle)", "pass",
           "children of a failed attempt count for the next target of the worker", (WINDOWS,)),
    Mutant("jobtree/frames.py", "decode", "if crc_of(body) != crc:", "if False:",
           "a damaged frame is believed", ("tests/unit/test_frames.py",)),
    Mutant("jobtree/frames.py", "decode", "if not 0 < length <= MAX_BODY or stop > end:",
           "if not 0 < length <= MAX_BODY:",
           "a torn tail is taken for a whole frame", ("tests/unit/test_frames.py",)),
    Mutant("jobtree/bundles.py", "RunningBundle.safe_offset",
           "return self.pending.start if self.pending is not None else self.offset", "return self.offset",
           "children whose outcome has not come are called adopted: a restart does not read them again",
           ("tests/unit/test_master_adopts.py", DEATH)),
    Mutant("jobtree/store.py", "Store.begin", "if found != self.generation:", "if False:",
           "a master that was suspended while another took over writes again", (STORE,)),
    Mutant("jobtree/store.py", "Store.raise_generation", 'int(self.get("generation")) + 1',
           'int(self.get("generation"))',
           "a new master does not shut out the one before", (STORE,)),
    Mutant("jobtree/files.py", "_make_once", "os.O_CREAT | os.O_EXCL |", "os.O_CREAT |",
           "two can have the same claim", (FILES,)),
    Mutant("jobtree/workplace.py", "_claim", "if not files.make_once(claim, mark):",
           "if not (files.make_once(claim, mark) or True):",
           "a worker runs a bundle that another one has claimed", (WORKER_RULES,)),
    Mutant("jobtree/workplace.py", "_claim", "if not os.path.exists(paths.bundle(bundle)):", "if False:",
           "a worker that comes after its bundle was over runs it again", (WORKER_RULES,)),
    Mutant("jobtree/worker.py", "_run_job", "if place.is_recalled():", "if False:",
           "what the master has taken back is run here too", (WORKER_RULES, DEATH)),
    Mutant("jobtree/worker.py", "_run_job", "place.outcome.flush()", "pass",
           "a target runs before its started frame is written: its death cannot be told from one before it",
           (WORKER_RULES, WORKER)),
    Mutant("jobtree/master.py", "Master._recall", "self._adopter.read(bundle)", "pass",
           "the master takes back what the worker said it has started", (WINDOWS,)),
    Mutant("jobtree/master.py", "Master.recover", "bundles.claim(self._paths, row.id)", "pass",
           "a bundle of an earlier master can still be started", (WINDOWS,)),
    Mutant("jobtree/master.py", "Master.recover", "bundles.wait_for_worker(self._paths, row.id)", "pass",
           "jobs are issued again while their old worker still runs", (WINDOWS,)),
    # -- recovery forgets something
    Mutant("jobtree/master.py", "Master.recover", "self._find_untold(collected)", "pass",
           "what a power cut left without its frame stays for ever", (POWER,)),
    Mutant("jobtree/master.py", "Master.recover", "self._remover.add(self._store.removals())", "pass",
           "what an earlier master was about to remove stays", (MASTER, DEATH)),
    Mutant("jobtree/master.py", "Master.recover", "tempdirs.sweep_local(self._run, going_on)", "pass",
           "local temporary directories of killed workers stay", (DEATH,)),
    Mutant("jobtree/bundles.py", "sweep", "if not number.isdigit() or int(number) not in known:", "if False:",
           "files of a bundle that was not committed stay", ("tests/unit/test_bundles.py", DEATH)),
    # -- what a network file system does is not reckoned with
    Mutant("jobtree/files.py", "_rename", "if _inode(to) != inode:\n            raise", "raise",
           "a rename whose answer was lost stops the master", (NFS,)),
    Mutant("jobtree/files.py", "_rename", "if _inode(to) != inode:\n            raise", "pass",
           "a rename that was refused is taken for one that has happened", (NFS,)),
    Mutant("jobtree/files.py", "_link_once", "return read(path) == data", "return False",
           "a claim whose answer was lost is won by nobody", (NFS,)),
    Mutant("jobtree/files.py", "open_afresh",
           "os.close(os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))", "pass",
           "a master is not seen by a machine that remembers that there was none", (NFS,)),
    Mutant("jobtree/files.py", "_unless_stale", "if error.errno != errno.ESTALE:\n                raise", "raise",
           "a file that is replaced while it is read is an I/O error", (NFS,)),
    Mutant("jobtree/requests.py", "send", "files.write_new(path + _ANSWER)", "pass",
           "an answer comes under a name that is remembered not to be there", (NFS,)),
    Mutant("jobtree/exclusion.py", "check", "if granted:", "if False:",
           "locks that exclude nobody are relied upon", ("tests/unit/test_exclusion.py", NFS)),
    Mutant("jobtree/lock.py", "kept_free", "fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)", "pass",
           "a reader opens a database that a master is about to open", (PUBLISHED,)),
    Mutant("jobtree/published.py", "read", ' and stored["master"] == lock.owner(paths)', "",
           "what an earlier master has told is taken for news", (PUBLISHED,)),
    Mutant("jobtree/leases.py", "Leases._notice_sleep", "if gap > watch.lease / 2:", "if False:",
           "time in which the master slept is taken for a worker's silence", ("tests/unit/test_leases.py",)),
    # -- what is asked of a run
    Mutant("jobtree/obeying.py", "Obeyer.obey", "if before is not None:", "if False:",
           "what was obeyed and not answered is obeyed once more", (OBEYING,)),
    Mutant("jobtree/steering.py", "Steering._kill_job", "if attempt is not None and bundle.current[1] != attempt:",
           "if False:", "another attempt is killed than the one that was meant", (OBEYING,)),
    Mutant("jobtree/enforcing.py", "Enforcer._unwanted",
           'return Judgement(Verdict.LOSS, "forgotten", "its job is not wanted any more")', "return None",
           "what was forgotten runs on", (OBEYING,)),
    Mutant("jobtree/requests.py", "Requests.discard",
           "if not answered or not _holds_something(os.path.join(self._directory, name)):", "if True:",
           "what a master has done and answered, and then died, is taken for not done", (REQUESTS,)),
    Mutant("jobtree/requests.py", "Requests.answer", "return False", "pass",
           "a request that cannot be removed is obeyed again and again", (REQUESTS,)),
    Mutant("jobtree/adoption.py", "Adopter.read", "if (bundle.current, bundle.finished) != target:", "if True:",
           "a target that tells how far it is keeps those behind it waiting", ("tests/unit/test_silence.py",)),
    # -- somebody else, and what a target's own code does
    Mutant("jobtree/treedir.py", "check", "check_way(root)", "pass",
           "a tree behind a planted link is taken", ("tests/unit/test_treedir.py",)),
    Mutant("jobtree/treedir.py", "check_private", "(paths.root, *paths.directories(), paths.database)", "(paths.root,)",
           "bundles that others may have written are run", ("tests/unit/test_treedir.py",)),
    Mutant("jobtree/tempdirs.py", "_make_directories", "os.mkdir(path, 0o700)", "os.makedirs(path)",
           "others can write where targets pass files on", ("tests/system/test_nobody_gets_in.py",)),
    Mutant("jobtree/report.py", "message_from_job", '.replace("\\n", "\\n    ")', "",
           "a target's message looks like a line of the master's", ("tests/system/test_nobody_gets_in.py",)),
    Mutant("jobtree/attempt.py", "Attempt.run", "why = why or self._put_back()", "pass",
           "what code does while it is stored meets the next target",
           ("tests/system/test_ways_to_die.py::test_what_is_changed_while_a_follow_on_is_stored_is_put_back",)),
    # -- what services promise to those that need them
    Mutant("jobtree/services.py", "Services._is_well_since", "up.wells[0] >= then[1]", "up.wells[1] >= then[1]",
           "a failure counts because of a check of the service that began before it", (SERVICES,)),
    Mutant("jobtree/services.py", "Services.is_in_doubt", "return not doubt.is_over", "return False",
           "who failed because its service had died is charged with it", (SERVICES, REAL_SERVICES)),
    Mutant("jobtree/services.py", "Services._is_done_with", "job.pending <= len(self._of[gate])",
           "job.pending <= 1 + len(self._of[gate])",
           "a service is told to stop while the last child still needs it", (SERVICES, REAL_SERVICES)),
    Mutant("jobtree/offspring.py", "children_of", "counts[row.shape] = counts.get(row.shape, 0) + 1", "pass",
           "the follow-on does not wait until the service has stopped", (SERVICES, REAL_SERVICES)),
    Mutant("jobtree/offspring.py", "children_of", "functools.partial(store.shape, gate=id)",
           "functools.partial(store.shape, gate=gate)",
           "children are issued before the service that they need is up", (SERVICES, REAL_SERVICES)),
    Mutant("jobtree/services.py", "Services.finished", "if not self._is_done_with(gate):", "if False:",
           "a service that was stopped although it is needed is taken for finished", (SERVICES, REAL_SERVICES)),
    Mutant("jobtree/service_rows.py", "ServiceRows.promise_again", "SET value = ?", "SET value = coalesce(value, ?)",
           "the new address of a service that was started again is not handed on", (SERVICES, REAL_SERVICES)),
    Mutant("jobtree/services.py", "Services.was_up", "return up is not None and up.attempt == attempt",
           "return False",
           "the death of a service that was up costs it a try", (SERVICES, REAL_SERVICES)),
    Mutant("jobtree/services.py", "Services.turn", "self._gone.add(job)", "pass",
           "those that use a service which has died run on", (SERVICES, REAL_SERVICES)),
    Mutant("jobtree/services.py", "Services.find_up", "self.serves(bundle, *bundle.serves)", "pass",
           "a service that outlived its master is not known to be up", (REAL_SERVICES,)),
    Mutant("jobtree/services.py", "Services.held", " or row.gate in self._stopped", "",
           "a service that was stopped to make room takes it again at once", (SERVICE_TROUBLE,)),
    Mutant("jobtree/master.py", "Master._stop_services",
           "self._enforcer.orphaned(self._bundles[name] for name in others)", "pass",
           "at the end of a run a service is stopped under those that use it", (SERVICES,)),
    Mutant("jobtree/master.py", "Master._stop_services",
           "self._services.stop(self._bundles[name] for name in services & self._bundles.keys())", "pass",
           "at the end of a run services are killed and not stopped", (REAL_SERVICES,)),
    Mutant("jobtree/service_rows.py", "ServiceRows.all", "bool(row[3])", "False",
           "a service that has failed for good is waited for after a start", (SERVICES,)),
)  # fmt: skip
