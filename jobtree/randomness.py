"""Fresh random numbers for every attempt, at the cost of two draws where nobody has touched the generator.

Workers are forked and run many targets, so the state of ``random``, and of NumPy's generator if that is loaded, must
be made fresh for each attempt: two workers would otherwise draw the same numbers, and a target that calls
``random.seed(1)`` would decide what the next one draws.

Seeding costs as much as a small target (5 us). So beside each of the two there is a generator of our own in the same
state, its *shadow*. Before an attempt both draw 64 bits. If these are equal, nobody has drawn or seeded since, and the
state is as fresh as it was: what the next attempt draws was never drawn by another one. If not, both are seeded anew.
Two states that differ and agree in these 64 bits are as likely as any other coincidence of that size. A target that
draws and afterwards puts the very state back that it had found hands its numbers on; seeding, drawing or setting any
other state does not.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Optional

_shadow: Optional[Any] = None
_numpy_shadow: Optional[Any] = None


def make_fresh() -> None:
    """Give ``random``, and NumPy's generator if it is loaded, a state that no other attempt had."""
    global _shadow, _numpy_shadow
    if "random" in sys.modules:
        import random

        # The object behind random.random() and its kin, whatever a target has put in the place of those names.
        theirs = random._inst
        if _shadow is None or theirs.getrandbits(64) != _shadow.getrandbits(64):
            if _shadow is None:
                _shadow = random.Random()
            number = int.from_bytes(os.urandom(16), "little")
            theirs.seed(number)
            _shadow.seed(number)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is None:
        return
    if _numpy_shadow is None or numpy_random.bytes(8) != _numpy_shadow.bytes(8):
        if _numpy_shadow is None:
            _numpy_shadow = numpy_random.RandomState()
        words = [int.from_bytes(os.urandom(4), "little") for _ in range(4)]
        numpy_random.seed(words)
        _numpy_shadow.seed(words)
