"""Batch systems: run this argument list with these resources under this name, and tell how it ended."""

from __future__ import annotations

from batchsystems.abstract import (
    AbstractBatchSystem,
    BackendOption,
    BatchSystemError,
    Capacity,
    End,
    EndKind,
    NeverFits,
    Reason,
    Resources,
    Setup,
    Submission,
)

__all__ = [
    "AbstractBatchSystem",
    "BackendOption",
    "BatchSystemError",
    "Capacity",
    "End",
    "EndKind",
    "NeverFits",
    "Reason",
    "Resources",
    "Setup",
    "Submission",
]
