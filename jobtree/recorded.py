"""What a target has recorded, for the code that stores it and for the worker that runs it; users have no need of it.

Everything is in the target's dictionary (see ``jobtree.target``).
"""

from __future__ import annotations

from typing import Any, Optional


class Recorded:
    """What a target has recorded, for the code that stores it; users have no need of it."""

    __slots__ = ("_left", "_state")

    def __init__(self, target: Any) -> None:
        self._state: dict[str, Any] = target.__dict__
        self._left: Optional[_Left] = self._state.get("_jobtree_left")

    @property
    def request(self) -> tuple[Any, ...]:
        """Seconds, bytes and cores, None where it has not said; then the countable things, if there are any."""
        request: tuple[Any, ...] = self._state["_jobtree"]
        return request

    @property
    def token(self) -> Optional[bytes]:
        """That of the promise of what it returns, if anybody has asked for that."""
        return self._state.get("_jobtree_token")

    @property
    def children(self) -> list[Any]:
        """Its children, in the order in which they were added."""
        children: list[Any] = self._left.children if self._left else self._state.get("_jobtree_children", [])
        return children

    @property
    def services(self) -> list[Any]:
        """Its services."""
        services: list[Any] = self._left.services if self._left else self._state.get("_jobtree_services", [])
        return services

    @property
    def follow_on(self) -> Optional[Any]:
        """Its follow-on."""
        return self._left.follow_on if self._left else self._state.get("_jobtree_follow_on")


class _Left:
    """What a target has left when its run() is over. It is not stored where the target is an attribute of another one.

    Children often hold their parent. Were its other children stored with it, in each of them, the cost of a target
    with n children would grow with the square of n.
    """

    __slots__ = ("children", "follow_on", "services")

    def __init__(self, children: list[Any], follow_on: Optional[Any], services: list[Any]) -> None:
        self.children = children
        self.follow_on = follow_on
        self.services = services

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()


def _nothing() -> None:
    """What is in a stored target in place of what it had left."""


def set_surroundings(target: Any, surroundings: Optional[Any]) -> None:
    """Give a target the worker's services for the time of its run(); None: the run is over.

    From then on what it has recorded is its outcome and no longer a part of it: see ``_Left``.
    """
    state = target.__dict__
    if surroundings is not None:
        state["_jobtree_surroundings"] = surroundings
        return
    state.pop("_jobtree_surroundings", None)
    state["_jobtree_left"] = _Left(
        state.pop("_jobtree_children", []),
        state.pop("_jobtree_follow_on", None),
        state.pop("_jobtree_services", []),
    )
