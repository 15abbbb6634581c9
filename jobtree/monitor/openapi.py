"""The API described in OpenAPI 3.1: what is served at /api/v1/openapi.json, and what the answers are tested against."""

from __future__ import annotations

from typing import Any

from jobtree.version import VERSION

Schema = dict[str, Any]


def document() -> dict[str, Any]:
    """The whole of it."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "jobTreeMonitor",
            "version": VERSION,
            "summary": "How far job trees are, and what can be done about it.",
            "description": (
                "Times are seconds since 1970, durations seconds, memory bytes. Jobs have names like 17-3. Every text "
                "is plain: a name, a message or a log may hold anything, so show it as text."
            ),
        },
        "security": [{"header": []}, {"address": []}],
        "paths": _paths(),
        "components": {"schemas": _schemas(), "securitySchemes": _SECURITY},
    }


_SECURITY: Schema = {
    "header": {
        "type": "http",
        "scheme": "bearer",
        "description": "The token. The only way to change something.",
    },
    "address": {"type": "apiKey", "in": "query", "name": "token", "description": "The token, for reading."},
}
_JOB_NAME: Schema = {"type": "string", "pattern": "^[0-9]{1,9}-[0-9]{1,9}$", "examples": ["17-3"]}


def _paths() -> dict[str, Any]:
    of_tree = [_path("tree", {"type": "integer", "minimum": 1}, "The number of a tree.")]
    of_job = [*of_tree, _path("job", _JOB_NAME, "The name of a job.")]
    page = [_query("after", _JOB_NAME, "Only those after this one."), _limit(200)]
    below = _query("parent", _JOB_NAME, "The job above them; without it, the first job of the tree is given.")
    one = "/api/v1/trees/{tree}"
    return {
        "/api/v1/trees": _get("All trees, with how far each is.", _list("Summary")),
        one: _get("One tree: counts, classes, what runs, the first failures.", _ref("Overview"), of_tree),
        f"{one}/history": _get(
            "How many targets had succeeded when, as far as the monitor has looked, the oldest first.",
            _list("Point"),
            of_tree,
        ),
        f"{one}/running": _get(
            "What runs at this moment, the longest first; null if no master can tell.",
            {"anyOf": [_list("Running"), {"type": "null"}]},
            [*of_tree, _limit(200)],
        ),
        f"{one}/failed": _get(
            "Jobs that were given up, with their failures.", _list("Job"), [*of_tree, *page]
        ),
        f"{one}/jobs": _get(
            "The jobs just below one that are not done.", _list("Job"), [*of_tree, below, *page]
        ),
        f"{one}/jobs/{{job}}": _get(
            "One job, and why it is where it is, in words.", _ref("JobInFull"), of_job
        ),
        f"{one}/jobs/{{job}}/log": _get(
            "The end of what it has printed: the running attempt, or the last one that failed.",
            _ref("Log"),
            [*of_job, _query("most", _whole(1, 1 << 20), "So many bytes; 65536 unless told.")],
        ),
        "/api/v1/events": {
            "get": {
                "summary": "Server-sent events, for as long as the connection lasts: `trees` with what /api/v1/trees "
                "tells, `tree` with what /api/v1/trees/{tree} tells, each after every look.",
                "parameters": [
                    _query("tree", {"type": "integer", "minimum": 1}, "Which one; the first unless told.")
                ],
                "responses": {
                    "200": {"description": "A stream.", "content": {"text/event-stream": {}}},
                    **_refusals("400", "401", "403", "404"),
                },
            }
        },
        **_orders(one, of_tree, of_job),
        "/api/v1/openapi.json": _get("This document.", {"type": "object"}),
        "/metrics": {
            "get": {
                "summary": "Metrics for Prometheus.",
                "responses": {
                    "200": {
                        "description": "Text.",
                        "content": {"text/plain": {"schema": {"type": "string"}}},
                    },
                    **_refusals("400", "401", "403"),
                },
            }
        },
    }


def _orders(one: str, of_tree: list[Schema], of_job: list[Schema]) -> dict[str, Any]:
    return {
        f"{one}/retry": _post("Try all failed jobs again.", "EmptyOrder", of_tree),
        f"{one}/pause": _post(
            "Start nothing any more, over restarts too; what runs goes on.", "EmptyOrder", of_tree
        ),
        f"{one}/goOn": _post("End the pause.", "EmptyOrder", of_tree),
        f"{one}/jobs/{{job}}/retry": _post(
            "Try a failed job again. attempt: the one that was seen to have failed.", "Order", of_job
        ),
        f"{one}/jobs/{{job}}/kill": _post(
            "End the worker in which a job is running, which counts as a failed try. attempt: the one that was seen.",
            "Order",
            of_job,
        ),
        f"{one}/jobs/{{job}}/forget": _post(
            "Take a job out of the tree with everything below it, as if it had never been added.",
            "EmptyOrder",
            of_job,
        ),
    }


def _get(summary: str, answer: Schema, parameters: list[Schema] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": {"description": "The answer.", "content": {"application/json": {"schema": answer}}},
            **_refusals("400", "401", "403", *(("404", "503") if parameters else ())),
        },
    }
    if parameters:
        found["parameters"] = parameters
    return {"get": found}


def _post(summary: str, order: str, parameters: list[Schema]) -> dict[str, Any]:
    """An order, which wants the token in the header."""
    found = _get(summary, _ref("Answer"), parameters)["get"]
    found["description"] = (
        "A request to the master of the tree. done: whether it was; words: what was done, or why not. If no master "
        "runs, or it does not answer in ten seconds, the request stays, and it or the next one obeys."
    )
    found["responses"].update(_refusals("408", "413"))
    found["requestBody"] = {"content": {"application/json": {"schema": _ref(order)}}}
    found["security"] = [{"header": []}]
    return {"post": found}


def _refusals(*codes: str) -> dict[str, Any]:
    words = {
        "400": "The question is none.",
        "401": "The token is missing or wrong.",
        "403": "Another site has asked, or another host was meant.",
        "404": "There is no such tree or job.",
        "408": "The order did not come to its end.",
        "413": "The order is too long, or does not say how long it is.",
        "503": "The tree cannot be read just now.",
    }
    content = {"application/json": {"schema": _ref("Error")}}
    return {code: {"description": words[code], "content": content} for code in sorted(codes)}


def _path(name: str, schema: Schema, words: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": words}


def _query(name: str, schema: Schema, words: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": words}


def _limit(most: int) -> Schema:
    return _query("limit", _whole(1, most), "So many at most.")


def _whole(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


# -- schemas ---------------------------------------------------------------------------------------------------


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(name: str) -> Schema:
    return {"type": "array", "items": _ref(name)}


_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": "number"}
_FLAG: Schema = {"type": "boolean"}


def _maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(**properties: Schema) -> Schema:
    """An object that has at least these."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _schemas() -> dict[str, Schema]:
    states = ("ready", "issued", "blocked", "failed", "done")
    state = {"type": "string", "enum": ["running", "complete", "failed", "stopped", "interrupted"]}
    counts = _object(**dict.fromkeys(states, _COUNT))
    summary = {
        "tree": {"type": "integer", "minimum": 1},
        "name": _TEXT,
        "directory": _TEXT,
        "time": _maybe(_NUMBER),
        "state": _maybe(state),
        "counts": _maybe(_ref("Counts")),
        "rate": _maybe(_NUMBER),
        "time_left": _maybe(_NUMBER),
        "trouble": _maybe(_TEXT),
    }
    job = {
        "job": _JOB_NAME,
        "parent": _maybe(_JOB_NAME),
        "class": _TEXT,
        "state": {"type": "string", "enum": list(states[:4])},
        "attempt": _COUNT,
        "pending": _COUNT,
        "failure": _maybe(_ref("Failure")),
    }
    return {
        "Error": _object(error=_TEXT),
        "Counts": counts,
        "Class": _object(
            name=_TEXT, counts=_ref("Counts"), succeeded=_COUNT, failures=_COUNT, wall=_NUMBER, cpu_time=_NUMBER,
            wall_min=_maybe(_NUMBER), wall_max=_NUMBER, memory_max=_COUNT,
        ),
        "Running": _object(
            job=_JOB_NAME, attempt=_COUNT, name=_TEXT, bundle=_TEXT, host=_TEXT, seconds=_NUMBER, backend=_TEXT,
            log_start=_COUNT, fraction=_maybe(_NUMBER), words=_TEXT, silent=_NUMBER, hung=_FLAG,
        ),
        "Failed": _object(
            job=_JOB_NAME, attempt=_COUNT, reason=_maybe(_TEXT), message=_TEXT, host=_maybe(_TEXT),
            time=_maybe(_NUMBER), **{"class": _TEXT},
        ),
        "Failure": _object(
            job=_JOB_NAME, attempt=_COUNT, reason=_TEXT, message=_TEXT, traceback=_TEXT, output=_TEXT,
            log=_maybe(_TEXT), log_start=_COUNT, log_end=_COUNT, host=_maybe(_TEXT), bundle=_maybe(_TEXT),
            time=_NUMBER, **{"class": _TEXT},
        ),
        "Point": _object(
            time=_NUMBER, succeeded=_COUNT, failures=_COUNT, busy=_maybe(_COUNT),
            hosts={"type": "object", "additionalProperties": _COUNT},
        ),
        "Summary": _object(**summary),
        "Overview": _object(
            **summary,
            master=_maybe(_object(host=_TEXT, pid=_COUNT, started=_NUMBER)),
            paused=_maybe(_TEXT),
            slots=_object(busy=_maybe(_COUNT), most=_maybe(_NUMBER)),
            classes=_list("Class"),
            running=_maybe(_list("Running")),
            running_more=_COUNT,
            failed=_list("Failed"),
            failed_more=_COUNT,
            point=_maybe(_ref("Point")),
        ),
        "Job": _object(**job),
        "JobInFull": _object(
            **job, why={"type": "array", "items": _TEXT}, children=_list("Job"), failed_below=_list("Job")
        ),
        "Answer": _object(done=_FLAG, words=_TEXT),
        "Order": {
            "type": "object",
            "properties": {"attempt": _maybe({"type": "integer", "minimum": 0, "maximum": (1 << 31) - 1})},
            "additionalProperties": False,
        },
        "EmptyOrder": {"type": "object", "additionalProperties": False},
        "Log": _object(job=_JOB_NAME, log=_maybe(_TEXT), start=_COUNT, end=_maybe(_COUNT), output=_TEXT),
    }  # fmt: skip
