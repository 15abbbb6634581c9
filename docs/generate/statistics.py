"""Make the output and the picture in docs/howto/statistics.md again, from a real run: part of `make pages`.

The transcript there is marked as those in the pages of examples are, and made in the same way (docs/examples/make.py).
Look at the picture afterwards.
"""

from __future__ import annotations

import runpy
import shutil
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
PAGE = DOCS / "howto" / "statistics.md"
PICTURE = DOCS / "images" / "statistics.svg"


def main() -> None:
    """Make both."""
    make = runpy.run_path(str(DOCS / "examples" / "make.py"))
    with tempfile.TemporaryDirectory() as directory:
        text = make["made_again"](PAGE.read_text(encoding="utf-8"), Path(directory))
        PAGE.write_text(text, encoding="utf-8")
        shutil.copyfile(Path(directory) / PICTURE.name, PICTURE)


if __name__ == "__main__":
    main()
