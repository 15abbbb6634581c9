"""Python's collector of cyclic garbage, while the master's loop runs.

It looks for garbage whenever 700 objects (2,000 from Python 3.14 on) have come and not gone. A turn of the loop makes
tens of thousands, rows and frames and changes, lets go of nearly all of them at its end, and leaves no cycles behind:
looking that often took a tenth of the master's CPU in a large fan-out, and found nothing.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

_OBJECTS = 10_000
"""What so many objects may hold back, if they are garbage, is a few megabytes."""


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Look for cyclic garbage more rarely inside; afterwards as before. Whoever has switched it off is left alone."""
    found = gc.get_threshold()
    if 0 < found[0] < _OBJECTS:
        gc.set_threshold(_OBJECTS, *found[1:])
    try:
        yield
    finally:
        gc.set_threshold(*found)
