"""From targets and values to bytes and back.

By reference, not by value: what has an importable name is stored as that name, so that a pipeline that was stopped by
a bug runs the mended code when it goes on. Only what has no such name - lambdas, closures, classes defined in a
function, a notebook's cells - is stored whole, by cloudpickle.

``__main__`` is the awkward case. The script is ``__main__`` only in the process that the user started; everywhere
else it is a module with a name of its own (see ``jobtree.environment.MainModule``). So its classes and functions are
stored as names in *that* module.

The plain pickler is tried first, because it is ten times faster and does for nearly everything; what it refuses goes
to cloudpickle. A refusal of both names the attribute that cannot be stored.
"""

from __future__ import annotations

import importlib
import io
import pickle
import sys
import types
from collections.abc import Mapping
from typing import Any, Callable, Optional

from jobtree import promise
from jobtree.errors import CannotImport, CannotPickle, ScriptChanged
from jobtree.frames import Packed
from jobtree.target import Recorded, Target, class_name, describe

PROTOCOL = 5

_REFUSALS = (pickle.PicklingError, AttributeError, TypeError, RecursionError, ValueError, NotImplementedError)


def pack(target: Target, main: Optional[str] = None) -> Packed:
    """A target as it is stored. main: the importable name of ``__main__``, where that is the user's script.

    Raises CannotPickle, which names the attribute.
    """
    recorded = Recorded(target)
    payload, mentions = _dumps(target, main, lambda: _blame(target, main))
    name = class_name(target)
    if main is not None and name.startswith("__main__."):
        name = main + name[len("__main__") :]
    return Packed(name, recorded.memory, recorded.cpu, recorded.time, payload, mentions)


def pack_value(value: Any, target: Target) -> tuple[bytes, tuple[bytes, ...]]:
    """What a target returned, as bytes, and the promises in it. Raises CannotPickle, which names the target."""
    return _dumps(
        value,
        None,
        lambda: (
            f"{describe(target)}.run() returned a {type(value).__name__} that cannot be stored, and its value "
            f"was promised to another target ({_why(value, None)}). Return plain data, or the name of a file."
        ),
    )


def unpack(payload: bytes, values: Mapping[bytes, Callable[[], bytes]]) -> Any:
    """What was stored; promises whose token is in values become the value.

    Raises CannotImport for a module that is not found here, ScriptChanged for a name that a module no longer has.
    """
    if not values:
        return _load(payload)
    kept: dict[bytes, Callable[[], Any]] = {}
    loaded: dict[bytes, Any] = {}

    def loader(token: bytes, read: Callable[[], bytes]) -> Callable[[], Any]:
        def load() -> Any:
            if token not in loaded:
                loaded[token] = _Unpickler(io.BytesIO(read())).load()
            return loaded[token]

        return load

    for token, read in values.items():
        kept[token] = loader(token, read)
    promise.set_kept(kept)
    try:
        return _load(payload)
    finally:
        promise.set_kept({})


def _load(payload: bytes) -> Any:
    try:
        return _Unpickler(io.BytesIO(payload)).load()
    except ImportError as error:
        raise _cannot_import(error.name or "?", error) from error


def lookup(module: str, qualname: str) -> Any:
    """The object of that name in that module; how names of ``__main__`` are stored."""
    return _find(module, qualname)


# -- making pickles --------------------------------------------------------------------------------------------


def _dumps(value: Any, main: Optional[str], complain: Callable[[], str]) -> tuple[bytes, tuple[bytes, ...]]:
    mentioned: set[bytes] = set()
    promise.set_mentioned(mentioned)
    try:
        try:
            if main is None:
                return pickle.dumps(value, PROTOCOL), tuple(mentioned)
            return _by_value(value, main), tuple(mentioned)
        except _REFUSALS:
            mentioned.clear()
            try:
                return _by_value(value, main), tuple(mentioned)
            except _REFUSALS:
                raise CannotPickle(complain()) from None
    finally:
        promise.set_mentioned(None)


def _by_value(value: Any, main: Optional[str]) -> bytes:
    import cloudpickle  # most targets never need it, and importing it takes 20 ms

    buffer = io.BytesIO()

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if main is not None and _is_of_main(obj):
                return lookup, (main, obj.__qualname__)
            return super().reducer_override(obj)

    Pickler(buffer, PROTOCOL).dump(value)
    return buffer.getvalue()


def _is_of_main(obj: Any) -> bool:
    if not isinstance(obj, (type, types.FunctionType)) or obj.__module__ != "__main__":
        return False
    found: Any = sys.modules["__main__"]
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is obj


def _blame(target: Target, main: Optional[str]) -> str:
    """In words, which attribute of a target cannot be stored."""
    name = describe(target)
    for attribute, value in vars(target).items():
        why = _why(value, main)
        if why:
            shown = attribute.replace("_FunctionTarget__", "").replace("_Target__", "")
            where, culprit, why = _innermost(f"{name}.{shown}", value, why, main)
            return (
                f"{name} cannot be stored: its attribute {where} is a {type(culprit).__name__}, which cannot be "
                f"pickled ({why}). Keep what it is made from (a path, a number), and make it inside run()."
            )
    return f"{name} cannot be stored ({_why(target, main)}). Give its class an importable name, or plain attributes."


def _innermost(where: str, value: Any, why: str, main: Optional[str], depth: int = 4) -> tuple[str, Any, str]:
    """Follow what cannot be pickled down into lists, dictionaries and objects, as long as one item is to blame."""
    items: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        items = [(f"{where}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(f"{where}[{index}]", item) for index, item in enumerate(value)]
    elif hasattr(value, "__dict__") and not isinstance(value, (type, types.FunctionType, types.ModuleType)):
        items = [(f"{where}.{key}", item) for key, item in vars(value).items()]
    if depth:
        for inner, item in items[:1000]:
            reason = _why(item, main)
            if reason:
                return _innermost(inner, item, reason, main, depth - 1)
    return where, value, why


def _why(value: Any, main: Optional[str]) -> str:
    try:
        _by_value(value, main)
    except _REFUSALS as error:
        return str(error) or type(error).__name__
    return ""


# -- reading them ----------------------------------------------------------------------------------------------

_found: dict[tuple[str, str], Any] = {}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _found.get((module, name))
        if found is None:
            found = _found[(module, name)] = _find(module, name)
        return found


def _find(module: str, name: str) -> Any:
    try:
        found: Any = sys.modules.get(module) or importlib.import_module(module)
    except Exception as error:  # the user's module may raise anything while it is imported
        raise _cannot_import(module, error) from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            where = getattr(sys.modules.get(module), "__file__", None)
            raise ScriptChanged(
                f"{module}.{name} is gone{f' from {where}' if where else ''}: the code has changed since this target "
                f"was stored. Put a class or function of that name back (it may do something else)."
            ) from None
    return found


def _cannot_import(module: str, error: BaseException) -> CannotImport:
    what = f"{type(error).__name__}: {error}"
    path = "\n".join(f"    {entry or '(current directory)'}" for entry in sys.path)
    hint = (
        "Is it installed for this Python"
        if isinstance(error, ImportError)
        else "It was found, but raised this error while being imported: mend it"
    )
    return CannotImport(
        f"module {module!r} cannot be imported where targets run: {what}\n"
        f"  Python: {sys.executable}\n  Search path:\n{path}\n"
        f"  {hint}{f' ({sys.executable} -m pip install ...), or beside the script' if hint.endswith('Python') else ''}?"
        f" The search path is that of the latest start of the script; PYTHONPATH adds to it."
    )
