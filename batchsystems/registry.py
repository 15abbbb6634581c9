"""Names of batch systems, their classes, and the options that they add.

A module of a batch system imports no library that may be absent until one is made (`AbstractBatchSystem.create`), so
that looking at all of them for their options costs next to nothing and always works. A batch system that is not listed
here is named by where it is: "package.module:Class".
"""

from __future__ import annotations

import difflib
import importlib

from batchsystems.abstract import AbstractBatchSystem, BackendOption, BatchSystemError

# name -> (module, class)
_BUILT: dict[str, tuple[str, str]] = {
    "acidTest": ("batchsystems.acid_test", "AcidTest"),
    "drmaa": ("batchsystems.drmaa", "Drmaa"),
    "gridEngine": ("batchsystems.grid_engine", "GridEngine"),
    "parasol": ("batchsystems.parasol", "Parasol"),
    "pool": ("batchsystems.pool", "Pool"),
    "singleMachine": ("batchsystems.single_machine", "SingleMachine"),
    "slurm": ("batchsystems.slurm", "Slurm"),
    "ssh": ("batchsystems.ssh", "Ssh"),
}

# Other spellings that people use.
_ALIASES: dict[str, str] = {"acid_test": "acidTest", "single_machine": "singleMachine"}


class UnknownBatchSystem(BatchSystemError):
    """There is no batch system of this name; the message lists those that there are, the nearest first."""


def built_names() -> list[str]:
    """The names that `batch_system_class` takes in this version, each batch system once."""
    return sorted(_BUILT)


def batch_system_class(name: str) -> type[AbstractBatchSystem]:
    """The class of the batch system of this name. Raises UnknownBatchSystem."""
    name = _ALIASES.get(name, name)
    if name in _BUILT:
        return _load(*_BUILT[name])
    if ":" in name:
        return _load_foreign(name)
    built = ", ".join(built_names())
    by_lower_case = {known.lower(): known for known in (*built_names(), *_ALIASES)}
    near = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    hint = f" Did you mean {by_lower_case[near[0]]!r}?" if near else ""
    raise UnknownBatchSystem(f"there is no batch system {name!r}.{hint} This version has: {built}")


def options() -> dict[str, tuple[BackendOption, ...]]:
    """What each batch system adds to the command line, by its name; those that add nothing are left out.

    What two of them share is with the first.
    """
    found: dict[str, tuple[BackendOption, ...]] = {}
    seen: set[str] = set()
    for name in built_names():
        new = tuple(option for option in batch_system_class(name).OPTIONS if option.flag not in seen)
        seen.update(option.flag for option in new)
        if new:
            found[name] = new
    return found


def _load(module: str, attribute: str) -> type[AbstractBatchSystem]:
    found: type[AbstractBatchSystem] = getattr(importlib.import_module(module), attribute)
    assert issubclass(found, AbstractBatchSystem), f"{module}.{attribute} is no batch system"
    return found


def _load_foreign(name: str) -> type[AbstractBatchSystem]:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownBatchSystem(f"the batch system {name!r} cannot be loaded: {error}") from error
    if not (isinstance(found, type) and issubclass(found, AbstractBatchSystem)):
        raise UnknownBatchSystem(f"{name!r} is no batch system: it must be a subclass of AbstractBatchSystem")
    return found
