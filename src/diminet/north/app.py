"""The REST API for users (DESIGN section 3)."""

import time
from collections.abc import Callable

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from diminet.config import Settings
from diminet.engine.ports import Identity
from diminet.errors import DiminetError, InvalidRequest, MethodNotAllowed
from diminet.north.access import Access
from diminet.north.description import describer
from diminet.north.errors import PathNotFound
from diminet.north.middleware import Gate, error_answer
from diminet.north.public import PublicOperations, Readiness
from diminet.north.requests import Requests
from diminet.north.routes import add_routes
from diminet.north.services import ServiceOperations
from diminet.north.stream import Streams
from diminet.telemetry import Metrics

VERSION = "1.0"
DESCRIPTION = (
    "Joins networks of several sites with one request to one of them. Errors have a stable code and a "
    "sentence that says what to do."
)


def make_north_app(
    requests: Requests,
    identity: Identity,
    metrics: Metrics,
    readiness: Readiness,
    settings: Settings,
    *,
    now: Callable[[], float] = time.time,
    clock: Callable[[], float] = time.monotonic,
) -> FastAPI:
    """The ASGI app for `listener.Listener`.

    readiness: what fails now, a sentence for each; empty when ready. Of the settings: `site.name`,
    `north.public_url`, `limits`. now: UTC epoch seconds. clock: seconds, monotonic. When the instance
    ends, `app.state.close_streams()` ends the event streams, which would never end by themselves.
    """
    limits, public_url = settings.limits, settings.north.public_url
    app = FastAPI(
        title="DIMINET",
        version=VERSION,
        description=DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    access = Access(requests, identity, site=settings.site.name, limits=limits, now=now, clock=clock)
    streams = Streams(requests, access, limits, clock=clock)
    app.state.close_streams = streams.close
    services = ServiceOperations(requests, access, streams, limits=limits, public_url=public_url, now=now)
    public = PublicOperations(
        app,
        access,
        metrics,
        readiness,
        readiness_timeout=limits.readiness_timeout,
        public_url=public_url,
    )
    add_routes(app, services, public)
    refusals = _Refusals(access)
    app.add_exception_handler(DiminetError, refusals.refused)
    app.add_exception_handler(HTTPException, refusals.not_routed)
    app.add_middleware(Gate, metrics=metrics)
    app.openapi = describer(app)  # type: ignore[method-assign]
    return app


class _Refusals:
    """Exception handlers."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, DiminetError)
        await self._access.audit(request, error)
        return error_answer(request, error)

    async def not_routed(self, request: Request, error: Exception) -> Response:
        """What Starlette refuses by itself: no such path, no such method on it."""
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return error_answer(
                request, PathNotFound("there is no such path; /docs and /openapi.json have all that are")
            )
        if error.status_code != 405:
            return error_answer(request, InvalidRequest(f"the request is not understood: {error.detail}"))
        allow = ", ".join(_methods(request))
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": allow})
        wrong = MethodNotAllowed(f"{request.method} is not possible on this path; it takes {allow}")
        return error_answer(request, wrong, allow=allow)


def _methods(request: Request) -> list[str]:
    """All methods of the path. Starlette itself names only those of the first route that has the path."""
    found: set[str] = set()
    for route in request.app.routes:
        if route.matches(request.scope)[0] != Match.NONE:
            found |= route.methods
    return sorted(found | {"OPTIONS"} | ({"HEAD"} if "GET" in found else set()))
