"""What a request has to look like before anything else looks at it.

The page is on loopback, but every web site that the browser shows can send requests there, and every local
program can connect. Each rule below has an attack in tests/web/test_attacks.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sharpcam.web.session import Session

COOKIE = "sharpcam"
WRITE_HEADER = "x-sharpcam"  # a form cannot set it, and a script of another origin may not
MAX_JSON = 4 * 1024  # bytes
MAX_UPLOAD = 64 * 1024 * 1024
JSON = "application/json"
UPLOAD = "application/octet-stream"
SAFE_METHODS = ("GET", "HEAD")

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "Content-Security-Policy": _CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """ASGI middleware: refuses what does not come from the page itself, and sets the security headers.

    `open_paths` need no cookie; they hold nothing that is worth one. `upload_path` alone takes pictures: a body is
    kept in memory, so nothing else, and nobody without the cookie, may send more than `MAX_JSON`. `used` is called
    for what is let through.
    """

    def __init__(
        self,
        app: ASGIApp,
        session: Session,
        open_paths: Collection[str],
        upload_path: str,
        used: Callable[[], None],
    ) -> None:
        self._app, self._session, self._used = app, session, used
        self._open_paths, self._upload_path = open_paths, upload_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refused = self._refusal(scope)
        if refused is None:
            self._used()
            await self._app(scope, receive, send_guarded)
        else:
            await _refuse(scope, send_guarded, *refused)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason, None for a request that is welcome."""
        headers, is_socket = Headers(scope=scope), scope["type"] == "websocket"
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0] not in self._session.hosts:
            return 403, "wrong host"
        origins = headers.getlist("origin")
        if origins not in ([], [f"http://{hosts[0]}"]) or (is_socket and not origins):
            return 403, "wrong origin"
        writes = not is_socket and scope["method"] not in SAFE_METHODS
        # "none" is an address that the user typed or opened
        sites = headers.getlist("sec-fetch-site")
        if sites not in ([], ["same-origin"]) and (writes or is_socket or sites != ["none"]):
            return 403, "another site sent this"
        path = scope["path"]
        limits = {JSON: MAX_JSON} | ({UPLOAD: MAX_UPLOAD} if path == self._upload_path else {})
        if writes and (refused := _write_refusal(scope, headers, limits)):
            return refused
        if path in self._open_paths:
            return None
        if not path.startswith(f"{self._session.prefix}/"):
            return 404, "there is nothing here"
        if not self._session.knows(HTTPConnection(scope).cookies.get(COOKIE, "")):
            return 401, "run `sharpcam ui` for a new link"
        return None


def _write_refusal(scope: Scope, headers: Headers, limits: Mapping[str, int]) -> tuple[int, str] | None:
    """`limits` are those of a body, in bytes, for each content type that is taken there."""
    if scope["method"] != "POST":
        return 405, "only GET and POST"
    if headers.getlist(WRITE_HEADER) != ["1"]:
        return 403, f"a write needs the header {WRITE_HEADER}"
    limit = limits.get(headers.get("content-type", ""))
    if limit is None:
        return 415, f"the content type should be one of {', '.join(limits)}"
    length = headers.get("content-length", "")
    if not length.isdecimal():
        return 411, "a write needs its length"
    if int(length) > limit:
        return 413, f"more than {limit} bytes"
    return None


async def _refuse(scope: Scope, send: Send, status: int, reason: str) -> None:
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    body = json.dumps({"error": reason, "hint": ""}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # or the rest of a refused upload would be read
    ]
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body, "more_body": False})
