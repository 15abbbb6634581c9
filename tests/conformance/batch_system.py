"""The contract of batch systems as tests: each clause of `AbstractBatchSystem`'s docstring is at least one.

A backend's test file subclasses `BatchSystemContract` and says in `make` how to make the backend, with at least two
cores; where jobs outlive the master, it adds `SchedulerContract`. Only plain assertions and the naming of test methods
are used, so any runner will do. Jobs are small shell scripts that show by files what they do, and tests wait for
those, never for time to pass.
"""

from __future__ import annotations

from tests.conformance.clauses_cancel import CancelContract, CloseContract, ListContract
from tests.conformance.clauses_issue import EndsContract, IssueContract
from tests.conformance.clauses_poll import LimitsContract, PollContract


class BatchSystemContract(
    IssueContract, EndsContract, PollContract, LimitsContract, CancelContract, ListContract, CloseContract
):
    """The whole contract. Subclass it as `Test...` and write `make`."""
