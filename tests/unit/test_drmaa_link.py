"""The session in a process of its own: a library that hangs, crashes, lies or is not there does no harm."""

from __future__ import annotations

import ctypes.util
import json
import os
import select
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Optional

import psutil
import pytest

from batchsystems import drmaa_library, drmaa_link
from batchsystems.abstract import BatchSystemError
from batchsystems.commands import Answer
from batchsystems.drmaa_link import Link, Question

# What Python's package is to the session, with a library that does what the job's name says.
PACKAGE = """
import os, time

class errors:
    class DrmaaException(Exception): pass
    class InvalidJobException(DrmaaException): pass
    class DeniedByDrmException(DrmaaException): pass
    class DrmsInitException(DrmaaException): pass
    class ExitTimeoutException(DrmaaException): pass
    _ERRORS = [Exception] * 25

class JobControlAction:
    TERMINATE = "terminate"

class Template:
    pass

class Info:
    hasExited, hasSignal, wasAborted = True, False, False
    exitStatus, terminatedSignal, resourceUsage = 3, "", {"cpu": "1.5"}
    def __init__(self, jobId): self.jobId = jobId

class Session:
    JOB_IDS_SESSION_ANY = "any"
    contact, drmsInfo = "session=1", "FAKE 1.0"
    ended = []
    def initialize(self, contact=None):
        if os.environ.get("FAKE") == "refuse":
            raise errors.DrmsInitException("code 10: no qmaster here")
        if contact == "session=forgotten":
            raise errors.DrmaaException("code 7: no such session")
        if contact:
            self.contact = contact
    def exit(self): pass
    def createJobTemplate(self): return Template()
    def deleteJobTemplate(self, template): pass
    def runBulkJobs(self, template, first, last, step):
        print("the library has printed something")
        if template.jobName == "hang": time.sleep(1000)
        if template.jobName == "crash": os.abort()
        if template.jobName == "deny": raise errors.DeniedByDrmException("code 17: error:\\nno suitable queues")
        Session.ended = [f"7.{index}" for index in range(first, last + 1)]
        return list(Session.ended)
    def control(self, number, action): raise errors.InvalidJobException("code 18")
    def jobStatus(self, number):
        if number == "8.1": raise errors.InvalidJobException("code 18")
        return "running"
    def wait(self, number, timeout):
        if len(Session.ended) == 2:
            Session.ended.pop()
            raise errors._ERRORS[23]("code 24: no usage information was returned")
        if Session.ended: return Info(Session.ended.pop())
        raise errors.ExitTimeoutException("code 23")
"""

Make = Callable[..., Link]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes links to sessions with the package above."""
    made = []
    (tmp_path / "drmaa.py").write_text(textwrap.dedent(PACKAGE))
    monkeypatch.syspath_prepend(str(tmp_path))

    def link(contact: str = "", **env: str) -> Link:
        made.append(Link({**os.environ, **env}, contact))
        return made[-1]

    yield link
    for one in made:
        one.close()


def wait_for(link: Link, question: Optional[Question] = None) -> Answer:
    """The answer; or, without a question, an empty one as soon as the session is open or has failed."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        link.turn()
        if question is not None and question.answer() is not None:
            assert question.found is not None
            return question.found
        if question is None and (link.opened or not link.is_there()):
            return Answer(0, "", "")
        if link.is_there():
            select.select([link], [], [], 0.1)
    raise AssertionError("no answer")


def submit(link: Link, name: str, count: int = 2) -> Question:
    return link.ask("submit", name=name, command=["/bin/true"], native="", output="/dev/null", count=count)


def ends(link: Link, count: int) -> list[str]:
    deadline = time.monotonic() + 60
    while len(link.ended) < count and time.monotonic() < deadline:
        link.turn()
        select.select([link], [], [], 0.1)
    return sorted(end["id"] for end in link.ended)


def process_of(link: Link) -> psutil.Process:
    """The process of its session; this one may have others."""
    assert link._process is not None
    return psutil.Process(link._process.pid)


def test_jobs_are_submitted_and_their_ends_are_told(make: Make) -> None:
    link = make()

    answer = wait_for(link, submit(link, "good", 3))

    assert json.loads(answer.out)["ids"] == ["7.1", "7.2", "7.3"]
    assert (link.contact, link.system) == ("session=1", "FAKE 1.0")
    assert ends(link, 2) == ["7.1", "7.3"], (
        "of the third there was no usage; the others are heard of all the same"
    )
    assert link.ended[0]["status"] == 3


def test_states_are_told_also_of_what_is_unknown(make: Make) -> None:
    link = make()
    states = wait_for(link, link.ask("states", ids=["7.1", "8.1"]))
    ended = wait_for(link, link.ask("end", ids=["8.1"]))

    assert json.loads(states.out)["states"] == {"7.1": "running", "8.1": "unknown"}
    assert ended.status == 0


def test_a_refusal_is_an_answer_in_one_line(make: Make) -> None:
    link = make()
    answer = wait_for(link, submit(link, "deny"))
    assert (answer.status, answer.words) == (1, "DeniedByDrmException: code 17: error: no suitable queues")
    assert wait_for(link, submit(link, "good")).status == 0, "it still serves"


def test_a_library_that_crashes_leaves_nobody_waiting_and_is_started_again(make: Make) -> None:
    link = make()
    crashed = submit(link, "crash")
    behind = submit(link, "good")

    assert wait_for(link, crashed).status is None, "it may have been submitted"
    assert wait_for(link, behind).status is None
    link.pause.until = 0.0
    assert wait_for(link, submit(link, "good")).status == 0


def test_a_library_that_hangs_is_killed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    link = make()
    wait_for(link, link.ask("states", ids=[]))
    monkeypatch.setattr(drmaa_link, "_ANSWER_SECONDS", 0.5)

    child = process_of(link)
    answer = wait_for(link, submit(link, "hang"))

    assert answer.status is None
    assert "does not answer" in answer.words
    assert not link.is_there()
    assert not child.is_running()


def test_a_session_that_is_not_known_any_more_becomes_a_new_one(make: Make) -> None:
    link, other = make("session=forgotten"), make("session=5")
    for one in (link, other):
        one.start()
        wait_for(one)

    assert (link.contact, other.contact) == ("session=1", "session=5")


def test_what_cannot_be_opened_is_told_and_is_tried_again_after_a_pause(make: Make) -> None:
    link = make(FAKE="refuse")
    answer = wait_for(link, submit(link, "good"))

    assert link.refused == ("DrmsInitException", "code 10: no qmaster here")
    assert answer.status == 1, "nothing has been submitted"
    at_once = submit(link, "good")
    assert at_once.answer() is not None, "during the pause nobody is asked"
    assert at_once.deadline <= time.monotonic()


def test_the_session_ends_with_its_master(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    link = make()
    link.start()
    wait_for(link)
    child = process_of(link)
    assert link._process is not None
    assert link._process.stdin is not None
    link._process.stdin.close()

    assert child.wait(60) == 0


@pytest.mark.parametrize(
    ("library", "kind"), [("/bin/true", "OSError"), (str(ctypes.util.find_library("m")), "AttributeError")]
)
def test_what_is_no_library_of_that_kind_is_explained(library: str, kind: str) -> None:
    """With the real package."""
    link = Link(drmaa_library.environment(library, os.environ), "")
    link.start()
    wait_for(link)
    link.close()

    assert link.refused is not None
    assert link.refused[0] == kind
    words = drmaa_library.explain(*link.refused, library)
    assert library in words
    assert "--drmaaLibrary" in words


# -- finding it --------------------------------------------------------------------------------------------------


def test_the_library_is_the_one_that_is_named(tmp_path: Path) -> None:
    library = tmp_path / "libdrmaa.so"
    library.touch()

    assert drmaa_library.find(str(library), {}) == str(library)
    assert drmaa_library.find(None, {"DRMAA_LIBRARY_PATH": str(library)}) == str(library)


def test_a_library_that_is_named_and_not_there_is_said_to_be_missing() -> None:
    with pytest.raises(BatchSystemError, match="--drmaaLibrary is /nowhere/x.so, and there is no such file"):
        drmaa_library.find("/nowhere/x.so", {})
    with pytest.raises(BatchSystemError, match="DRMAA_LIBRARY_PATH is /nowhere/x.so"):
        drmaa_library.find(None, {"DRMAA_LIBRARY_PATH": "/nowhere/x.so"})


def test_the_library_is_found_below_the_root_of_grid_engine(tmp_path: Path) -> None:
    root = tmp_path / "root [1]"
    for architecture in ("lx-amd64", "lx-arm64"):
        (root / "lib" / architecture).mkdir(parents=True)
        (root / "lib" / architecture / "libdrmaa.so").touch()

    found = drmaa_library.find(None, {"SGE_ROOT": str(root), "SGE_ARCH": "lx-arm64"})
    assert found == str(root / "lib" / "lx-arm64" / "libdrmaa.so")
    assert drmaa_library.find(None, {"SGE_ROOT": str(root)}).startswith(str(root))


def test_no_library_says_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drmaa_library, "_PLACES", ())
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(BatchSystemError, match="no DRMAA library was found.*--drmaaLibrary FILE"):
        drmaa_library.find(None, {})


def test_a_package_that_is_not_there_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BatchSystemError, match=r"pip install 'jobtree\[drmaa\]'"):
        drmaa_library.require_package()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "glibc.rtld.optional_static_tls=65536"),
        ("glibc.malloc.check=3", "glibc.malloc.check=3:glibc.rtld.optional_static_tls=65536"),
        ("glibc.rtld.optional_static_tls=1", "glibc.rtld.optional_static_tls=1"),
    ],
)
def test_room_for_what_is_loaded_late_is_asked_for(given: Optional[str], expected: str) -> None:
    env = {} if given is None else {"GLIBC_TUNABLES": given}
    assert drmaa_library.environment("/x", env)["GLIBC_TUNABLES"] == expected


def test_the_words_of_the_c_library_about_that_are_explained() -> None:
    words = "libjemalloc.so.2: cannot allocate memory in static TLS block"
    assert "LD_PRELOAD" in drmaa_library.explain("OSError", words, "/x/libdrmaa.so")
