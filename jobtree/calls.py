"""Whether a function can be called with what a target gives it: asked where it is added, which is where the mistake is.

Asked of every function that is added, so the answer must cost next to nothing when it is yes.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional

from jobtree.errors import TargetError

_TAKES_ANY = 0x04 | 0x08
"""The flags of code with *args or **kwargs: CO_VARARGS and CO_VARKEYWORDS of inspect, which is slow to import."""


def check(
    name: str,
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Optional[Mapping[str, Any]],
    pass_target: bool,
) -> None:
    """Raise TargetError if the call is sure to fail; pass_target: the target itself comes first.

    Only functions written in Python are looked at: of other things that can be called, nobody knows what they take.
    """
    if not isinstance(fn, types.FunctionType) or fn.__code__.co_flags & _TAKES_ANY:
        return
    given, most = len(args) + pass_target, fn.__code__.co_argcount
    if not (kwargs or fn.__code__.co_kwonlyargcount) and most - len(fn.__defaults__ or ()) <= given <= most:
        return  # nearly always; the rest takes a hundred times as long
    import inspect

    signature = inspect.signature(fn, follow_wrapped=False)
    try:
        signature.bind(*((None,) if pass_target else ()), *args, **(kwargs or {}))
    except TypeError as error:
        hint = "addChildFn and setFollowOnFn pass only args and kwargs"
        if pass_target:
            hint = "addChildTargetFn, setFollowOnTargetFn and makeTargetFn pass the target itself first"
        raise TargetError(
            f"{name}{signature} cannot be called with what it is given: {error}. {hint}."
        ) from None
