"""Around every request, whatever becomes of it: its id, version, metrics and log line; bugs end here."""

import time
from collections.abc import Callable

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diminet.errors import DiminetError, InternalError
from diminet.messages import Caller
from diminet.north.errors import error_response
from diminet.north.preconditions import (
    REQUEST_ID_HEADER,
    VERSION_HEADER,
    check_version,
    request_id,
    version_text,
)
from diminet.telemetry import Metrics, log_context

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
OTHER = "other"
UNMATCHED = "unmatched"
VARY = f"{VERSION_HEADER}, Accept"

log = structlog.get_logger(__name__)


def error_answer(request: Request, error: DiminetError, *, allow: str | None = None) -> Response:
    """The error in the form that this request asks for."""
    caller: Caller | None = getattr(request.state, "caller", None)
    return error_response(
        error,
        request_id=request.state.request_id,
        accept=request.headers.get("accept", ""),
        admin=caller is not None and caller.admin,
        allow=allow,
    )


class Gate:
    """ASGI middleware. HEAD is answered as GET is, without the body."""

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identifier = request_id(Headers(scope=scope).get(REQUEST_ID_HEADER, ""))
        head = scope["method"] == "HEAD"
        state = {**scope.get("state", {}), "request_id": identifier, "head": head}
        inner = {**scope, "state": state, "method": "GET" if head else scope["method"]}
        answer = _Answer(send, identifier, head)
        started = self._clock()
        with log_context(request_id=identifier):
            try:
                await self._answer(inner, receive, answer)
            finally:
                self._told(scope, inner, answer.status, self._clock() - started)

    async def _answer(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        request = Request(scope, receive)
        try:
            if scope["path"] != "/":
                check_version(request.headers.get(VERSION_HEADER))
            await self._app(scope, receive, answer)
        except DiminetError as error:
            await error_answer(request, error)(scope, receive, answer)
        except Exception:  # the outermost place: a bug must neither go unseen nor show its inside
            log.exception("bug while answering a user", method=scope["method"], path=scope["path"][:200])
            if answer.status is None:
                bug = InternalError(
                    "this instance failed (a bug); tell its operator the request_id, its log has the reason"
                )
                await error_answer(request, bug)(scope, receive, answer)

    def _told(self, scope: Scope, inner: Scope, status: int | None, seconds: float) -> None:
        route = getattr(inner.get("route"), "path", UNMATCHED)
        method = scope["method"] if scope["method"] in METHODS else OTHER
        self._metrics.north_request(route, method, status or 499, seconds)
        log.info("request", method=method, route=route, status=status, seconds=round(seconds, 4))


class _Answer:
    """`send` that adds what every answer carries. status: None until the answer has begun."""

    def __init__(self, send: Send, identifier: str, head: bool) -> None:
        self._send = send
        self._identifier = identifier
        self._head = head
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID_HEADER] = self._identifier
            headers[VERSION_HEADER] = version_text()
            headers["Vary"] = VARY
            headers["X-Content-Type-Options"] = "nosniff"
            headers.setdefault("Cache-Control", "no-store")
        elif message["type"] == "http.response.body" and self._head:
            message = {**message, "body": b""}
        await self._send(message)
