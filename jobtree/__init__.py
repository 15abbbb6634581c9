"""Pipelines that grow while they run, and that survive anything. See README.md."""

from jobtree.errors import JobTreeError, RunStopped
from jobtree.files import sync_tree as sync
from jobtree.promise import Promise
from jobtree.stack import Stack
from jobtree.target import Target
from jobtree.version import VERSION

__version__ = VERSION

__all__ = ["JobTreeError", "Promise", "RunStopped", "Stack", "Target", "__version__", "sync"]
