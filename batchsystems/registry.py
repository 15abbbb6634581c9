"""Names of batch systems, and their classes, imported only when chosen: some need libraries that may be absent."""

from __future__ import annotations

import difflib
import importlib

from batchsystems.abstract import AbstractBatchSystem, BatchSystemError

# name -> (module, class)
_BUILT: dict[str, tuple[str, str]] = {
    "singleMachine": ("batchsystems.single_machine", "SingleMachine"),
}

# Other spellings that people use.
_ALIASES: dict[str, str] = {"single_machine": "singleMachine"}

_PLANNED: tuple[str, ...] = ("acidTest", "drmaa", "gridEngine", "parasol", "pool", "slurm", "ssh")


class UnknownBatchSystem(BatchSystemError):
    """There is no batch system of this name; the message lists those that there are, the nearest first."""


class NotBuilt(BatchSystemError):
    """The batch system has a name, but this version does not have it yet; the message lists those that it has."""


def built_names() -> list[str]:
    """The names that `batch_system_class` takes in this version, each batch system once."""
    return sorted(_BUILT)


def known_names() -> list[str]:
    """All names, also of batch systems that this version does not have yet."""
    return sorted((*_BUILT, *_PLANNED))


def batch_system_class(name: str) -> type[AbstractBatchSystem]:
    """The class of the batch system of this name. Raises NotBuilt, UnknownBatchSystem."""
    name = _ALIASES.get(name, name)
    if name in _BUILT:
        module, attribute = _BUILT[name]
        found: type[AbstractBatchSystem] = getattr(importlib.import_module(module), attribute)
        assert issubclass(found, AbstractBatchSystem), f"{module}.{attribute} is no batch system"
        return found
    built = ", ".join(built_names())
    if name in _PLANNED:
        raise NotBuilt(f"batch system {name!r} is not built yet in this version; it has: {built}")
    by_lower_case = {known.lower(): known for known in (*known_names(), *_ALIASES)}
    near = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    hint = f" Did you mean {by_lower_case[near[0]]!r}?" if near else ""
    planned = ", ".join(_PLANNED)
    raise UnknownBatchSystem(
        f"there is no batch system {name!r}.{hint} This version has: {built}; not built yet: {planned}"
    )
