"""Finding a DRMAA library, and what can be wrong with it, in words."""

from __future__ import annotations

import ctypes.util
import glob
import importlib.util
import os
from collections.abc import Mapping
from typing import Optional

from batchsystems.abstract import BatchSystemError

_PLACES = (
    "/usr/lib/gridengine-drmaa/lib/libdrmaa.so*", "/usr/lib/*/libdrmaa.so*", "/usr/lib64/libdrmaa.so*",
    "/usr/lib/libdrmaa.so*", "/usr/local/lib/libdrmaa.so*", "/opt/*/lib/libdrmaa.so*",
)  # fmt: skip
_STATIC_TLS_BYTES = 65536


def require_package() -> None:
    """Raises BatchSystemError if Python's package is not there."""
    if importlib.util.find_spec("drmaa") is None:
        raise BatchSystemError(
            "the Python package drmaa is not installed, which loads the library of the batch system. "
            "Install it where jobtree is: pip install 'jobtree[drmaa]'"
        )


def find(given: Optional[str], env: Mapping[str, str]) -> str:
    """The library: the one given, or the first that there is. Raises BatchSystemError."""
    named = given or env.get("DRMAA_LIBRARY_PATH")
    if named:
        if not os.path.isfile(named):
            whose = "--drmaaLibrary" if given else "DRMAA_LIBRARY_PATH"
            raise BatchSystemError(f"{whose} is {named}, and there is no such file; expected a libdrmaa.so")
        return os.path.abspath(named)
    places = [*_PLACES]
    if env.get("SGE_ROOT"):
        root = glob.escape(env["SGE_ROOT"])
        places[:0] = [f"{root}/lib/{env.get('SGE_ARCH', '*')}/libdrmaa.so*", f"{root}/lib/*/libdrmaa.so*"]
    for place in places:
        for path in sorted(glob.glob(place)):
            if os.path.isfile(path):
                return path
    usual = ctypes.util.find_library("drmaa")
    if usual is not None:
        return usual
    raise BatchSystemError(
        "no DRMAA library was found (libdrmaa.so: not in $SGE_ROOT/lib, nor in the usual places below /usr). It comes "
        "with Grid Engine (Debian: apt install gridengine-drmaa1.0), PBS Professional, LSF and HTCondor. Say where it "
        "is: --drmaaLibrary FILE, or export DRMAA_LIBRARY_PATH=FILE."
    )


def environment(library: str, env: Mapping[str, str]) -> dict[str, str]:
    """The environment of the process that loads it.

    Grid Engine's brings an allocator that wants room in what the C library keeps for libraries that are loaded late;
    it has too little by itself, and can be told only before a process starts.
    """
    room = f"glibc.rtld.optional_static_tls={_STATIC_TLS_BYTES}"
    given = env.get("GLIBC_TUNABLES", "")
    tunables = given if "optional_static_tls" in given else ":".join(filter(None, [given, room]))
    return {**env, "DRMAA_LIBRARY_PATH": library, "GLIBC_TUNABLES": tunables}


def explain(kind: str, words: str, library: str) -> str:
    """Why a session cannot be had, and what to do."""
    if "static TLS block" in words:
        return (
            f"the DRMAA library {library} cannot be loaded: {words}. Its allocator needs room that this C library "
            "does not give, also when asked to (GLIBC_TUNABLES=glibc.rtld.optional_static_tls=65536, glibc 2.32 and "
            "later). Preload the allocator: export LD_PRELOAD=FILE, with the file that the message names."
        )
    if kind in ("ImportError", "ModuleNotFoundError"):
        return (
            f"the Python package drmaa cannot be imported: {words}. Install it: pip install 'jobtree[drmaa]'"
        )
    if kind in ("OSError", "AttributeError"):
        return (
            f"{library} cannot be loaded as a DRMAA library: {words}. Expected a libdrmaa.so of DRMAA 1.0 for this "
            "kind of machine; --drmaaLibrary or DRMAA_LIBRARY_PATH says which one."
        )
    return (
        f"no session of DRMAA can be opened with {library}: {words} ({kind}). Start this where jobs can be submitted; "
        "Grid Engine needs SGE_ROOT and perhaps SGE_CELL and SGE_QMASTER_PORT, as its settings.sh exports them."
    )
