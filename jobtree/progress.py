"""How far the run is, while it goes on: a live line on a terminal and in a notebook, elsewhere a line of the log each
minute.

What must hold
  - The master does not wait for it: a thread of its own looks at what the master has in memory, four times a second at
    most, and nothing that goes wrong here reaches the master's loop.
  - Whatever else is printed appears above the live line, byte for byte as it was: logs, and what the user's script and
    its threads print. It goes through ``_Above``, which takes the line away, writes, and puts the line back.
  - ``kill -9`` leaves a terminal that works: no cursor is hidden, no mode is set, and the cursor waits at the beginning
    of the line, where the next prompt overwrites it.
  - A run in the background of a shell writes nothing of its own on the terminal.
  - In a notebook the line is an output of the cell, which is replaced, and in the end tells how the run has ended.
    IPython is used where it runs already, and imported nowhere else.
  - On a terminal the line is drawn with ``rich``, which takes 60 ms to import: only in the thread, only where there is
    a terminal, and not before the run has gone on for half a second. Most are over by then.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Optional, TextIO

from jobtree.outlook import Look, Outlook, Pace, in_words

if TYPE_CHECKING:
    from rich.console import Console

log: logging.Logger = logging.getLogger("jobtree")

_FIRST_SECONDS = 0.5
_LIVE_SECONDS = 0.25
_CELL_SECONDS = 1.0
"""Between two in a notebook, which keeps what it is sent for each browser."""

_PLAIN_SECONDS = 60.0
"""Between two lines of the log."""

_TAKE_AWAY = "\r\x1b[2K"
"""To the beginning of the line, and erase it."""

_COLUMNS = 80
"""Of a terminal that does not say."""

_PATIENCE_SECONDS = 2.0
"""So long the end of a run waits for a terminal that takes nothing (Ctrl-S)."""


class Progress:
    """Shows how far a run is while it is entered. silent: not at all (--noProgress)."""

    def __init__(self, outlook: Outlook, silent: bool) -> None:
        self._outlook = outlook
        self._silent = silent
        self._ending = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._pace: Optional[Pace] = None
        self._cell: Any = None
        """IPython's handle of the output that is replaced."""

    def __enter__(self) -> Progress:
        if not self._silent and log.isEnabledFor(logging.INFO):
            work = self._live if _is_terminal(sys.stderr) else self._plain
            pace = Pace(self._outlook.look())
            display = _display_of_a_notebook()
            if display is not None:
                work = self._in_cell
                self._cell = display(self._shown(pace), raw=True, display_id=True)
            self._pace = pace
            self._thread = threading.Thread(target=work, args=(pace,), name="jobtree-progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join(_PATIENCE_SECONDS)
        if self._cell is not None and self._pace is not None:
            self._cell.update(self._shown(self._pace), raw=True)

    def _plain(self, pace: Pace) -> None:
        while not self._ending.wait(_PLAIN_SECONDS):
            log.info("Progress: %s", in_words(self._look(pace), pace))

    def _live(self, pace: Pace) -> None:
        if self._ending.wait(_FIRST_SECONDS):
            return
        line = LiveLine(sys.stderr)
        line.open()
        try:
            while True:
                line.show(in_words(self._look(pace), pace))
                if self._ending.wait(_LIVE_SECONDS):
                    return
        except (OSError, ValueError):
            pass  # the terminal is gone: nobody looks
        finally:
            line.close()

    def _in_cell(self, pace: Pace) -> None:
        while not self._ending.wait(_CELL_SECONDS):
            self._cell.update(self._shown(pace), raw=True)

    def _shown(self, pace: Pace) -> dict[str, str]:
        return {"text/plain": in_words(self._look(pace), pace)}

    def _look(self, pace: Pace) -> Look:
        look = self._outlook.look()
        pace.add(look)
        return look


def _display_of_a_notebook() -> Any:
    """IPython's function that shows something in a cell; None where this process is no notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if getattr(shell, "kernel", None) is None:
        return None
    return importlib.import_module("IPython.display").display


def _is_terminal(stream: Optional[TextIO]) -> bool:
    """Whether it is one on which a line can be taken back."""
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "")
    except ValueError:
        return False  # it is closed


class LiveLine:
    """The last line of a terminal, which is shown anew again and again below everything that is printed meanwhile."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self.lock: threading.RLock = threading.RLock()
        self.drawn: bool = False
        self._stream = stream
        self._console: Console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._rendered = ""
        self._beginning = True
        self._put_back: list[tuple[Any, str, Any]] = []

    def open(self) -> None:
        """From now on what is printed to terminals goes through us."""
        with self.lock:
            above = {
                id(stream): _Above(stream, self)
                for stream in (sys.stdout, sys.stderr)
                if _is_terminal(stream)
            }
            places: list[tuple[Any, str]] = [(sys, "stdout"), (sys, "stderr")]
            for name in ("", "jobtree"):
                handlers = logging.getLogger(name).handlers
                places += [(handler, "stream") for handler in handlers if hasattr(handler, "stream")]
            for owner, name in places:
                stream = getattr(owner, name)
                if id(stream) in above:
                    self._put_back.append((owner, name, stream))
                    setattr(owner, name, above[id(stream)])

    def close(self) -> None:
        """Take the line away, and let everybody print as before."""
        with self.lock:
            for owner, name, stream in self._put_back:
                if isinstance(getattr(owner, name), _Above):
                    setattr(owner, name, stream)
            self._put_back.clear()
            try:
                if self.drawn:
                    self._write(self._stream, _TAKE_AWAY)
            except (OSError, ValueError):
                pass  # the terminal is gone
            self.drawn = False

    def show(self, text: str) -> None:
        """Show this. Raises OSError or ValueError when the terminal is gone."""
        rendered = self._render(text)
        with self.lock:
            as_it_was = self.drawn and rendered == self._rendered
            self._rendered = rendered
            self.drawn = self._beginning and self._in_foreground()
            if self.drawn and not as_it_was:
                self._write(self._stream, _TAKE_AWAY + rendered)

    def print_above(self, stream: TextIO, text: str) -> int:
        """Print what somebody else has to say."""
        with self.lock:
            before = _TAKE_AWAY if self.drawn else ""
            self._beginning = text.endswith("\n") if text else self._beginning
            # With the line put back in the same write nothing flickers.
            self.drawn = self._beginning and bool(self._rendered) and self._in_foreground()
            self._write(stream, before + text + (self._rendered if self.drawn else ""))
            return len(text)

    def _render(self, text: str) -> str:
        with self._console.capture() as captured:
            # One cell is left free: in the last one some terminals begin a new line.
            width = max(1, self._columns() - 1)
            self._console.print(_styled(text), end="", no_wrap=True, overflow="crop", crop=True, width=width)
        return captured.get() + "\r"

    def _write(self, stream: TextIO, text: str) -> None:
        stream.write(text)
        stream.flush()

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or _COLUMNS
        except OSError:
            return _COLUMNS

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._stream.fileno()) == os.getpgrp()
        except OSError:
            return True  # it is a terminal without jobs: no shell is behind it


class _Above:
    """A stream that writes above the live line; everything else is as the stream has it."""

    def __init__(self, stream: TextIO, line: LiveLine) -> None:
        self._above_stream = stream
        self._above_line = line

    def write(self, text: str) -> int:
        """Write it, at once."""
        return self._above_line.print_above(self._above_stream, text)

    def writelines(self, lines: Any) -> None:
        """Write them, at once."""
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._above_stream, name)


def _styled(text: str) -> Any:
    from rich.text import Text

    styled = Text(text)
    styled.highlight_regex(r"^\d+ done", "green")
    styled.highlight_regex(r"\b[1-9]\d* failed", "bold red")
    styled.highlight_regex(r"paused.*", "yellow")
    return styled
