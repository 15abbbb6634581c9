"""The small functions that pipelines written for the original import from ``jobTree.src.bioio``.

Running commands, temporary files, logging and a few odds and ends; what reads and
writes sequences is in `jobtree.sequences` and can be imported from here too. New
pipelines rarely need any of this: `subprocess`, `tempfile` and `logging` do it.
"""

from __future__ import annotations

import logging
import optparse
import os
import random
import shutil
import string
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Callable, Optional

from jobtree.logging_setup import add_log_file, level_name, set_level, set_up_logging
from jobtree.options import LOGGING, add_logging_options, settings_from
from jobtree.sequences import (
    AlignmentOperation,
    PairwiseAlignment,
    cigarRead,
    cigarReadFromString,
    cigarWrite,
    fastaRead,
    fastaReadHeaders,
    fastaWrite,
    fastqRead,
    fastqWrite,
    reverseComplement,
    reverseComplementChar,
)

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

#: The root logger: what a target logs goes to its log, what the script logs to where the run logs.
logger: logging.Logger = logging.getLogger()


# -- logging ---------------------------------------------------------------------------------------------


def addLoggingOptions(parser: object) -> None:
    """Add --logLevel, --logFile and the other logging options to a parser of argparse or optparse."""
    add_logging_options(parser)


def setLoggingFromOptions(options: object) -> None:
    """Apply the logging options of parsed options.

    Raises ValueError for a level that does not exist, OSError if the log file cannot be opened.
    """
    set_up_logging(settings_from(options, [LOGGING]), sys.stderr)


def setLogLevel(logLevel: str) -> None:
    """Set the level by name: OFF, CRITICAL, ERROR, WARNING, INFO or DEBUG; ValueError for another."""
    set_level(logLevel)


def getLogLevelString() -> str:
    """The level's name for another program's --logLevel: CRITICAL, INFO or DEBUG."""
    return level_name()


def addLoggingFileHandler(fileName: str, rotatingLogging: bool = False) -> None:
    """Log to this file as well; rotatingLogging keeps it small."""
    add_log_file(fileName, rotatingLogging)


def logFile(fileName: str, printFunction: Callable[[str], object] = logger.info) -> None:
    """Log the lines of a file, each with the file's name in front."""
    printFunction(f"Reporting file: {fileName}")
    name = os.path.basename(fileName)
    with open(fileName, errors="replace") as lines:
        for line in lines:
            printFunction(f"{name}:\t{line.rstrip(os.linesep)}")


def getBasicOptionParser(
    usage: str = "usage: %prog [options]",
    version: str = "%prog 0.1",
    parser: Optional[optparse.OptionParser] = None,
) -> optparse.OptionParser:
    """An optparse parser, new or the given one, with the logging options and --tempDirRoot."""
    if parser is None:
        parser = optparse.OptionParser(usage=usage, version=version)
    addLoggingOptions(parser)
    parser.add_option(
        "--tempDirRoot",
        dest="tempDirRoot",
        default=os.getcwd(),
        help="Where temporary directories are made; default: the working directory.",
    )
    return parser


def parseBasicOptions(parser: optparse.OptionParser) -> tuple[optparse.Values, list[str]]:
    """Parse the command line with a parser of `getBasicOptionParser`, and apply its logging options."""
    options, arguments = parser.parse_args()
    setLoggingFromOptions(options)
    return options, arguments


# -- commands --------------------------------------------------------------------------------------------


def system(command: str) -> int:
    """Run a command line with /bin/sh. Returns 0.

    Raises RuntimeError if it exits with another status; a negative one is the signal that ended it.
    """
    logger.debug("Running the command: %s", command)
    status = subprocess.call(command, shell=True)
    if status != 0:
        raise RuntimeError(f"Command: {command} exited with non-zero status {status}")
    return status


def popenCatch(command: str, stdinString: Optional[str] = None) -> str:
    """Run a command line with /bin/sh, give it stdinString, and return what it prints, as text.

    Raises RuntimeError if it exits with a status other than 0.
    """
    logger.debug("Running the command: %s", command)
    ended = subprocess.run(command, shell=True, input=stdinString, stdout=subprocess.PIPE, text=True)
    if ended.returncode != 0:
        given = "" if stdinString is None else f" with stdin string {stdinString!r}"
        raise RuntimeError(f"Command: {command}{given} exited with non-zero status {ended.returncode}")
    return ended.stdout


def nameValue(
    name: str, value: object, valueType: Callable[[Any], object] = str, quotes: bool = False
) -> str:
    """An option for a command line: ``--name value``, ``--name`` for a true bool, or nothing.

    >>> nameValue("size", 4), nameValue("fast", True, bool), nameValue("name", None)
    ('--size 4', '--fast', '')
    """
    if valueType is bool:
        return f"--{name}" if value else ""
    if value is None:
        return ""
    return f"--{name} '{valueType(value)}'" if quotes else f"--{name} {valueType(value)}"


# -- files -----------------------------------------------------------------------------------------------


def absSymPath(path: str) -> str:
    """The absolute path, with symbolic links left as they are."""
    return os.path.abspath(path)


def workflowRootPath() -> str:
    """The directory that holds the jobtree package."""
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def isNewer(firstFile: str, secondFile: str) -> bool:
    """Whether the first file was changed after the second (by ctime); OSError if one is missing."""
    return os.path.getctime(firstFile) > os.path.getctime(secondFile)


def catFiles(filesToCat: Sequence[str], catFile: str) -> None:
    """Write the contents of files, one after the other, to catFile, which is replaced."""
    with open(catFile, "wb") as whole:
        for path in filesToCat:
            with open(path, "rb") as part:
                shutil.copyfileobj(part, whole)


def prettyXml(elem: Element) -> str:
    """An ElementTree element as indented XML."""
    # Few pipelines need it, and the XML modules would slow down the start of every worker of all others.
    import xml.dom.minidom
    import xml.etree.ElementTree

    return xml.dom.minidom.parseString(xml.etree.ElementTree.tostring(elem, "utf-8")).toprettyxml(indent="  ")


def getRandomAlphaNumericString(length: int = 10) -> str:
    """Random digits and letters, from `random`."""
    return "".join(random.choice(string.digits + string.ascii_letters) for _ in range(length))


def getTempFile(suffix: str = "", rootDir: Optional[str] = None) -> str:
    """The path of a new empty file in rootDir, or in the system's place; you remove it."""
    if rootDir is None:
        handle, path = tempfile.mkstemp(suffix)
        os.close(handle)
        return path
    while True:
        path = os.path.join(rootDir, _temporary_name() + suffix)
        try:
            # Not mkstemp: the targets of a pipeline may run under several accounts, and the umask decides.
            with open(path, "x"):
                return path
        except FileExistsError:
            continue


def getTempDirectory(rootDir: Optional[str] = None) -> str:
    """The path of a new directory in rootDir (made if need be), or in the system's place; you remove it."""
    if rootDir is None:
        return tempfile.mkdtemp()
    os.makedirs(rootDir, exist_ok=True)
    while True:
        path = os.path.join(rootDir, _temporary_name())
        try:
            os.mkdir(path)
            return path
        except FileExistsError:
            continue


def _temporary_name() -> str:
    # Not from `random`: targets with the same seed would try the same names.
    return "tmp_" + os.urandom(8).hex()


class TempFileTree:
    """Any number of temporary files under rootDir, with at most filesPerDir in a directory.

    rootDir is made if it does not exist; what it holds already counts. There can be filesPerDir ** levels files.
    """

    def __init__(self, rootDir: str, filesPerDir: int = 500, levels: int = 3) -> None:
        if filesPerDir < 1 or levels < 1:
            raise ValueError(
                f"filesPerDir and levels must be 1 or more, and {filesPerDir} and {levels} were given"
            )
        os.makedirs(rootDir, exist_ok=True)
        self.rootDir = rootDir
        self.filesPerDir = filesPerDir
        self.levelNo = levels
        self.tempFilesCreated: int = 0
        self.tempFilesDestroyed: int = 0
        # The directory of files that is being filled: a path of directory numbers.
        self._numbers: list[int] = [0] * (levels - 1)

    def getTempFile(self, suffix: str = "", makeDir: bool = False) -> str:
        """The path of a new file (or directory); RuntimeError when the tree is full."""
        directory = self._directory_with_room()
        self.tempFilesCreated += 1
        return getTempDirectory(directory) if makeDir else getTempFile(suffix, directory)

    def getTempDirectory(self) -> str:
        """The path of a new directory; RuntimeError when the tree is full."""
        return self.getTempFile(makeDir=True)

    def destroyTempFile(self, tempFile: str) -> None:
        """Remove a file of this tree; ValueError if it is not in it."""
        self._check_inside(tempFile)
        os.remove(tempFile)
        self._destroyed(tempFile)

    def destroyTempDir(self, tempDir: str) -> None:
        """Remove a directory of this tree and all that is in it; ValueError if it is not in the tree."""
        self._check_inside(tempDir)
        shutil.rmtree(tempDir)
        self._destroyed(tempDir)

    def listFiles(self) -> list[str]:
        """The paths of all files and directories that were made."""
        return self._files_below(self.rootDir, self.levelNo - 1)

    def destroyTempFiles(self) -> None:
        """Remove the whole tree, rootDir too."""
        shutil.rmtree(self.rootDir)
        logger.debug(
            "Temp files created: %s, temp files actively destroyed: %s",
            self.tempFilesCreated,
            self.tempFilesDestroyed,
        )

    def _files_below(self, directory: str, levels: int) -> list[str]:
        paths = [os.path.join(directory, name) for name in sorted(os.listdir(directory))]
        if levels == 0:
            return paths
        return [file for path in paths for file in self._files_below(path, levels - 1)]

    def _directory_with_room(self) -> str:
        while True:
            directory = os.path.join(self.rootDir, *(f"dir_{number:06d}" for number in self._numbers))
            os.makedirs(directory, exist_ok=True)
            if len(os.listdir(directory)) < self.filesPerDir:
                return directory
            self._go_to_next_directory()

    def _go_to_next_directory(self) -> None:
        for level in reversed(range(len(self._numbers))):
            if self._numbers[level] + 1 < self.filesPerDir:
                self._numbers[level:] = [self._numbers[level] + 1] + [0] * (len(self._numbers) - level - 1)
                return
        raise RuntimeError(f"there is no room for another temporary file below {self.rootDir}")

    def _check_inside(self, path: str) -> None:
        root = os.path.abspath(self.rootDir)
        if os.path.commonpath((root, os.path.abspath(path))) != root or os.path.abspath(path) == root:
            raise ValueError(f"{path} is not in the temporary file tree {self.rootDir}")

    def _destroyed(self, path: str) -> None:
        self.tempFilesDestroyed += 1
        directory = os.path.dirname(os.path.abspath(path))
        while directory != os.path.abspath(self.rootDir) and not os.listdir(directory):
            os.rmdir(directory)
            directory = os.path.dirname(directory)


__all__ = [
    "AlignmentOperation",
    "PairwiseAlignment",
    "TempFileTree",
    "absSymPath",
    "addLoggingFileHandler",
    "addLoggingOptions",
    "catFiles",
    "cigarRead",
    "cigarReadFromString",
    "cigarWrite",
    "fastaRead",
    "fastaReadHeaders",
    "fastaWrite",
    "fastqRead",
    "fastqWrite",
    "getBasicOptionParser",
    "getLogLevelString",
    "getRandomAlphaNumericString",
    "getTempDirectory",
    "getTempFile",
    "isNewer",
    "logFile",
    "logger",
    "nameValue",
    "parseBasicOptions",
    "popenCatch",
    "prettyXml",
    "reverseComplement",
    "reverseComplementChar",
    "setLogLevel",
    "setLoggingFromOptions",
    "system",
    "workflowRootPath",
]
