"""What the page's server answers: its own files, the state and the orders, pictures, comparisons."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router, WebSocketRoute
from starlette.types import ASGIApp

from sharpcam import __version__
from sharpcam.errors import ControlError, SharpCamError, validation_line
from sharpcam.models import find_models
from sharpcam.web.compare import Comparisons
from sharpcam.web.guard import COOKIE, Guard
from sharpcam.web.live import Live
from sharpcam.web.session import Session, is_other_user

BODY_S = 60.0  # in which all of a body has to have come
_STATIC = Path(__file__).parent / "static"
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
# what is to be had without the cookie; it tells nobody anything
_ENTRANCE = {"/": "enter.html", "/enter.js": "enter.js", "/style.css": "style.css", "/icon.svg": "icon.svg"}
_TOLD = {"name", "version", "description", "parameters", "macs_per_pixel", "precision", "layout"}

Answer = Callable[[str, Mapping[str, Any]], Any]
Endpoint = Callable[[Request], Awaitable[Response]]


class Link(BaseModel):
    code: str


class Setting(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: str
    value: str


Body = TypeVar("Body", bound=BaseModel)


def make_app(
    session: Session,
    answer: Answer | None,
    live: Live | None,
    comparisons: Comparisons,
    used: Callable[[], None],
) -> ASGIApp:
    """`answer` takes the orders that the control socket takes; None, as `live`, where no daemon is behind it.

    `used` is called for every request that is let in.
    """

    async def enter(request: Request) -> Response:
        link = _parsed(Link, await _read(request))
        if request.client is None or is_other_user(request.client, session.port):
            raise HTTPException(403, "this page is another user's")
        if not session.enter(link.code):
            raise HTTPException(401, "this link was used already, or is too old")
        response = JSONResponse({"path": f"{session.prefix}/"})
        response.set_cookie(
            COOKIE, session.token, path=f"{session.prefix}/", httponly=True, samesite="strict"
        )
        return response

    async def about(request: Request) -> Response:
        models, _ = await run_in_threadpool(find_models)
        told = [model.manifest.model_dump(mode="json", include=_TOLD) for model in models]
        return JSONResponse({"version": __version__, "daemon": answer is not None, "models": told})

    async def metrics(request: Request) -> Response:
        return PlainTextResponse(await ask("metrics"))

    async def set_(request: Request) -> Response:
        return JSONResponse(await ask("set", **_parsed(Setting, await _read(request)).model_dump()))

    async def pause(request: Request) -> Response:
        return JSONResponse(await ask("pause"))

    async def resume(request: Request) -> Response:
        return JSONResponse(await ask("resume"))

    async def frame(request: Request) -> Response:
        if live is None:
            _no_daemon()
        try:
            return Response(await live.snapshot(), media_type="image/png")
        except TimeoutError:
            raise ControlError("no picture comes from the camera", "the Live tab tells why") from None

    async def compare(request: Request) -> Response:
        return await comparisons.answer(lambda: _read(request))

    async def ask(command: str, **more: Any) -> Any:
        if answer is None:
            _no_daemon()
        return await run_in_threadpool(answer, command, more)  # it may load a model

    inside: list[BaseRoute] = [
        Route("/about", about),
        Route("/metrics", metrics),
        *(
            Route(f"/{name}", write, methods=["POST"])
            for name, write in {
                "set": set_,
                "pause": pause,
                "resume": resume,
                "frame": frame,
                "compare": compare,
            }.items()
        ),
        *(Route(f"/{path.name}", _file(path)) for path in _STATIC.iterdir()),
        Route("/", _file(_STATIC / "index.html")),
    ]
    if live is not None:
        inside.append(WebSocketRoute("/live", live.serve))
    app = Starlette(
        routes=[
            Route("/enter", enter, methods=["POST"]),
            *(Route(at, _file(_STATIC / name)) for at, name in _ENTRANCE.items()),
            Mount(session.prefix, Router(inside, redirect_slashes=False)),
        ],
        exception_handlers={
            HTTPException: _http_failure,
            SharpCamError: _failure,
            ClientDisconnect: _gone,
        },
    )
    app.router.redirect_slashes = False
    return Guard(app, session, {"/enter", *_ENTRANCE}, f"{session.prefix}/compare", used)


def _file(path: Path) -> Endpoint:
    """Answers with what is in a file now: no request names one."""
    data, kind = path.read_bytes(), _TYPES[path.suffix]

    async def answer(request: Request) -> Response:
        return Response(data, media_type=kind)

    return answer


async def _read(request: Request) -> bytes:
    """The body; the guard has seen to it that it is not too long."""
    try:
        async with asyncio.timeout(BODY_S):
            return await request.body()
    except TimeoutError:
        raise HTTPException(408, "the request does not come to its end") from None


def _parsed(kind: type[Body], data: bytes) -> Body:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise HTTPException(422, validation_line(error.errors())) from None


def _no_daemon() -> NoReturn:
    raise ControlError("SharpCam does not run behind this page", "start it: sharpcam run; then: sharpcam ui")


async def _http_failure(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail, "hint": ""}, error.status_code, headers=error.headers)


async def _failure(request: Request, error: Exception) -> Response:
    assert isinstance(error, SharpCamError)
    return JSONResponse({"error": str(error), "hint": error.hint}, 409)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody will read it
