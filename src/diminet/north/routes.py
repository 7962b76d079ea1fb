"""The one table of routes: method, path, operation, what it answers, what it reads."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from diminet.north import description as d
from diminet.north.public import PublicOperations
from diminet.north.queries import EventsQuery, ListQuery
from diminet.north.schemas import (
    CreateAsked,
    EventsAnswer,
    ForgetAsked,
    JoinAsked,
    ModifyAsked,
    MoreRoomAsked,
    ReadyAnswer,
    ServiceAnswer,
    ServicesAnswer,
    SitesAnswer,
    TakeoverAsked,
    VersionsAnswer,
)
from diminet.north.services import COLLECTION, ServiceOperations
from diminet.north.stream import MEDIA

Operation = Callable[[Request], Awaitable[Response]]
Responses = dict[int | str, dict[str, Any]]
Row = tuple[str, str, Operation, Responses, dict[str, Any]]

ONE = COLLECTION + "/{service_id}"
ENTRY = ONE + "/resources/{site}"
NETWORK = ENTRY + "/{resource_id}"

_SERVICE: dict[str, Any] = {"model": ServiceAnswer, **d.etag()}
_SHOWN: Responses = {200: _SERVICE, **d.refusals(404, 412)}
_CHANGED: Responses = {200: _SERVICE, **d.refusals(404, 409, 412, 413)}
_MODIFIED: Responses = {200: _SERVICE, **d.refusals(404, 409, 412, 413, 428)}
_TAKEN_OVER: Responses = {200: _SERVICE, **d.refusals(404, 409, 412, 413)}
_FORGOTTEN: Responses = {
    200: _SERVICE,
    204: {"description": "The service was only waiting for it, and is gone"},
    **d.refusals(404, 409, 413),
}
_WAITING: Responses = {202: {**_SERVICE, "description": "Sites that cannot be reached are waited for"}}
_LEFT: Responses = {200: _SERVICE, **_WAITING, **d.refusals(404, 409, 412)}
_DELETED: Responses = {
    204: {"description": "All members are clean"},
    **_WAITING,
    **d.refusals(404, 409, 412),
}
_CREATED: Responses = {
    201: {"model": ServiceAnswer, "description": "Every member is active", **d.etag(location=True)},
    202: {"model": ServiceAnswer, "description": "Begun, or a member deferred", **d.etag(location=True)},
    **d.refusals(404, 409, 413),
}
_LISTED: Responses = {200: {"model": ServicesAnswer}, **d.refusals()}
_SITES: Responses = {200: {"model": SitesAnswer}, **d.refusals()}
_STREAM = {MEDIA: {"schema": {"type": "string"}}}
_HISTORY: dict[str, Any] = {"model": EventsAnswer, "description": "Oldest first", "content": _STREAM}
_ALL_EVENTS: Responses = {200: _HISTORY, **d.refusals()}
_EVENTS: Responses = {200: _HISTORY, **d.refusals(404)}


def _services(do: ServiceOperations) -> list[Row]:
    """Every operation that needs a token."""
    match = d.reads(d.IF_MATCH)
    history = d.reads(d.LAST_EVENT_ID, query=EventsQuery)
    more = d.reads(d.IF_MATCH, d.IDEMPOTENCY_KEY, body=MoreRoomAsked)
    create = d.reads(d.PREFER, d.IDEMPOTENCY_KEY, body=CreateAsked)
    return [
        ("POST", COLLECTION, do.create, _CREATED, create),
        ("GET", COLLECTION, do.list, _LISTED, d.reads(query=ListQuery)),
        ("GET", ONE, do.show, _SHOWN, match),
        ("PUT", ONE, do.modify, _MODIFIED, d.reads(d.IF_MATCH, body=ModifyAsked)),
        ("DELETE", ONE, do.delete, _DELETED, match),
        (
            "POST",
            ONE + "/resources",
            do.join,
            _CHANGED,
            d.reads(d.IF_MATCH, d.IDEMPOTENCY_KEY, body=JoinAsked),
        ),
        ("DELETE", ENTRY, do.leave_site, _LEFT, match),
        ("DELETE", NETWORK, do.leave, _LEFT, match),
        ("POST", ONE + "/pools", do.more_room, _CHANGED, more),
        ("POST", ONE + "/takeover", do.takeover, _TAKEN_OVER, d.reads(body=TakeoverAsked)),
        ("POST", ONE + "/forget", do.forget, _FORGOTTEN, d.reads(body=ForgetAsked)),
        ("GET", ONE + "/events", do.service_events, _EVENTS, history),
        ("GET", "/events", do.all_events, _ALL_EVENTS, history),
        ("GET", "/sites", do.sites, _SITES, d.reads()),
    ]


def _public(do: PublicOperations) -> list[Row]:
    """What needs no token."""
    few: Responses = {
        status: answer for status, answer in d.refusals().items() if status in (400, 406, 429, 500)
    }
    ready: Responses = {503: {"model": ReadyAnswer, "description": "What fails"}}
    answers: list[tuple[str, Operation, Responses]] = [
        ("/", do.versions, {200: {"model": VersionsAnswer}}),
        ("/openapi.json", do.openapi, {200: d.content("application/json", "object")}),
        ("/docs", do.docs, {200: d.content("text/html")}),
        ("/healthcheck", do.healthcheck, {200: d.content("text/plain")}),
        ("/readyz", do.readyz, {200: {"model": ReadyAnswer}, **ready}),
        ("/metrics", do.metrics, {200: d.content("text/plain")}),
    ]
    return [("GET", path, operation, {**few, **told}, {}) for path, operation, told in answers]


def add_routes(app: FastAPI, services: ServiceOperations, public: PublicOperations) -> None:
    for method, path, operation, responses, described in _services(services) + _public(public):
        app.add_api_route(
            path,
            operation,
            methods=[method],
            status_code=min(int(status) for status in responses),
            responses=responses,
            openapi_extra=described,
            response_model=None,
            response_class=Response,
            operation_id=getattr(operation, "__name__", path),
        )
