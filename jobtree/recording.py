"""What a start writes down of how it looks from outside: ``environment.json``, for every worker to read.

A start of the script records all of it. A start without the script (jobTreeRun) keeps where the script is and how it is
imported, and takes the variables from its own surroundings.
"""

from __future__ import annotations

from typing import Optional

from jobtree import definitions, environment, files, serialization
from jobtree.environment import Environment, MainModule
from jobtree.errors import CannotPickle, DamagedFile
from jobtree.options import Settings
from jobtree.paths import TreePaths
from jobtree.target import Target, describe


def record(paths: TreePaths, settings: Settings, target: Optional[Target]) -> Environment:
    """The environment of this start; target: the first one, None for a start without the script."""
    now = environment.of_this_process(settings.env_allow, settings.env_deny)
    if target is None:
        now = _stored(paths)._replace(variables=now.variables)
    else:
        if now.main is None:
            now = now._replace(main=_record_definitions(paths, target))
        now = now._replace(preload=_preload(target, now))
    files.write_json(paths.environment, now.to_json())
    return now


def _stored(paths: TreePaths) -> Environment:
    try:
        stored = files.read_json(paths.environment)
        if stored is None:
            raise DamagedFile(f"{paths.environment} is gone.")
        found = Environment.from_json(stored)
    except (DamagedFile, AttributeError, KeyError, TypeError, ValueError) as error:
        what = error if isinstance(error, DamagedFile) else f"{paths.environment} is damaged."
        raise DamagedFile(
            f"{what} It says where the script is and how it is imported. Start the script itself, with the same "
            "--jobTree and in the same directory: that writes it again."
        ) from error
    if found.main is not None and found.main.name == definitions.NAME:
        found = found._replace(
            main=MainModule(definitions.NAME, paths.definitions)
        )  # the tree may have been moved
    return found


def _record_definitions(paths: TreePaths, target: Target) -> MainModule:
    """Keep what a notebook defines. Raises CannotPickle."""
    try:
        data = definitions.capture(target, definitions.names_in(files.read(paths.definitions)))
    except MemoryError:
        raise  # says nothing about the target
    except Exception as error:  # a __reduce__ of the user's may raise anything
        serialization.pack(target, definitions.NAME)  # if it is an attribute of the target, this says which
        raise CannotPickle(
            f"what {describe(target)} needs of the notebook cannot be stored ({error}). A function or class keeps "
            "every global that its code names: make such things inside run(), or in a module."
        ) from error
    files.replace_durably(paths.definitions, data)
    return MainModule(definitions.NAME, paths.definitions)


def _preload(target: Target, recorded: Environment) -> list[str]:
    """The module of the first target: what workers import before they are forked."""
    module = getattr(vars(target).get("_jobtree_fn", type(target)), "__module__", None)
    if module == "__main__":
        return [recorded.main.name] if recorded.main is not None else []
    return [module] if module and not module.startswith("jobtree.") else []
