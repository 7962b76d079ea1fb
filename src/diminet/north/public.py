"""What needs no token, and is limited by address instead."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from diminet.north.access import Access
from diminet.north.description import docs_page
from diminet.north.errors import without_internals
from diminet.north.preconditions import API_MAJOR, API_MINOR, API_MINOR_LEAST
from diminet.north.services import base_url
from diminet.telemetry import Metrics

Readiness = Callable[[], Awaitable[Sequence[str]]]


class PublicOperations:
    """readiness: what fails now, a sentence for each; it has readiness_timeout seconds."""

    def __init__(
        self,
        app: FastAPI,
        access: Access,
        metrics: Metrics,
        readiness: Readiness,
        *,
        readiness_timeout: float,
        public_url: str | None,
    ) -> None:
        self._app = app
        self._access = access
        self._metrics = metrics
        self._readiness = readiness
        self._readiness_timeout = readiness_timeout
        self._public_url = public_url

    async def versions(self, request: Request) -> Response:
        """The OpenStack version document."""
        self._access.stranger(request)
        known: dict[str, Any] = {
            "id": f"v{API_MAJOR}.{API_MINOR}",
            "status": "CURRENT",
            "version": f"{API_MAJOR}.{API_MINOR}",
            "min_version": f"{API_MAJOR}.{API_MINOR_LEAST}",
            "links": [{"rel": "self", "href": f"{base_url(request, self._public_url)}/"}],
        }
        return JSONResponse({"versions": [known]})

    async def openapi(self, request: Request) -> Response:
        """This description."""
        self._access.stranger(request)
        return JSONResponse(self._app.openapi())

    async def docs(self, request: Request) -> Response:
        """The same for people."""
        self._access.stranger(request)
        return HTMLResponse(docs_page(self._app.openapi()))

    async def healthcheck(self, request: Request) -> Response:
        """200 while this instance answers."""
        self._access.stranger(request)
        return PlainTextResponse("OK")

    async def readyz(self, request: Request) -> Response:
        """200 when everything that this instance needs is there, else 503 with what fails."""
        self._access.stranger(request)
        try:
            async with asyncio.timeout(self._readiness_timeout):
                failing = [without_internals(text) for text in await self._readiness()]
        except TimeoutError:
            failing = [f"the checks took longer than {self._readiness_timeout:g} s"]
        return JSONResponse({"ready": not failing, "failing": failing}, 503 if failing else 200)

    async def metrics(self, request: Request) -> Response:
        """Prometheus' text format."""
        self._access.stranger(request)
        return Response(self._metrics.text(), media_type=CONTENT_TYPE_LATEST)
