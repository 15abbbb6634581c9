"""The API against its own description: whatever is asked, in or out of order, the answer is one that is described."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import BaseSchema, Case, GenerationMode

from jobtree.monitor import openapi
from jobtree.paths import job_id
from tests.system.monitoring import Monitor, serving
from tests.unit.test_snapshot import Built

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: Who may ask is tested elsewhere, and all requests here have the token; so it is no part of what is varied.
DOCUMENT: dict[str, Any] = openapi.document()
del DOCUMENT["security"], DOCUMENT["components"]["securitySchemes"]
#: A stream has no end, and is tested by itself.
OPERATIONS = [
    (path, method)
    for path, methods in DOCUMENT["paths"].items()
    for method in methods
    if path != "/api/v1/events"
]


@pytest.fixture(scope="module")
def monitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitor]:
    directory = tmp_path_factory.mktemp("monitored")
    built = Built(directory / "tree")
    built.grow(*(("some.Child", 0) for _ in range(5)))
    built.issue(2, job_id(1, 1), job_id(1, 2))
    built.fail(job_id(1, 1), 1)
    built.commit()
    with serving(directory / "home", directory / "tree", every=60.0) as made:
        yield made
    built.store.close()


@pytest.fixture(scope="module")
def schema(monitor: Monitor) -> BaseSchema:
    made = schemathesis.openapi.from_dict(DOCUMENT)
    made.config.update(base_url=monitor.base)
    return made


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_answer_is_one_that_is_described(
    path: str, method: str, mode: GenerationMode, monitor: Monitor, schema: BaseSchema
) -> None:
    operation = schema[path][method]
    if mode is GenerationMode.NEGATIVE and "parameters" not in DOCUMENT["paths"][path][method]:
        return  # nothing can be said wrongly there

    @settings(max_examples=8, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def answers(case: Case) -> None:
        case.call_and_validate(headers={"authorization": f"Bearer {monitor.token}"})

    answers()


def test_the_description_is_the_one_that_is_served(monitor: Monitor) -> None:
    assert monitor.client.get("/api/v1/openapi.json").json() == openapi.document()
