"""The questions and orders and their answers as JSON, below /api/v1; jobtree.monitor.openapi describes them.

A question that is none gets 400 or 404 with a sentence; a tree that cannot be read just now 503. What a tree tells is
plain text in JSON, whatever it holds; nothing here makes markup of it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Sequence
from typing import Any, Callable, Optional

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from jobtree import steering_requests
from jobtree.errors import JobTreeError, NotAJobTree, UsageError
from jobtree.monitor import events, metrics, openapi, steering
from jobtree.monitor.overview import overview, point, summary
from jobtree.monitor.trees import WatchedTree
from jobtree.monitor.watching import Watch
from jobtree.paths import TreePaths, job_number
from jobtree.requests import Answer

_MOST_ROWS = 200
_MOST_LOG = 1 << 20
_BODY_SECONDS = 10.0


class Json(Response):
    """JSON in ASCII: names may hold what no encoding knows."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """As bytes."""
        return json.dumps(content).encode("ascii")


class Api:
    """Answers questions about the trees of a watch."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._trees = {str(tree.number): tree for tree in watch.trees}

    def routes(self) -> list[Route]:
        """What there is to ask."""
        one = "/api/v1/trees/{tree}"
        return [
            _reading("/api/v1/openapi.json", self._openapi),
            _reading("/api/v1/events", self._events, "tree"),
            _reading("/api/v1/trees", self._all),
            _reading(one, self._one),
            _reading(f"{one}/history", self._history),
            _reading(f"{one}/running", self._running, "limit"),
            _reading(f"{one}/failed", self._failed, "after", "limit"),
            _reading(f"{one}/jobs", self._below, "parent", "after", "limit"),
            _reading(f"{one}/jobs/{{job}}", self._job),
            _reading(f"{one}/jobs/{{job}}/log", self._log, "most"),
            _reading("/metrics", self._metrics),
            *(self._ordering(f"{one}/{name}", name) for name in steering.OF_RUN),
            *(self._ordering_of_job(f"{one}/jobs/{{job}}/{name}", name) for name in steering.OF_JOB),
        ]

    # -- as of the last look -------------------------------------------------------------------------------

    async def _openapi(self, request: Request) -> Response:
        return Json(openapi.document())

    async def _all(self, request: Request) -> Response:
        for tree in self._watch.trees:
            await self._watch.fresh(tree)
        return Json([events.told(self._watch, tree, summary(tree)) for tree in self._watch.trees])

    async def _one(self, request: Request) -> Response:
        tree = self._tree(request.path_params["tree"])
        await self._watch.fresh(tree)
        return Json(events.told(self._watch, tree, overview(tree)))

    async def _history(self, request: Request) -> Response:
        tree = self._tree(request.path_params["tree"])
        return Json([point(each) for each in tree.history.points])

    async def _events(self, request: Request) -> Response:
        tree = self._tree(request.query_params.get("tree", "1"))
        headers = {"x-accel-buffering": "no"}
        return StreamingResponse(
            events.stream(self._watch, tree), media_type="text/event-stream", headers=headers
        )

    async def _metrics(self, request: Request) -> Response:
        for tree in self._watch.trees:
            await self._watch.fresh(tree)
        return Response(metrics.text(self._watch), headers={"content-type": metrics.CONTENT_TYPE})

    # -- asked of the tree now -----------------------------------------------------------------------------

    async def _running(self, request: Request) -> Response:
        tree, limit = self._tree(request.path_params["tree"]), _number(request, "limit", 100, _MOST_ROWS)
        return await _answered(lambda: tree.running(limit))

    async def _failed(self, request: Request) -> Response:
        tree, limit = self._tree(request.path_params["tree"]), _number(request, "limit", 20, _MOST_ROWS)
        after = _named(request, "after")
        return await _answered(lambda: tree.failed(after, limit))

    async def _below(self, request: Request) -> Response:
        tree, limit = self._tree(request.path_params["tree"]), _number(request, "limit", 50, _MOST_ROWS)
        parent, after = _named(request, "parent"), _named(request, "after")
        return await _answered(lambda: tree.jobs_below(parent, after, limit))

    async def _job(self, request: Request) -> Response:
        tree, job = self._tree(request.path_params["tree"]), _checked(request.path_params["job"])
        return await _answered(lambda: tree.job(job))

    async def _log(self, request: Request) -> Response:
        tree, job = self._tree(request.path_params["tree"]), _checked(request.path_params["job"])
        most = _number(request, "most", 64 << 10, _MOST_LOG)
        return await _answered(lambda: tree.log(job, most))

    # -- orders --------------------------------------------------------------------------------------------

    def _ordering(self, path: str, name: str) -> Route:
        order = steering.OF_RUN[name]

        async def obey(request: Request) -> Response:
            tree = self._tree(request.path_params["tree"])
            await _ordered(request, attempt_allowed=False)
            return await self._obeyed(tree, lambda paths: order(paths, steering_requests.whoami()))

        return _changing(path, obey)

    def _ordering_of_job(self, path: str, name: str) -> Route:
        order = steering.OF_JOB[name]

        async def obey(request: Request) -> Response:
            tree = self._tree(request.path_params["tree"])
            job = job_number(_checked(request.path_params["job"]))
            attempt = await _ordered(request, attempt_allowed=name in steering.WITH_ATTEMPT)
            return await self._obeyed(
                tree, lambda paths: order(paths, steering_requests.whoami(), job, attempt)
            )

        return _changing(path, obey)

    async def _obeyed(self, tree: WatchedTree, order: Callable[[TreePaths], Answer]) -> Response:
        """What the master says, and pages hear at once what has come of it."""
        answer = await run_in_threadpool(tree.order, order)
        await self._watch.look(tree)
        return Json({"done": answer.done, "words": str(answer.body)})

    def _tree(self, number: str) -> WatchedTree:
        found = self._trees.get(number)
        if found is None:
            raise HTTPException(404, f"There is no tree of the number {number!r}; /api/v1/trees names them.")
        return found


_Endpoint = Callable[[Request], Awaitable[Response]]


def _reading(path: str, answer: _Endpoint, *names: str) -> Route:
    """A question and the names of what may be said in it."""
    return Route(path, _with_names(answer, names, (*names, "token")), methods=["GET"])


def _changing(path: str, obey: _Endpoint) -> Route:
    """An order; all that may be said is in its body."""
    return Route(path, _with_names(obey, (), ()), methods=["POST"])


def _with_names(answer: _Endpoint, names: Sequence[str], known: Sequence[str]) -> _Endpoint:
    """With nothing in the address but these names, each once: a misspelled one must not go unnoticed."""

    async def checked(request: Request) -> Response:
        given = [name for name, _ in request.query_params.multi_items()]
        for name in given:
            if name not in known or given.count(name) > 1:
                wanted = ", ".join(names) or "nothing"
                raise HTTPException(400, f"{name!r} is given; what can be said here, once each: {wanted}.")
        return await answer(request)

    return checked


async def _ordered(request: Request, attempt_allowed: bool) -> Optional[int]:
    try:
        body = await asyncio.wait_for(request.body(), _BODY_SECONDS)
        return steering.attempt_in(body, attempt_allowed)
    except ValueError as error:
        raise HTTPException(400, str(error)) from None
    except asyncio.TimeoutError:
        raise HTTPException(408, "The order did not come to its end.", {"connection": "close"}) from None


async def _answered(ask: Callable[[], Any]) -> Response:
    """What ask() returns: in a thread, because a file system or a master may keep it waiting."""
    return Json(await run_in_threadpool(ask))


def _named(request: Request, name: str) -> Optional[str]:
    given = request.query_params.get(name)
    return _checked(given) if given is not None else None


def _checked(job: str) -> str:
    try:
        job_number(job)
    except ValueError as error:
        raise HTTPException(400, f"{error}.") from None
    return job


def _number(request: Request, name: str, default: int, most: int) -> int:
    given = request.query_params.get(name, str(default))
    if not (given.isascii() and given.isdecimal() and len(given) < 10 and 1 <= int(given) <= most):
        raise HTTPException(400, f"{name} is {given!r}, and a whole number from 1 to {most} is expected.")
    return int(given)


def refused(request: Request, error: Exception) -> Response:
    """The answer where there is none: to what is asked for wrongly, and while a tree cannot be read."""
    if isinstance(error, HTTPException):
        return Json({"error": error.detail}, error.status_code, error.headers)
    assert isinstance(error, JobTreeError)
    not_there = isinstance(error, UsageError) and not isinstance(error, NotAJobTree)
    status = 404 if not_there else 503
    return Json({"error": str(error)}, status)
