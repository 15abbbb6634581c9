"""Promises: values that targets hand to targets that run later.

``child.rv()`` is a promise of what ``child.run()`` will return. Put it anywhere inside another target's attributes or
arguments; when that target starts and the child has ended by then, the value is there instead of the promise. If the
child has not ended, the promise stays a promise, can be passed on, and says whose it is when it is used.

How. A promise is a *token* that no other has. Pickling one notes the token in ``mentions`` of the pickle that is being
made; the store keeps a value as long as a stored pickle mentions its token. Unpickling one looks the token up among the
values that came with the bundle and becomes the value itself - wherever it was nested, because the unpickler puts it
there. ``_mentioned`` and ``_kept`` below are set by ``jobtree.serialization`` around each pickle and by nobody else.

What a service promises, its address, is another one each time that it is started, and a target that was given it may
hand it on to its children long before they run. So the address is remembered by identity (``_addresses``) while the
target runs, and wherever that same object is in what the target leaves, the promise is stored in its place. That is
done for values which nobody can change and which Python does not share among all who have an equal one.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any, Callable, Generic, NoReturn, Optional, TypeVar

from jobtree.errors import PromiseNotKept

T = TypeVar("T")

_mentioned: Optional[set[bytes]] = None
_process = b""
_numbers = itertools.count()
_kept: dict[bytes, Callable[[], Any]] = {}
_loading: set[bytes] = set()


class Promise(Generic[T]):
    """The value that a target's run() will return, or a part of it.

    >>> promise = child.rv("mean")          # child.run() returns {"mean": ..., "sd": ...}
    >>> self.setFollowOnTarget(Report(promise))

    Using it before the target has ended raises PromiseNotKept with the target's name.
    """

    __slots__ = ("_name", "_path", "_token")

    def __init__(self, token: bytes, path: tuple[Any, ...], name: str) -> None:
        self._token = token
        self._path = path
        self._name = name

    def __reduce__(self) -> tuple[Any, ...]:
        if _mentioned is not None:
            _mentioned.add(self._token)
        return restore, (self._token, self._path, self._name)

    def __repr__(self) -> str:
        return f"<promise of {self._name}, not kept yet>"

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise PromiseNotKept(
            f"the promise of {self._name}.run() was used before that target had ended. Pass it to a follow-on of the "
            f"target that made it (setFollowOnTarget), which starts when all children are done. If it does so already, "
            f"{self._name} was forgotten (jobTreeRun --forget), and nobody will ever return that value."
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__") and name.endswith("__"):
            # Python itself asks for such names (copy, pickle, inspect) and wants to hear that they are not there.
            raise AttributeError(name)
        self._refuse()

    # Looking at a promise is refused, comparing it too: it would silently differ from every value. That leaves
    # identity and hash, with which lists, dictionaries, sets, picklers and copiers get along.
    # Type checkers are not shown this: so they refuse it too, and earlier.
    if not TYPE_CHECKING:
        __hash__ = object.__hash__
        __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
        __iter__ = __len__ = __getitem__ = __setitem__ = __delitem__ = __contains__ = __bool__ = __call__ = (
            _refuse
        )
        __int__ = __float__ = __index__ = __str__ = __format__ = __bytes__ = __fspath__ = _refuse
        __round__ = __trunc__ = __floor__ = __ceil__ = __neg__ = __pos__ = __abs__ = __invert__ = _refuse
        __add__ = __sub__ = __mul__ = __truediv__ = __floordiv__ = __mod__ = __divmod__ = __pow__ = _refuse
        __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rfloordiv__ = __rmod__ = __rdivmod__ = __rpow__ = (
            _refuse
        )
        __matmul__ = __and__ = __or__ = __xor__ = __lshift__ = __rshift__ = _refuse
        __rmatmul__ = __rand__ = __ror__ = __rxor__ = __rlshift__ = __rrshift__ = _refuse
        __enter__ = __exit__ = _refuse


class Address(Promise[T]):
    """What the start() of a service will return, or a part of it; wherever it is handed on, it stays the promise."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return restore_address, super().__reduce__()[1]

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise PromiseNotKept(
            f"the promise of {self._name}.start() was used where that service is not up. Pass it to a child of the "
            "target that added the service."
        )


TOKEN_BYTES = 16


def new_token() -> bytes:
    """A token that no other promise has: random bytes of this process, then a number.

    So those of siblings are next to one another in the store, and a commit writes a few pages instead of all.
    """
    global _process
    if not _process:
        _process = os.urandom(10)
    return _process + next(_numbers).to_bytes(6, "big")


def _forget_process() -> None:
    global _process
    _process = b""


os.register_at_fork(after_in_child=_forget_process)


def restore(token: bytes, path: tuple[Any, ...], name: str) -> Any:
    """What a pickled promise becomes: the value if it is at hand, else the promise again."""
    load = _kept.get(token)
    if load is None:
        return Promise(token, path, name)
    if token in _loading:
        raise PromiseNotKept(
            f"the value that {name}.run() returned leads back to itself: it holds a promise of another target, whose "
            f"value holds, perhaps by way of others, the promise of {name}. One of them must return plain data."
        )
    _loading.add(token)
    try:
        value = load()
    finally:
        _loading.discard(token)
    for key in path:
        try:
            value = value[key]
        except (LookupError, TypeError) as error:
            raise PromiseNotKept(
                f"{name}.run() returned a {type(value).__name__}, from which rv({key!r}) cannot pick: {error!r}"
            ) from None
    return value


Id = tuple[bytes, tuple[Any, ...], str]

_addresses: dict[int, tuple[Any, Id]] = {}
"""The addresses that were given to the target that is running, by identity, and how their promises are stored."""


def restore_address(token: bytes, path: tuple[Any, ...], name: str) -> Any:
    """The same for what a service promises."""
    value = restore(token, path, name)
    if isinstance(value, Promise):
        return Address(token, path, name)
    if _is_ones_own(value):
        _addresses[id(value)] = value, (token, path, name)
    return value


def _is_ones_own(value: Any) -> bool:
    """Whether an object cannot be changed, and is no other one that happens to be equal."""
    if isinstance(value, (str, bytes, tuple)):
        return len(value) > 1
    return type(value) is float or (type(value) is int and not -10 <= value <= 1000)


def forget_addresses() -> None:
    """Another target is about to be read."""
    _addresses.clear()


def has_addresses() -> bool:
    """Whether the target that is running was given any."""
    return bool(_addresses)


def address_of(value: Any) -> Optional[Id]:
    """How the promise is stored that has become this object; None if none has. It is mentioned then."""
    found = _addresses.get(id(value))
    if found is None:
        return None
    if _mentioned is not None:
        _mentioned.add(found[1][0])
    return found[1]


def set_kept(kept: dict[bytes, Callable[[], Any]]) -> None:
    """The values that promises become while the next pickle is read; each is loaded when it is asked for."""
    global _kept
    _kept = kept


def set_mentioned(mentioned: Optional[set[bytes]]) -> None:
    """Where the tokens of promises go while the next pickle is made."""
    global _mentioned
    _mentioned = mentioned
