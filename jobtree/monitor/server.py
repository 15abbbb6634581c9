"""The monitor as one application, and how it is served: on 127.0.0.1, until it is interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mimetypes
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Optional

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from jobtree.errors import JobTreeError, UsageError
from jobtree.monitor import security
from jobtree.monitor.api import Api, refused
from jobtree.monitor.connections import REQUEST_SECONDS, Connection
from jobtree.monitor.security import Guard
from jobtree.monitor.trees import WatchedTree
from jobtree.monitor.watching import Watch

ADDRESS = "127.0.0.1"
_PAGE = "index.html"
_FOLDER = b"@FOLDER@"
"""Where the page names the folder of its files."""


def application(watch: Watch, token: str) -> ASGIApp:
    """The page, the API and the metrics, behind the guard."""
    page, files = _files(token)

    async def serve_page(request: Request) -> Response:
        return Response(page, media_type="text/html")

    async def serve_file(request: Request) -> Response:
        found = files.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404, "There is no such file.")
        return Response(found, media_type=_kind(request.path_params["name"]))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await watch.start()
        yield
        await watch.stop()

    routes = [
        Route("/", serve_page, methods=["GET"]),
        Route("/static/{folder}/{name:path}", serve_file, methods=["GET"]),
        *Api(watch).routes(),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={HTTPException: refused, JobTreeError: refused},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


def _files(token: str) -> tuple[bytes, dict[str, bytes]]:
    """The page, and by their names all that it may ask for. They are read once: no request leads to a file."""
    top = Path(__file__).parent / "static"
    found = {path.relative_to(top).as_posix(): path.read_bytes() for path in top.rglob("*") if path.is_file()}
    page = found.pop(_PAGE).replace(_FOLDER, security.folder(token).encode())
    return page, found


def _kind(name: str) -> str:
    """What a file is, whatever this machine's tables say of it: a browser refuses a module of another kind."""
    if name.endswith(".js"):
        return "text/javascript"
    return mimetypes.guess_type(name)[0] or "text/plain"


def listen(port: int) -> socket.socket:
    """A socket on this machine alone; port 0: any that is free. Raises UsageError."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((ADDRESS, port))
        made.listen()  # so that whoever has seen the address can connect, and waits until it is served
    except (OSError, OverflowError) as error:
        made.close()
        raise UsageError(
            f"port {port} of {ADDRESS} cannot be used: {error}. Give another --port, or none: then a free one is taken."
        ) from error
    return made


def serve(trees: Sequence[WatchedTree], token: str, on: socket.socket, every: float) -> None:
    """Serve until SIGINT or SIGTERM, which then is raised again."""
    watch = Watch(trees, every)
    config = uvicorn.Config(
        application(watch, token),
        log_level="warning",
        access_log=False,  # it would tell the token
        server_header=False,
        http=Connection,  # h11: in Python, and strict
        ws="none",
        timeout_keep_alive=int(REQUEST_SECONDS),
        timeout_graceful_shutdown=3,
        limit_concurrency=200,
    )
    logging.getLogger("uvicorn.error").addFilter(_is_of_ours)
    _Server(config, watch).run(sockets=[on])


def _is_of_ours(record: logging.LogRecord) -> bool:
    """Whether whoever has started the monitor should read this: an error in it, and not one that a client has made, or
    that one was cut off at the end."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is not None and not issubclass(kind, (asyncio.CancelledError, ClientDisconnect))


class _Server(uvicorn.Server):
    """Ends the streams of events when it is to end: they would keep it waiting for ever."""

    def __init__(self, config: uvicorn.Config, watch: Watch) -> None:
        super().__init__(config)
        self._watch = watch

    def handle_exit(self, sig: int, frame: Optional[FrameType]) -> None:
        """A signal has come."""
        self._watch.close()
        super().handle_exit(sig, frame)
