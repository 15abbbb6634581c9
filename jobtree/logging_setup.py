"""Where log records go, from the logging options of a run.

Two loggers matter. The root logger is the one that old pipelines log through
(``jobtree.bioio.logger``); without options it shows warnings and worse. The logger
"jobtree" carries the run's own news and shows INFO. A level that is asked for holds for both.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING, Final, Optional, TextIO

from jobtree.shown import shown

if TYPE_CHECKING:
    from jobtree.options import Settings  # workers only set the level, and need no parsers for that

#: A log file starts anew at this size with --rotatingLogging; one old file is kept.
ROTATE_AT_BYTES: Final = 1_000_000

#: A record with this attribute true is for log files: what is read on a terminal tells of it in fewer words.
FILES_ONLY: Final = "jobtree_files_only"

_JOBTREE: Final = "jobtree"

# What was added here, to be told from what the script has set up for itself.
_ours: list[logging.Handler] = []


class _Formatter(logging.Formatter):
    """The message alone, with a word in front of warnings and errors.

    Pipelines split lines like "Got message from job at time: 12.5 : hello" at
    fixed positions, so ordinary lines must not begin with anything else. What is not
    printable is escaped, in whatever the message names.
    """

    def format(self, record: logging.LogRecord) -> str:
        text = shown(super().format(record))
        return f"{record.levelname}: {text}" if record.levelno in (logging.WARNING, logging.ERROR) else text


class _Quiet(logging.Handler):
    """A handler that says once what the system said when a line could not be written, and shows no traceback.

    A log on a full disk is no reason to stop a run: what the run needs to have on disk is not in its log.
    """

    refused = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the name that logging calls
        """A line could not be written."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.refused:
            self.refused = True
            path = getattr(self, "baseFilename", None)
            if path is not None:
                text = (
                    f"WARNING: {path}: {error.strerror}. Lines of the log are missing there; the run goes on."
                )
                with contextlib.suppress(OSError):  # standard error may be on the same disk
                    print(text, file=sys.stderr, flush=True)


class _Stream(_Quiet, logging.StreamHandler):  # type: ignore[type-arg]
    """Standard error. Of lines that it does not take nobody can be told."""


class _File(_Quiet, logging.FileHandler):
    """A log file."""


def level_number(name: str) -> int:
    """The number of a level of `options.LOG_LEVELS`; "OFF" is CRITICAL, because a failure is always told.

    Raises ValueError for any other name.
    """
    name = name.upper()
    number = logging.CRITICAL if name == "OFF" else logging.getLevelName(name)
    if not isinstance(number, int) or name == "NOTSET":
        raise ValueError(
            f"{name!r} is no log level: OFF, CRITICAL, ERROR, WARNING, INFO or DEBUG is expected"
        )
    return number


def set_up_logging(settings: Settings, stream: Optional[TextIO]) -> None:
    """Apply the logging options: levels, *stream*, and the log file if there is one.

    May be called any number of times in a process, and the latest call counts. A script
    whose root logger writes to standard output or error already keeps exactly that
    handler and its format. None for *stream* adds no stream.

    Raises OSError when the log file cannot be opened.
    """
    root = logging.getLogger()
    take_down_logging()
    set_level(settings.effective_log_level)
    if stream is not None and not any(_writes_to(handler, stream) for handler in root.handlers):
        _add(_Stream(stream))
    for handler in root.handlers:
        if stream is not None and _writes_to(handler, stream):
            handler.addFilter(_is_for_people)  # adding it again does nothing
    if settings.log_file is not None:
        add_log_file(settings.log_file, settings.log_rotating)


def take_down_logging() -> None:
    """Take away the handlers that were added here: whoever logs in this process is alone again."""
    for handler in _ours:
        logging.getLogger().removeHandler(handler)
        handler.close()
    _ours.clear()


def set_level(name: Optional[str]) -> None:
    """Set both loggers to the level of that name; None means what holds without options."""
    if name is None:
        logging.getLogger().setLevel(logging.WARNING)
        logging.getLogger(_JOBTREE).setLevel(logging.INFO)
    else:
        logging.getLogger().setLevel(level_number(name))
        logging.getLogger(_JOBTREE).setLevel(logging.NOTSET)


def add_log_file(path: str, rotating: bool = False) -> None:
    """Log to the file at *path* too, at its end; does nothing if that is done already.

    With *rotating* it starts anew after `ROTATE_AT_BYTES` bytes, and the old one is kept as ``path.1``.
    Raises OSError when the file cannot be opened.
    """
    root = logging.getLogger()
    wanted = os.path.abspath(path)
    for handler in root.handlers:
        if isinstance(handler, logging.FileHandler) and handler.baseFilename == wanted:
            return
    if rotating:
        # Rarely wanted, and it brings in sockets and more, which would slow down the start of every worker.
        from logging.handlers import RotatingFileHandler

        class _RotatingFile(_Quiet, RotatingFileHandler):
            """A log file that starts anew when it gets too big."""

        file: logging.FileHandler = _RotatingFile(
            path, maxBytes=ROTATE_AT_BYTES, backupCount=1, encoding="utf-8"
        )
    else:
        file = _File(path, encoding="utf-8")
    _add(file)


def level_name() -> str:
    """The root logger's level as one of the names that old command lines know: CRITICAL, INFO or DEBUG."""
    level = logging.getLogger().level
    if level <= logging.DEBUG:
        return "DEBUG"
    return "INFO" if level <= logging.INFO else "CRITICAL"


def _add(handler: logging.Handler) -> None:
    handler.setFormatter(_Formatter())
    logging.getLogger().addHandler(handler)
    _ours.append(handler)


def _is_for_people(record: logging.LogRecord) -> bool:
    return not getattr(record, FILES_ONLY, False)


def _writes_to(handler: logging.Handler, stream: TextIO) -> bool:
    target = getattr(handler, "stream", None)
    return target is not None and target in (stream, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
