"""Settings of the tests that draw their own examples.

The profile "ci", which setup.cfg chooses, draws the same examples in every run. With JOBTREE_TEST_PROFILE=long in the
environment it draws new ones, and many more of them: for a night. A failure prints what reproduces it.
"""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]

if os.environ.get("JOBTREE_TEST_PROFILE") == "long":
    settings.register_profile(
        "ci",
        max_examples=5000,
        stateful_step_count=150,
        deadline=None,
        print_blob=True,
        suppress_health_check=_SLOW,
    )
else:
    settings.register_profile(
        "ci", max_examples=60, stateful_step_count=40, deadline=None, print_blob=True, derandomize=True, database=None,
        suppress_health_check=_SLOW,
    )  # fmt: skip


def pytest_configure() -> None:
    """Let what the tests start be stopped by signals: nohup and background shells hand them on as ignored."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
