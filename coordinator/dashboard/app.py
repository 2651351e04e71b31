"""The page and its JSON twins: everything that is shown can be fetched as data.

::

    /                       the page
    /static/…               its script, style and icon; nothing comes from elsewhere
    /api/v1/fleet           run, devices, width groups (`coordinator.fleet.to_json`)
    /api/v1/curve           one point a model version
    /api/v1/peers           exchanges between devices (`coordinator.peer_view.to_json`), null without any
    /api/v1/streams         learning from streams (`coordinator.stream_view.to_json`), null without any
    /api/v1/events          newest first, ?limit=
    /api/v1/stream          server-sent events: `fleet` every period, `curve` when it has grown
    /metrics                Prometheus text
    /healthz                200 while the coordinator answers

It only reads: nothing here changes a run.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.dashboard.metrics import METRICS_TYPE, to_metrics

STATIC = Path(__file__).parent / "static"
MAX_STREAMS = 64
"""Pages watched at a time; further ones are told to try again."""

_LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
_LOOPBACK = ("127.", "::1")

_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
)

View = Callable[[], dict[str, Any]]
Curve = Callable[[], Sequence[dict[str, Any]]]


def create_app(
    view: View,
    curve: Curve,
    *,
    period_s: float = 1.0,
    proxy_names: Sequence[str] = (),
) -> FastAPI:
    """Make the application; `coordinator.dashboard.server.Server` runs it.

    Args:
        view: the fleet now, as `coordinator.fleet.to_json` makes it. Called from the server's
            threads, about once a period for all pages together and once for each JSON request.
        curve: the model versions so far, oldest first, each with the fields of
            `coordinator.database.Version`. Called as `view` is.
        period_s: seconds between two pushes.
        proxy_names: host names under which a reverse proxy on this machine shows the page.
    """
    app = FastAPI(title="edgetide", docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json")
    app.state.pushes = Pushes(view, curve, period_s)
    app.add_middleware(_Guard, names=_LOCAL_NAMES | {name.lower() for name in proxy_names})
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", media_type="text/html")

    @app.get("/api/v1/fleet")
    def fleet() -> dict[str, Any]:
        return view()

    @app.get("/api/v1/curve")
    def accuracy_curve() -> list[dict[str, Any]]:
        return _points(curve)

    _add_parts(app, view)

    @app.get("/api/v1/events")
    def events(limit: Annotated[int, Query(ge=1, le=1000)] = 200) -> list[dict[str, Any]]:
        return view()["events"][:limit]

    @app.get("/api/v1/stream", response_class=StreamingResponse)
    async def stream() -> StreamingResponse:
        pushes: Pushes = app.state.pushes
        if pushes.num_open >= MAX_STREAMS:
            raise HTTPException(503, f"{MAX_STREAMS} pages are watching already", {"Retry-After": "10"})
        return StreamingResponse(pushes.stream(), media_type="text/event-stream")

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> PlainTextResponse:
        return PlainTextResponse(to_metrics(view()), media_type=METRICS_TYPE)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return app


def _add_parts(app: FastAPI, view: View) -> None:
    """The parts of the fleet that only some strategies have."""

    @app.get("/api/v1/peers")
    def peers() -> dict[str, Any] | None:
        return view().get("peers")

    @app.get("/api/v1/streams")
    def streams() -> dict[str, Any] | None:
        return view().get("streams")


class Pushes:
    """What the open pages are sent. Lives in the server's event loop.

    Attributes:
        num_open: pages watching now.
        closing: set when the server stops, so that every stream ends at once.
    """

    def __init__(self, view: View, curve: Curve, period_s: float) -> None:
        self.num_open = 0
        self.closing = asyncio.Event()
        self._view = view
        self._curve = curve
        self._period_s = period_s
        self._made_s = -float("inf")
        self._fleet = b""
        self._curve_message = b""

    async def stream(self) -> AsyncIterator[bytes]:
        """The events for one page, until it goes or the server stops."""
        self.num_open += 1
        sent_curve = b""
        try:
            yield b"retry: 2000\n\n"
            while not self.closing.is_set():
                self._make()
                if self._curve_message != sent_curve:
                    sent_curve = self._curve_message
                    yield sent_curve
                yield self._fleet
                try:
                    await asyncio.wait_for(self.closing.wait(), self._period_s)
                except asyncio.TimeoutError:
                    continue
        finally:
            self.num_open -= 1

    def _make(self) -> None:
        """Make the messages once a period, however many pages there are."""
        now_s = time.monotonic()
        if now_s - self._made_s < self._period_s * 0.9:
            return
        self._made_s = now_s
        self._fleet = _message("fleet", self._view())
        self._curve_message = _message("curve", _points(self._curve))


class _Guard:
    """Adds the security headers to every answer, and answers loopback connections under known names only.

    Else a web site whose name was pointed at this machine (DNS rebinding) could read the fleet
    through its visitor's browser.
    """

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        local = str((scope.get("server") or ("",))[0]).startswith(_LOOPBACK)
        name = re.sub(
            r":\d*$", "", dict(scope.get("headers", ())).get(b"host", b"").decode("latin-1")
        ).lower()
        if local and name not in self._names:
            app = PlainTextResponse("this page is not known under that host name\n", 421)
            await app(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)


def _points(curve: Curve) -> list[dict[str, Any]]:
    """The curve without the infinities of a run that diverged: JSON has none."""
    return [
        {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in point.items()
        }
        for point in curve()
    ]


def _message(event: str, data: Any) -> bytes:
    # JSON escapes line breaks, so the data is one line, as server-sent events want it.
    return f"event: {event}\ndata: {json.dumps(data, allow_nan=False, separators=(',', ':'))}\n\n".encode()
