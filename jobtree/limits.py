"""How much may be promised to all running bundles together: --maxCpus, --maxMemory, --limit. Pure.

What must hold
  - Never more is promised than the limit says, of anything. Only of what is ``soft`` (cores and memory of a cluster)
    one bundle alone may have more: it could never run otherwise, and how large a machine is, is not ours to say.
  - Who asks for much is not starved by a stream of those who ask for little: it is overtaken so often, and then
    everybody who wants some of the same waits until it has been served. Of several such the first goes first, so they
    never wait for one another.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

OVERTAKEN = 16
"""So many bundles may pass one that waits for more than is free. A count and not a time: it is the same on a slow
machine."""


class _Waiting:
    __slots__ = ("asked", "overtaken")

    def __init__(self, asked: Mapping[str, float]) -> None:
        self.asked = asked
        self.overtaken = 0


class Limits:
    """most: how much there is, by name; of what is not named there is no end.

    >>> limits = Limits({"licence": 2})
    >>> limits.allows(7, {"licence": 1}, {"licence": 1}), limits.allows(7, {"licence": 1}, {"licence": 2})
    (True, False)
    """

    def __init__(self, most: Mapping[str, float], soft: Collection[str] = ()) -> None:
        self.most: dict[str, float] = dict(most)
        self._soft = frozenset(soft)
        self._waiting: dict[int, _Waiting] = {}

    def change(self, most: Mapping[str, float], soft: Collection[str]) -> None:
        """Other limits from now on; who waits goes on waiting in turn."""
        self.most, self._soft = dict(most), frozenset(soft)

    def lacks(self, asked: Mapping[str, float]) -> bool:
        """Whether more is asked for than there will ever be."""
        return any(n > self.most.get(name, n) for name, n in asked.items() if name not in self._soft)

    def allows(self, shape: int, asked: Mapping[str, float], promised: Mapping[str, float]) -> bool:
        """Whether a bundle of this shape may be made now. promised: what all running ones have."""
        wanted = {name for name, number in asked.items() if number and name in self.most}
        if any(self._is_over(name, asked[name], promised.get(name, 0)) for name in wanted):
            self._waiting.setdefault(shape, _Waiting(asked))
            return False
        for other, waiting in self._waiting.items():
            if other == shape:
                break  # those that began to wait later do not go first
            if waiting.overtaken >= OVERTAKEN and any(waiting.asked.get(name) for name in wanted):
                return False
        self._waiting.pop(shape, None)
        return True

    def made(self, asked: Mapping[str, float]) -> None:
        """A bundle was made that has this."""
        for waiting in self._waiting.values():
            if any(
                number and name in self.most and waiting.asked.get(name) for name, number in asked.items()
            ):
                waiting.overtaken += 1

    def keep(self, shapes: Collection[int]) -> None:
        """Only these shapes have jobs that wait."""
        for shape in [shape for shape in self._waiting if shape not in shapes]:
            del self._waiting[shape]

    def _is_over(self, name: str, asked: float, promised: float) -> bool:
        if promised + asked <= self.most[name] + 1e-9:  # thirds of a core add up to a little more than one
            return False
        return promised > 0 or name not in self._soft


def add(promised: dict[str, float], asked: Mapping[str, float]) -> None:
    """Put one more request on top of what is promised."""
    for name, number in asked.items():
        promised[name] = promised.get(name, 0) + number
