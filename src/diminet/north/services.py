"""The operations on services and sites. Each: who asks, what exactly, then the engine; nothing is decided."""

import re
import time
from collections.abc import Callable
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from diminet.config_limits import LimitSettings
from diminet.engine.ports import ServiceFilter
from diminet.errors import ServiceNotFound, SiteUnknown
from diminet.messages import Caller, Change, ServiceView
from diminet.model import SITE_NAME, Entry
from diminet.north import preconditions, views
from diminet.north.access import Access
from diminet.north.bodies import M, read_model
from diminet.north.queries import UUID_PATTERN, EventsQuery, ListQuery, NoQuery, page, query
from diminet.north.requests import Requests
from diminet.north.schemas import (
    CreateAsked,
    ForgetAsked,
    JoinAsked,
    ModifyAsked,
    MoreRoomAsked,
    TakeoverAsked,
)
from diminet.north.stream import Streams, last_event_id, wants_stream

COLLECTION = "/intersite-vertical"
Links = list[dict[str, str]]
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:\d{1,5})?|\[[0-9a-fA-F:.]{2,45}\](:\d{1,5})?", re.ASCII)


def base_url(request: Request, public_url: str | None) -> str:
    """What links begin with: the configured URL, else what the user asked, else nothing (relative links)."""
    if public_url is not None:
        return public_url.rstrip("/")
    host = request.headers.get("host", "")
    return f"{request.scope['scheme']}://{host}" if _HOST.fullmatch(host) else ""


class ServiceOperations:
    """now: UTC epoch seconds. public_url: base URL that users see, if it is not what they send."""

    def __init__(
        self,
        requests: Requests,
        access: Access,
        streams: Streams,
        *,
        limits: LimitSettings,
        public_url: str | None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._requests = requests
        self._access = access
        self._streams = streams
        self._limits = limits
        self._public_url = public_url
        self._now = now

    # -- services ------------------------------------------------------------------------------------

    async def create(self, request: Request) -> Response:
        """Join networks of several sites: 201 when every member is active, else 202."""
        caller = await self._access.writer(request)
        query(request, NoQuery)
        asked = (await self._body(request, CreateAsked)).request()
        key = preconditions.idempotency(request, asked)
        wait = not preconditions.respond_async(request)
        ctx = self._access.hand_over(request, caller)
        view, active = await self._requests.create(caller, ctx, asked, wait=wait, idempotency=key)
        answer = self._service(view, caller, 201 if active else 202)
        answer.headers["Location"] = f"{base_url(request, self._public_url)}{_path(view)}"
        if not wait:
            answer.headers["Preference-Applied"] = "respond-async"
        return answer

    async def list(self, request: Request) -> Response:
        """What this site knows; no peer is asked."""
        caller = await self._access.reader(request)
        asked = query(request, ListQuery)
        limit = page(asked.limit, default=self._limits.list_page, most=self._limits.list_page_most)
        found: list[ServiceView] = []
        if caller.admin or asked.project_id in (None, caller.project_id):
            found = await self._requests.list(caller, _filter(asked, limit + 1))
        told = [views.service(v, admin=caller.admin, now=self._now()) for v in found[:limit]]
        more = str(told[-1]["id"]) if len(found) > limit else None
        return JSONResponse({"services": told, "services_links": self._links(request, more)})

    async def show(self, request: Request) -> Response:
        caller = await self._access.reader(request)
        query(request, NoQuery)
        wanted = preconditions.if_match(request)
        view = await self._requests.show(caller, _service_id(request))
        preconditions.check_match(wanted, view.document.pair.etag())
        return self._service(view, caller)

    async def modify(self, request: Request) -> Response:
        """Absent fields stay; `resources` is the whole new list and needs If-Match."""
        caller = await self._access.writer(request)
        query(request, NoQuery)
        service_id, wanted = _service_id(request), preconditions.if_match(request)
        asked = await self._body(request, ModifyAsked)
        if asked.service.resources is not None:
            preconditions.require_match(wanted)
        change = asked.change(await self._match(caller, service_id, wanted))
        return await self._change(request, caller, service_id, change)

    async def delete(self, request: Request) -> Response:
        """204 when every member is clean, 202 while some cannot be reached."""
        caller = await self._access.writer(request)
        query(request, NoQuery)
        service_id, wanted = _service_id(request), preconditions.if_match(request)
        if wanted:
            view = await self._requests.show(caller, service_id)
            preconditions.check_match(wanted, view.document.pair.etag())
        ctx = self._access.hand_over(request, caller)
        left, waiting = await self._requests.change(caller, ctx, service_id, Change(operation="delete"))
        if left is not None and waiting:
            return self._service(left.model_copy(update={"waiting": waiting}), caller, 202)
        return Response(status_code=202 if waiting else 204)

    # -- one entry -----------------------------------------------------------------------------------

    async def join(self, request: Request) -> Response:
        """A network, or a site, joins."""
        caller = await self._access.writer(request)
        query(request, NoQuery)
        service_id, wanted = _service_id(request), preconditions.if_match(request)
        asked = await self._body(request, JoinAsked)
        if_match = await self._match(caller, service_id, wanted)
        change = Change(operation="join", if_match=if_match, entry=asked.resource.entry(), via=asked.via)
        key = preconditions.idempotency(request, asked, f"join {service_id} ")
        return await self._change(request, caller, service_id, change, key)

    async def leave_site(self, request: Request) -> Response:
        """All networks of a site leave; 202 if that site cannot be reached."""
        return await self.leave(request)

    async def leave(self, request: Request) -> Response:
        """A network leaves; 202 if its site cannot be reached."""
        caller = await self._access.writer(request)
        query(request, NoQuery)
        service_id, wanted = _service_id(request), preconditions.if_match(request)
        entry = _entry(request)
        if_match = await self._match(caller, service_id, wanted)
        change = Change(operation="leave", if_match=if_match, entry=entry)
        return await self._change(request, caller, service_id, change)

    async def more_room(self, request: Request) -> Response:
        """Another block of addresses for this site, now."""
        caller = await self._access.writer(request)
        query(request, NoQuery)
        service_id, wanted = _service_id(request), preconditions.if_match(request)
        asked = await self._body(request, MoreRoomAsked)
        key = preconditions.idempotency(request, asked, f"pools {service_id} ")
        if wanted:
            view = await self._requests.show(caller, service_id)
            preconditions.check_match(wanted, view.document.pair.etag())
        ctx = self._access.hand_over(request, caller)
        view = await self._requests.more_room(caller, ctx, service_id, idempotency=key)
        return self._service(view, caller)

    # -- operators -----------------------------------------------------------------------------------

    async def takeover(self, request: Request) -> Response:
        """admin: this site becomes the master; the old one agrees, or most of all members do."""
        caller = await self._access.admin(request)
        query(request, NoQuery)
        service_id = _service_id(request)
        asked = await self._body(request, TakeoverAsked)
        ctx = self._access.hand_over(request, caller)
        gone = frozenset(asked.takeover.gone)
        return self._service(await self._requests.takeover(caller, ctx, service_id, gone), caller)

    async def forget(self, request: Request) -> Response:
        """admin: the database of that site, which is no member any more, is lost for good: nobody waits for
        it, and its addresses are free. 204: the service was only waiting for it, and is gone."""
        caller = await self._access.admin(request)
        query(request, NoQuery)
        service_id = _service_id(request)
        asked = await self._body(request, ForgetAsked)
        ctx = self._access.hand_over(request, caller)
        view = await self._requests.forget(caller, ctx, service_id, asked.forget.site)
        return Response(status_code=204) if view is None else self._service(view, caller)

    # -- history and sites ---------------------------------------------------------------------------

    async def service_events(self, request: Request) -> Response:
        """Who asked what of this service, and what became of it; a stream with Accept: text/event-stream."""
        caller = await self._access.reader(request)
        asked = query(request, EventsQuery)
        return await self._events(request, caller, asked, _service_id(request))

    async def all_events(self, request: Request) -> Response:
        """The same of the whole project; for `admin` of all."""
        caller = await self._access.reader(request)
        return await self._events(request, caller, query(request, EventsQuery), None)

    async def _events(
        self, request: Request, caller: Caller, asked: EventsQuery, service_id: str | None
    ) -> Response:
        last = last_event_id(request)
        after = asked.marker if last is None else last
        if wants_stream(request):
            return await self._streams.start(caller, service_id, after)
        limit = page(asked.limit, default=self._limits.list_page, most=self._limits.list_page_most)
        found = await self._requests.events(caller, service_id, after, limit + 1)
        told = [views.event(event, admin=caller.admin) for event in found[:limit]]
        more = str(told[-1]["id"]) if len(found) > limit else None
        return JSONResponse({"events": told, "events_links": self._links(request, more)})

    async def sites(self, request: Request) -> Response:
        caller = await self._access.reader(request)
        query(request, NoQuery)
        found = await self._requests.sites(caller)
        return JSONResponse({"sites": [views.site(site, admin=caller.admin) for site in found]})

    # -- shared --------------------------------------------------------------------------------------

    async def _body(self, request: Request, model: type[M]) -> M:
        limits = self._limits
        return await read_model(
            request, model, most=limits.body_bytes, timeout_s=limits.body_timeout, depth=limits.json_depth
        )

    async def _match(self, caller: Caller, service_id: str, wanted: tuple[str, ...]) -> str | None:
        """The pair for the master to compare; this site is only asked which of several it is."""
        if len(wanted) < 2:
            return preconditions.single_match(wanted, None)
        view = await self._requests.show(caller, service_id)
        return preconditions.single_match(wanted, view.document.pair.etag())

    async def _change(
        self,
        request: Request,
        caller: Caller,
        service_id: str,
        change: Change,
        key: tuple[str, str] | None = None,
    ) -> Response:
        ctx = self._access.hand_over(request, caller)
        view, waiting = await self._requests.change(caller, ctx, service_id, change, idempotency=key)
        if view is None:
            raise ServiceNotFound(f"service {service_id} was deleted meanwhile")
        view = view.model_copy(update={"waiting": tuple(sorted({*view.waiting, *waiting}))})
        return self._service(view, caller, 202 if waiting and change.operation == "leave" else 200)

    def _service(self, view: ServiceView, caller: Caller, status: int = 200) -> Response:
        told = views.service(view, admin=caller.admin, now=self._now())
        return JSONResponse({"service": told}, status, headers={"ETag": view.document.pair.etag()})

    def _links(self, request: Request, marker: str | None) -> Links:
        if marker is None:
            return []
        asked = [(k, v) for k, v in request.query_params.multi_items() if k != "marker"]
        path = f"{base_url(request, self._public_url)}{request.url.path}"
        return [{"rel": "next", "href": f"{path}?{urlencode([*asked, ('marker', marker)])}"}]


def _path(view: ServiceView) -> str:
    return f"{COLLECTION}/{view.document.service_id}"


def _service_id(request: Request) -> str:
    """Raises ServiceNotFound for what cannot be one."""
    text = str(request.path_params["service_id"])
    if not re.fullmatch(UUID_PATTERN.strip("^$"), text, re.ASCII):
        raise ServiceNotFound(f"there is no service {text[:80]!r}: ids of services are UUIDs")
    return text.lower()


def _entry(request: Request) -> Entry:
    """Raises SiteUnknown for what cannot be a site's name."""
    site = str(request.path_params["site"])
    if not re.fullmatch(SITE_NAME.strip("^$"), site, re.ASCII):
        raise SiteUnknown(f"there is no site {site[:80]!r}")
    network = request.path_params.get("resource_id")
    return Entry(site=site, resource_id=str(network)[:255] if network else None)


def _filter(asked: ListQuery, limit: int) -> ServiceFilter:
    return ServiceFilter(
        project_id=asked.project_id,
        type=asked.type,
        name=asked.name,
        status=asked.status,
        site=asked.site,
        tags=tuple(dict.fromkeys(tag for tag in (asked.tags or "").split(",") if tag)),
        sort_key=asked.sort_key,
        sort_dir=asked.sort_dir,
        limit=limit,
        marker=asked.marker.lower() if asked.marker else None,
    )
