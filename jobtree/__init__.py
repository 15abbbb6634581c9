"""Pipelines that grow while they run, and that survive anything. See README.md."""

from jobtree.errors import JobTreeError, RunFailed, RunStopped
from jobtree.files import sync_tree as sync
from jobtree.opening import JobTree
from jobtree.opening import open as open
from jobtree.promise import Promise
from jobtree.service import Service
from jobtree.stack import Stack
from jobtree.target import Target
from jobtree.version import VERSION

__version__ = VERSION

# Not open: `from jobtree import *` must not take away the one that everybody knows.
__all__ = [
    "JobTree",
    "JobTreeError",
    "Promise",
    "RunFailed",
    "RunStopped",
    "Service",
    "Stack",
    "Target",
    "__version__",
    "sync",
]
