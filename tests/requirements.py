"""What tests need beside Python: programs of the system, which may be absent.

Somewhere on a developer's machine that is a reason to skip a test, and the summary says which and why. Where all of it
is known to be installed, JOBTREE_TEST_REQUIRE=1 in the environment makes its absence a failure: a test that is skipped
for ever proves nothing.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

#: Debian's package of each program, where it has another name.
_PACKAGES = {
    "cc": "gcc",
    "fusermount3": "fuse3",
    "lexgrog": "man-db",
    "man": "man-db",
    "sshd": "openssh-server",
    "unshare": "util-linux",
}


def require(tool: str) -> str:
    """The path of a program; without it the test is skipped, or fails where JOBTREE_TEST_REQUIRE=1."""
    path = shutil.which(tool)
    if path is None:
        missing(f"{tool} is not installed (Debian: apt-get install {_PACKAGES.get(tool, tool)})")
    return path


def missing(why: str) -> NoReturn:
    """Skip the test for this reason, or fail it where JOBTREE_TEST_REQUIRE=1."""
    if os.environ.get("JOBTREE_TEST_REQUIRE") == "1":
        pytest.fail(f"{why}; JOBTREE_TEST_REQUIRE=1 says that nothing may be missing here", pytrace=False)
    pytest.skip(why)
