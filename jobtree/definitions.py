"""What a ``__main__`` without a file defines: a notebook's cells, the interpreter, ``python -c``.

A script is imported again where targets run. Where there is none, those classes and functions of ``__main__`` to which
the first target leads are kept by value, in the job tree's ``definitions.pickle``, anew at each start. Where targets
run they make up a module called NAME, and targets are stored by names in it, as those of a script are. So what holds
of scripts holds here: when a cell was corrected and executed again, what is not done yet runs the code that is there
now.

What must hold
  - Only what the first target leads to is kept, and what was kept before: other cells may hold what has no stored form.
  - It is kept in one pickle, so that functions share their globals there as they do here.
  - A class that comes back with a result is the one that ``__main__`` has now, and not a second one of that name.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
import zlib
from collections.abc import Iterable
from typing import Any, Optional

NAME = "jobtree_definitions"
"""The module, where targets run; in the process that starts the run it is ``__main__``."""

_SEAL = 4
"""Bytes of the checksum in front of the pickle."""


def capture(target: object, names: Iterable[str] = ()) -> bytes:
    """The definitions that the target leads to, and those of the given names that are still there.

    Raises what pickling them raises.
    """
    import cloudpickle  # only the process that starts a run needs it here

    main = sys.modules["__main__"]
    found: dict[str, Any] = {}

    class Collector(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, (type, types.FunctionType)) and obj.__module__ == "__main__":
                name = obj.__qualname__.partition(".")[0]
                if hasattr(main, name):
                    found[name] = getattr(main, name)
            return super().reducer_override(obj)

    kept = [vars(main)[name] for name in names if _is_defined_in_main(vars(main).get(name))]
    try:
        Collector(io.BytesIO(), pickle.HIGHEST_PROTOCOL).dump([target, *kept])
        data: bytes = cloudpickle.dumps(found)
    except Exception as error:  # a __reduce__ of the user's may raise anything
        raise pickle.PicklingError(_blame(found, error)) from error
    return zlib.crc32(data).to_bytes(_SEAL, "big") + data


def _blame(found: dict[str, Any], error: Exception) -> str:
    import cloudpickle

    for name, obj in found.items():
        try:
            cloudpickle.dumps(obj)
        except Exception as of_this:  # the same
            return f"{name}: {of_this}"
    return str(error)


def load(data: Optional[bytes]) -> types.ModuleType:
    """The module NAME of what ``capture`` made, which is put among the imported ones.

    Raises ImportError if it is not as it was written, and what unpickling raises.
    """
    module = sys.modules[NAME] = types.ModuleType(NAME, __doc__)
    try:
        for name, obj in _read(data).items():
            setattr(module, name, obj)
            _move(obj)
    except BaseException:
        del sys.modules[NAME]
        raise
    return module


def names_in(data: Optional[bytes]) -> list[str]:
    """The names of the definitions in what ``capture`` made; none if that cannot be read."""
    try:
        return list(_read(data))
    except Exception:  # the code of then may raise anything where it is not then any more
        return []


def _read(data: Optional[bytes]) -> dict[str, Any]:
    if data is None or zlib.crc32(data[_SEAL:]) != int.from_bytes(data[:_SEAL], "big"):
        raise ImportError(
            "what the notebook defined is damaged in the job tree or gone from it; execute the notebook's cells again, "
            "with the same directory: that writes it again"
        )
    found: dict[str, Any] = pickle.loads(data[_SEAL:])
    return found


def _is_defined_in_main(obj: object) -> bool:
    return isinstance(obj, (type, types.FunctionType)) and obj.__module__ == "__main__"


def _move(obj: Any) -> None:
    """Say of a class or function, and of what is in it, that it belongs to NAME: it is stored by that from now on."""
    if not _is_defined_in_main(obj):
        return
    obj.__module__ = NAME
    if isinstance(obj, types.FunctionType):
        obj.__globals__["__name__"] = NAME  # of what is defined while it runs
    else:
        for inner in list(vars(obj).values()):
            _move(inner.__func__ if isinstance(inner, (staticmethod, classmethod)) else inner)
