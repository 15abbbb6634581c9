"""What is different for a script that imports jobtree by the names of the original (see jobTree.py).

The original ignored memory= and cpu= of the function forms, and pipelines that were written for it give numbers there
that no machine has.
"""

from __future__ import annotations

import warnings

_ignored = False
_warning_due = False


def use_legacy_function_resources() -> None:
    """Ignore memory= and cpu= of the function forms, as the original did."""
    global _ignored, _warning_due
    _ignored = _warning_due = True


def ignores_function_resources() -> bool:
    """Whether they are ignored; they were given, so this says so, once: a pipeline adds thousands of functions."""
    global _warning_due
    if _warning_due:
        _warning_due = False
        warnings.warn(
            "memory= and cpu= of the function forms (addChildTargetFn, makeTargetFn ...) are ignored, as the original "
            "jobTree did, because this script imports it by its old name; import from jobtree to have them honoured",
            stacklevel=4,
        )
    return _ignored
