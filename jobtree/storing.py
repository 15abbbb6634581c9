"""Classes of targets that say themselves how they are stored (``__getstate__`` and its kin).

Users who write such a method think of their own attributes, and what the base class keeps must be stored all the same.
Only these classes pay for it: any other is stored by the pickler alone. A class with a ``__reduce_ex__`` of its own is
left as it is.
"""

from __future__ import annotations

from typing import Any, Callable

_PLAIN_GETSTATE = getattr(object, "__getstate__", None)  # from Python 3.11 on


def has_own_getstate(cls: type[Any]) -> bool:
    """Whether a class says itself what of it is stored."""
    return getattr(cls, "__getstate__", None) is not _PLAIN_GETSTATE


def store_ours_too(cls: type[Any]) -> None:
    """Have such a class store what the base class keeps as well; any other is left as it is."""
    plain: Any = object
    if cls.__reduce_ex__ is plain.__reduce_ex__ and (
        has_own_getstate(cls) or hasattr(cls, "__setstate__") or cls.__reduce__ is not plain.__reduce__
    ):
        cls.__reduce_ex__ = _reduce_with_ours  # type: ignore[assignment]


def _reduce_with_ours(self: Any, protocol: int) -> Any:
    """``__reduce_ex__`` of such a class: what the user's methods say, with ours beside it."""
    reduced: Any = object.__reduce_ex__(self, protocol)
    if not isinstance(reduced, tuple):
        return reduced  # the name of something that is there already
    ours = {name: value for name, value in self.__dict__.items() if name.startswith("_jobtree")}
    make, arguments, state, items, pairs, setter = (*reduced, None, None, None, None)[:6]
    if protocol < 5:
        # The copy module, which asks for 4, knows no setters. A target that its own child holds can then not be
        # pickled; jobtree itself uses 5.
        return (_made_with, (make, arguments, ours), *reduced[2:])
    return make, arguments, (state, setter, ours), items, pairs, _set_with_ours


def _made_with(make: Callable[..., Any], arguments: tuple[Any, ...], ours: dict[str, Any]) -> Any:
    target = make(*arguments)
    target.__dict__.update(ours)
    store_ours_too(type(target))
    return target


def _set_with_ours(target: Any, stored: tuple[Any, Any, dict[str, Any]]) -> None:
    """Do with the user's state what the unpickler does, then put ours in, which may not have been among it."""
    state, setter, ours = stored
    if state is not None:
        setter = setter or getattr(type(target), "__setstate__", None)
        if setter is not None:
            setter(target, state)
        else:
            attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
            target.__dict__.update(attributes or {})
            for name, value in (slots or {}).items():
                object.__setattr__(target, name, value)
    target.__dict__.update(ours)
    store_ours_too(type(target))
