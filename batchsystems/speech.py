"""What can be said to a scheduler: one interface, which each scheduler's own dialogue fills in. No decisions.

Nothing here waits: what is said is a `Lane`, at the end of which there will be an answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Optional, Protocol

from batchsystems.abstract import Submission
from batchsystems.array_jobs import Array, Job
from batchsystems.commands import Answer
from batchsystems.scheduled import Line, Refusal


class Lane(Protocol):
    """Something that was said, and to which there will be an answer: a command, or a question to a session."""

    began: float

    @property
    def deadline(self) -> float:
        """When it is given up, on the monotonic clock."""

    def fileno(self) -> int:
        """Readable when there may be an answer."""

    def answer(self) -> Optional[Answer]:
        """The answer, once."""

    def close(self) -> None:
        """Nobody wants to know any more."""


class Speech(ABC):
    """How one scheduler is told things, and how its answers are read."""

    @abstractmethod
    def indices(self, jobs: Sequence[Job]) -> dict[int, Job]:
        """The places of these in an array."""

    @abstractmethod
    def goes_with(self, first: Job, job: Job) -> bool:
        """Whether there is a place for a job in the array that another one begins."""

    @abstractmethod
    def submission(
        self, array: Array, jobs: Sequence[Job], tasks: Mapping[int, Submission]
    ) -> Optional[Lane]:
        """Submit an array; None if that cannot even be begun."""

    @abstractmethod
    def number(self, array: Array, answer: Answer) -> Optional[str]:
        """The number that an answer to a submission tells."""

    @abstractmethod
    def why_refused(self, status: Optional[int], words: str) -> Refusal:
        """What kind of refusal an answer is."""

    @abstractmethod
    def end(self, jobs: Sequence[Job]) -> None:
        """Have these ended at once, with `say_cancel`."""

    @abstractmethod
    def end_softly(self, jobs: Sequence[Job]) -> None:
        """Have those that wait removed, and SIGTERM sent to those that run."""

    @abstractmethod
    def question(self, runs: Sequence[str]) -> Optional[Lane]:
        """Ask for all jobs of these runs."""

    @abstractmethod
    def read_queue(self, answer: Answer) -> Optional[list[Line]]:
        """What the answer says; None: it is not complete."""

    @abstractmethod
    def account_questions(self, arrays: Sequence[Array]) -> list[Any]:
        """What is to be asked about arrays that the queue does not know, one thing after the other."""

    @abstractmethod
    def account_question(self, what: Any) -> Optional[Lane]:
        """Ask one of those."""

    @abstractmethod
    def read_accounts(self, answer: Answer) -> Optional[list[Line]]:
        """What the answer says; None: nobody could be asked."""
