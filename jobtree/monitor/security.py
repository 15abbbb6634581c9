"""Who may ask the monitor for anything: decided here, before anything else looks at a request.

The monitor listens on 127.0.0.1. That keeps other machines away, but not other users of this one, nor pages of other
sites in the browser of whoever looks at it. Hence every request must

  - be addressed to this machine by a name that no other site can have (Host is 127.0.0.1, localhost or [::1]; the port
    may be another one, for a tunnel): a site that has its own name point to 127.0.0.1 gets nothing (DNS rebinding);
  - come from no other site: Origin, where there is one, names the same host and port, and Sec-Fetch-Site, where there
    is one, does not say that another site has asked, but for somebody who follows a link;
  - have the token. For reading it may be in the address, as it is printed at start, or in the header Authorization.
    Whatever changes something must have it in that header, which is the proof that no form and no link of another site
    has made it: those cannot send one. (There is no cookie, which a browser would send along by itself, and to every
    other port of this machine as well.)

The files of the page are below a name that follows from the token, so that modules find one another and nobody else
finds them. All answers forbid scripts, styles and connections from anywhere else, and any framing. After a refusal the
connection is closed, so that nothing which came along with the refused request is taken for another one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import Optional

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_OUR_NAMES = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_READING = ("GET", "HEAD")
_MOST_BODY = 16 << 10
"""Bytes of a request; the largest that is sensible has some fifty."""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = (
    ("content-security-policy", _POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
)
"""What every answer says."""


def new_token() -> str:
    """A token that nobody guesses; good in a URL."""
    return secrets.token_urlsafe(32)


def is_token(text: str) -> bool:
    """Whether a text may be a token."""
    return re.fullmatch(r"[A-Za-z0-9_-]{32,128}", text) is not None


def folder(token: str) -> str:
    """The name below which the files of the page are. It does not tell the token."""
    return hmac.new(token.encode(), b"files of the page", hashlib.sha256).hexdigest()[:40]


class Guard:
    """Refuses what may not be asked; everything else goes on to ``app``."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token
        self._files = f"/static/{folder(token)}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no web sockets here: the server closes them

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        request = Request(scope)
        refusal = self._refusal(request)
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> Optional[JSONResponse]:
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not _OUR_NAMES.fullmatch(hosts[0]):
            return _refused(
                403, "this is served to 127.0.0.1 and localhost only; the request names another host"
            )
        if not _is_ours(request, hosts[0]):
            return _refused(403, "the request was made by a page of another site")
        if not self._has_token(request):
            return _refused(
                401,
                "the token is missing or wrong. Open the address that jobTreeMonitor has printed; programs send "
                "the header Authorization: Bearer TOKEN, which is the only way to change something",
            )
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > _MOST_BODY or "transfer-encoding" in request.headers:
            return _refused(413, f"a request has at most {_MOST_BODY} bytes, and says how many")
        return None

    def _has_token(self, request: Request) -> bool:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return _same(given.strip(), self._token)
        if request.method not in _READING:
            return False
        path = request.scope["path"]
        if path.startswith("/static/"):
            return _same(path[: len(self._files)], self._files)
        given_twice = request.query_params.getlist("token")
        return len(given_twice) == 1 and _same(given_twice[0], self._token)


def _is_ours(request: Request, host: str) -> bool:
    """Whether no page of another site has made the request."""
    for origin in request.headers.getlist("origin"):
        if origin.lower() != f"http://{host}".lower():
            return False
    # What a browser says of itself. Other programs do not, and have nothing that could be abused.
    site = request.headers.get("sec-fetch-site", "none")
    if site in ("none", "same-origin"):
        return True
    follows_link = request.headers.get("sec-fetch-mode") == "navigate" and request.method == "GET"
    return follows_link and request.headers.get("sec-fetch-dest") == "document"


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def _refused(status: int, why: str) -> JSONResponse:
    headers = {"connection": "close"}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse({"error": f"Refused: {why}."}, status, headers)
