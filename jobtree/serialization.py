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

import hashlib
import io
import pickle
import sys
import types
import zlib
from collections.abc import Mapping
from typing import Any, Callable, Optional

from jobtree import definitions, environment, promise
from jobtree.errors import CannotImport, CannotPickle, ScriptChanged, TargetError
from jobtree.frames import Packed
from jobtree.recorded import Recorded
from jobtree.target import Target, class_name, describe

PROTOCOL = 5

_SEAL = 4
"""Bytes of the checksum behind every pickle."""


def pack(target: Target, main: Optional[str] = None) -> Packed:
    """A target as it is stored. main: the importable name of ``__main__``, where that is the user's script.

    Raises CannotPickle, which names the attribute.
    """
    payload, mentions = _dumps(target, main, _blame, target)
    time, memory, cpu, *countable = Recorded(target).request
    return Packed(
        stored_name(target, main), memory, cpu, time, payload, mentions, countable[0] if countable else ""
    )


def stored_name(target: Target, main: Optional[str]) -> str:
    """The name under which a target is counted; main: as in ``pack``."""
    name = class_name(target)
    if main is not None and name.startswith("__main__."):
        name = main + name[len("__main__") :]
    return name


def pack_value(value: Any, target: Target) -> tuple[bytes, tuple[bytes, ...]]:
    """What a target returned, as bytes, and the promises in it. Raises CannotPickle, which names the target."""
    return _dumps(value, None, _blame_value, target)


def unpack(payload: bytes, values: Mapping[bytes, Callable[[], bytes]]) -> Any:
    """What was stored; promises whose token is in values become the value.

    Raises CannotImport for a module that is not found here, ScriptChanged for a name that a module no longer has,
    TargetError for what is not as it was written.
    """
    promise.forget_addresses()
    if not values:
        return _load(payload)
    kept: dict[bytes, Callable[[], Any]] = {}
    loaded: dict[bytes, Any] = {}

    def loader(token: bytes, read: Callable[[], bytes]) -> Callable[[], Any]:
        def load() -> Any:
            if token not in loaded:
                data = read()
                _check_seal(data)
                loaded[token] = _Unpickler(io.BytesIO(data)).load()
            return loaded[token]

        return load

    for token, read in values.items():
        kept[token] = loader(token, read)
    promise.set_kept(kept)
    try:
        return _load(payload)
    finally:
        promise.set_kept({})


def tokens(payload: bytes) -> set[bytes]:
    """The tokens of promises in a pickle, without loading it: of those that it mentions, and of its own target's.

    Raises TargetError for what is not as it was written.
    """
    import pickletools  # only who steers a run needs it

    _check_seal(payload)
    found = (value for _, value, _ in pickletools.genops(payload[:-_SEAL]))
    return {value for value in found if isinstance(value, bytes) and len(value) == promise.TOKEN_BYTES}


def _load(payload: bytes) -> Any:
    _check_seal(payload)
    try:
        return _Unpickler(io.BytesIO(payload)).load()
    except ImportError as error:
        raise _cannot_import(error.name or "?", error) from error


def fingerprint(target: Target) -> str:
    """What tells the first target of one run from that of another: its class and its arguments.

    Code is not in it, so that it may be edited, nor the tokens of promises, which are others in every process.
    """
    import cloudpickle  # as below

    buffer = io.BytesIO()

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, (type, types.FunctionType)) and obj.__module__ == "__main__":
                return lookup, ("__main__", obj.__qualname__)
            if isinstance(obj, promise.Promise):
                return promise.Promise, obj.__reduce__()[1][1:]
            if isinstance(obj, Target):
                return _without_token(obj.__reduce_ex__(PROTOCOL))
            return super().reducer_override(obj)

    Pickler(buffer, PROTOCOL).dump(target)
    return hashlib.sha256(buffer.getvalue()).hexdigest()[:16]


def _without_token(reduced: Any) -> Any:
    """How a target is pickled, but for the token of the promise of what it returns."""
    if not isinstance(reduced, tuple) or len(reduced) < 3:
        return reduced

    def cut(state: Any) -> Any:
        if isinstance(state, dict):
            return {key: item for key, item in state.items() if key != "_jobtree_token"}
        return tuple(map(cut, state)) if isinstance(state, tuple) else state

    return (*reduced[:2], cut(reduced[2]), *reduced[3:])


def lookup(module: str, qualname: str) -> Any:
    """The object of that name in that module; how names of ``__main__`` are stored."""
    return _find(module, qualname)


# -- making pickles --------------------------------------------------------------------------------------------


def _dumps(
    value: Any, main: Optional[str], complain: Callable[[Any, Optional[str], Target], str], target: Target
) -> tuple[bytes, tuple[bytes, ...]]:
    """A value of this target's, or the target itself, as bytes, and the tokens of the promises in it."""
    mentioned: set[bytes] = set()
    promise.set_mentioned(mentioned)
    try:
        try:
            if main is None:
                return sealed(_plain(value)), tuple(mentioned)
            return _by_value(value, main), tuple(mentioned)
        except MemoryError:
            raise  # says nothing about the object
        except Exception:  # a __reduce__ or __getstate__ of the user's may raise anything
            mentioned.clear()
            try:
                return _by_value(value, main), tuple(mentioned)
            except MemoryError:
                raise
            except Exception as error:  # the same
                raise CannotPickle(complain(value, main, target)) from error
    finally:
        promise.set_mentioned(None)


def _plain(value: Any) -> bytes:
    if not promise.has_addresses():
        return pickle.dumps(value, PROTOCOL)
    buffer = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return promise.address_of(obj)

    Pickler(buffer, PROTOCOL).dump(value)
    return buffer.getvalue()


def _by_value(value: Any, main: Optional[str]) -> bytes:
    import cloudpickle  # most targets never need it, and importing it takes 20 ms

    buffer = io.BytesIO()

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if main is not None:
                name = _name_in_main(obj, self.dispatch_table)
                if name is not None:
                    return lookup, (main, name)
            return super().reducer_override(obj)

        if promise.has_addresses():

            def persistent_id(self, obj: Any) -> Any:
                return promise.address_of(obj)

    Pickler(buffer, PROTOCOL).dump(value)
    return sealed(buffer.getvalue())


def sealed(data: bytes) -> bytes:
    """A pickle with its CRC-32 behind it, where unpickling does not look: a disk may change a byte of what it keeps."""
    return data + zlib.crc32(data).to_bytes(_SEAL, "little")


def _check_seal(data: bytes) -> None:
    """Raise TargetError if a pickle is not as it was written."""
    body = memoryview(data)[:-_SEAL]
    if len(data) <= _SEAL or zlib.crc32(body) != int.from_bytes(data[-_SEAL:], "little"):
        raise TargetError(
            f"what is stored is damaged: a pickle of {len(data)} bytes does not have the checksum that it was written "
            "with. Nothing of it was used. See jobTreeStatus --check, and look at the disk and at the system's log."
        )


def _name_in_main(obj: Any, dispatch_table: Mapping[type, Any]) -> Optional[str]:
    """The name of an object of the script's that is stored as a name; None for all others."""
    if isinstance(obj, (type, types.FunctionType)):
        name: Any = obj.__qualname__ if obj.__module__ == "__main__" else None
    else:
        # What wraps a function (lru_cache) has the function's name; a sentinel's __reduce__ may return its own.
        attributes = getattr(obj, "__dict__", None)
        name = attributes.get("__qualname__") if isinstance(attributes, dict) else None
        kind: Any = type(obj)
        if name is None and kind.__reduce__ is not object.__reduce__ and kind not in dispatch_table:
            try:
                name = obj.__reduce__()
            except Exception:  # the pickler will meet it too, and then it is explained
                return None
    if not isinstance(name, str):
        return None
    found: Any = sys.modules["__main__"]
    for part in name.split("."):
        found = getattr(found, part, None)
    return name if found is obj else None


def _blame_value(value: Any, main: Optional[str], target: Target) -> str:
    return (
        f"{describe(target)}.run() returned a {type(value).__name__} that cannot be stored, and its value "
        f"was promised to another target ({_why(value, main)}). Return plain data, or the name of a file."
    )


def _blame(_: Any, main: Optional[str], target: Target) -> str:
    """In words, which attribute of a target cannot be stored."""
    name = describe(target)
    why = _why(target, main)
    where, culprit, why = _innermost(name, target, why, main, depth=6)
    if culprit is target:
        return f"{name} cannot be stored ({why}). Give its class an importable name, or plain attributes."
    return (
        f"{name} cannot be stored: its attribute {where} is a {type(culprit).__name__}, which cannot be "
        f"pickled ({why}). Keep what it is made from (a path, a number), and make it inside run()."
    )


def _innermost(where: str, value: Any, why: str, main: Optional[str], depth: int = 5) -> tuple[str, Any, str]:
    """Follow what cannot be pickled down into lists, dictionaries and objects, as long as one item is to blame."""
    items: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        items = [(f"{where}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(f"{where}[{index}]", item) for index, item in enumerate(value)]
    elif not isinstance(value, (type, types.FunctionType, types.ModuleType)):
        items = [(f"{where}.{key.replace('_jobtree_', '')}", item) for key, item in _stored_attributes(value)]
    if depth:
        for inner, item in items[:1000]:
            reason = _why(item, main)
            if reason:
                return _innermost(inner, item, reason, main, depth - 1)
    return where, value, why


def _stored_attributes(value: Any) -> list[tuple[str, Any]]:
    """The attributes of an object that are stored with it: its __getstate__ may leave some out."""
    try:
        reduced: Any = value.__reduce_ex__(PROTOCOL)
        state: Any = (*reduced, None)[2]
        if isinstance(value, Target) and isinstance(state, tuple) and len(state) == 3:
            # A class that stores itself; ours beside its own (see jobtree.target).
            return [*_named(state[0]), *_named(state[2])]
        return _named(state)
    except Exception:  # then it is this object itself that cannot be stored
        return []


def _named(state: Any) -> list[tuple[str, Any]]:
    both = state if isinstance(state, tuple) else (state,)  # attributes, or attributes and slots
    return [(str(key), item) for part in both if isinstance(part, dict) for key, item in part.items()]


def _why(value: Any, main: Optional[str]) -> str:
    try:
        _by_value(value, main)
    except Exception as error:  # whatever the user's methods raise is the reason
        return (
            f"{error}" if isinstance(error, _TELLING) and str(error) else f"{type(error).__name__}: {error}"
        )
    return ""


_TELLING = (pickle.PicklingError, TypeError, CannotPickle)
"""Errors whose text needs no name of a class before it."""


# -- reading them ----------------------------------------------------------------------------------------------

_found: dict[tuple[str, str], Any] = {}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _found.get((module, name))
        if found is None:
            if module == "builtins" and name == "getattr":
                found = _attribute  # how a bound method is stored
            else:
                found = _find(module, name)
            if module != definitions.NAME:  # where it is a notebook, its cells may define that name again
                _found[(module, name)] = found
        return found

    def persistent_load(self, pid: Any) -> Any:
        return promise.restore_address(*pid)


def _attribute(obj: Any, name: str, *default: Any) -> Any:
    try:
        return getattr(obj, name, *default)
    except AttributeError as error:
        cls = obj if isinstance(obj, type) else type(obj)
        raise ScriptChanged(_gone(f"{cls.__module__}.{cls.__qualname__}.{name}", cls.__module__)) from error


def _find(module: str, name: str) -> Any:
    try:
        found: Any = sys.modules.get(module) or environment.import_module(module)
    except CannotImport:
        raise
    except (Exception, SystemExit) as error:  # the user's module may raise anything while it is imported
        raise _cannot_import(module, error) from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ScriptChanged(_gone(f"{module}.{name}", module)) from None
    return found


def _gone(name: str, module: str) -> str:
    where = getattr(sys.modules.get(module), "__file__", None)
    return (
        f"{name} is gone{f' from {where}' if where else ''}: the code has changed since this target was stored. "
        f"Put a class, function or method of that name back (it may do something else)."
    )


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
