"""What this instance answers to the others: paths of DESIGN section 4 in front of engine.ports.Horizontal.

Who speaks is read from the certificate of the connection and from nothing else. Every message, refused
ones included, is told to `received(peer, kind, request_id, code)`.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import structlog
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from diminet.east_west import envelope
from diminet.east_west.certificates import day, read_certificate
from diminet.engine.ports import Directory, Horizontal
from diminet.errors import (
    DiminetError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotAuthorised,
    SiteUnknown,
    TooLarge,
    TooManyRequests,
)
from diminet.messages import (
    BlockRequest,
    Change,
    Context,
    DocumentPut,
    ReserveRequest,
    SyncReport,
    Tombstone,
    VoteRequest,
)
from diminet.rates import Buckets

DEFAULT_MAX_BODY_BYTES = 4 * 1024 * 1024  # a document with 250 members and 1,024 blocks fits many times
DEFAULT_BODY_TIMEOUT_S = 10.0
DEFAULT_RATE_PER_SECOND = 200.0
DEFAULT_RATE_BURST = 1000
MOST_SITES = 4095  # site numbers: every peer that can be proven has a bucket
UNKNOWN = "unknown"

Received = Callable[[str, str, str, str], None]
Answer = Callable[["_Message"], Awaitable[BaseModel | None]]
M = TypeVar("M", bound=BaseModel)

log = structlog.get_logger(__name__)


class _Message:
    """A request whose sender and envelope are proven; its body is read on demand."""

    def __init__(self, request: Request, ctx: Context, max_bytes: int, timeout_s: float) -> None:
        self.ctx = ctx
        self._request = request
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    @property
    def service_id(self) -> str:
        return envelope.service_id_of(str(self._request.path_params["service_id"]))

    def query(self, *allowed: str) -> dict[str, str]:
        """Query parameters; each at most once, none but the allowed ones."""
        pairs = self._request.query_params.multi_items()
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names) or not set(names) <= set(allowed):
            raise InvalidRequest(f"query parameters here: {', '.join(allowed) or 'none'}, each once")
        return dict(pairs)

    async def body(self, model: type[M]) -> M:
        return envelope.parse(model, await self._read(), "the body")

    async def body_if_any(self, model: type[M]) -> M | None:
        data = await self._read()
        return envelope.parse(model, data, "the body") if data else None

    async def _read(self) -> bytes:
        data = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                async for chunk in self._request.stream():
                    data += chunk
                    if len(data) > self._max_bytes:
                        raise TooLarge(f"a message may have {self._max_bytes} bytes")
        except TimeoutError:
            raise InvalidRequest(
                f"the body did not arrive within {self._timeout_s:g} s; send it again"
            ) from None
        except ClientDisconnect:
            raise InvalidRequest("the sender hung up before its message was complete") from None
        return bytes(data)


class EastWestServer:
    """See `make_east_west_app`."""

    def __init__(
        self,
        horizontal: Horizontal,
        *,
        site_name: str,
        directory: Directory,
        incarnation: Callable[[], str],
        received: Received,
        revoked: Callable[[int], bool],
        max_body_bytes: int,
        body_timeout_s: float,
        rates: Buckets,
        now: Callable[[], float],
    ) -> None:
        self._horizontal = horizontal
        self._site_name = site_name
        self._directory = directory
        self._incarnation = incarnation
        self._received = received
        self._revoked = revoked
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s
        self._rates = rates
        self._now = now

    def app(self) -> Starlette:
        # One route per path, so that `Allow` is complete.
        one = envelope.PATH + "/{service_id}"
        table: dict[str, dict[str, tuple[str, Answer]]] = {
            "/": {"GET": ("hello", self._hello)},
            envelope.PATH: {"POST": ("reserve", self._reserve), "GET": ("sync", self._sync)},
            one: {
                "PUT": ("put", self._put),
                "DELETE": ("bury", self._bury),
                "GET": ("snapshot", self._snapshot),
            },
            one + "/blocks": {"POST": ("give", self._give)},
            one + "/requests": {"POST": ("hand_in", self._hand_in)},
            one + "/votes": {"POST": ("vote", self._vote)},
        }
        routes = [Route(path, _Endpoint(self, answers)) for path, answers in table.items()]
        routes.append(Route("/{anything:path}", _Endpoint(self, None)))
        return Starlette(routes=routes)

    async def respond(self, request: Request, answers: Mapping[str, tuple[str, Answer]] | None) -> Response:
        """The one way through which every message goes. Nothing escapes as an exception."""
        kind, answer = (answers or {}).get(request.method, (UNKNOWN, None))
        if kind == "bury" and "reservation" in request.query_params:
            kind, answer = "abort", self._abort
        peer, request_id, code = UNKNOWN, "-", "ok"
        try:
            peer = await self._peer(request)
            self._rates.check(peer, f"site {peer}")
            ctx = self._envelope(request, peer)
            request_id = ctx.request_id
            if answers is None:
                raise InvalidRequest(f"protocol {envelope.protocol()} has no path {request.url.path[:200]!r}")
            if answer is None:
                raise MethodNotAllowed(f"this path takes {', '.join(answers)}")
            content = await answer(_Message(request, ctx, self._max_body_bytes, self._body_timeout_s))
            response = _answered(content)
        except DiminetError as error:
            code = error.code
            response = _refused(error)
        except Exception:  # the outermost place: a bug must neither kill the connection nor go unseen
            log.exception("bug while answering a peer", peer=peer, kind=kind, request_id=request_id)
            bug = InternalError(
                f"site {self._site_name} failed to answer (a bug; its log has it under request {request_id})"
            )
            code = bug.code
            response = _refused(bug)
        if answers and answer is None:
            response.headers["Allow"] = ", ".join(answers)
        response.headers[envelope.PROTOCOL] = envelope.protocol()
        response.headers[envelope.INCARNATION] = self._incarnation()
        response.headers[envelope.REQUEST_ID] = request_id
        self._received(peer, kind, request_id, code)
        return response

    async def _peer(self, request: Request) -> str:
        """The name in the peer's certificate. Raises NotAuthorised."""
        der = request.scope.get("peer_certificate")
        certificate = read_certificate(der) if der else None
        if certificate is None or certificate.site is None:
            raise NotAuthorised("the certificate names no DIMINET site; issue one with `diminet pki issue`")
        name = certificate.site
        if name == self._site_name:
            raise NotAuthorised(f"the certificate is that of {name!r} itself; each site needs its own")
        if certificate.not_after < self._now():
            raise NotAuthorised(
                f"the certificate of {name!r} expired on {day(certificate.not_after)}; renew it"
            )
        if self._revoked(certificate.serial):
            raise NotAuthorised(f"the certificate of {name!r} is revoked; issue a new one", sites=[name])
        try:
            await self._directory.site(name)
        except SiteUnknown:
            raise NotAuthorised(
                f"site {name!r} is not in the directory of {self._site_name!r}; its operator may add it",
                sites=[name],
            ) from None
        return name

    def _envelope(self, request: Request, peer: str) -> Context:
        headers: dict[str, list[str]] = {}
        for name, value in request.headers.items():
            headers.setdefault(name, []).append(value)
        envelope.check_protocol(envelope.one_header(headers, envelope.PROTOCOL), f"site {peer!r}")
        return envelope.from_headers(headers, sender=peer, now=self._now())

    async def _hello(self, message: _Message) -> BaseModel:
        message.query()
        return await self._horizontal.hello(message.ctx)

    async def _reserve(self, message: _Message) -> BaseModel:
        message.query()
        body = await message.body(ReserveRequest)
        envelope.service_id_of(body.service_id)
        peer = await self._directory.site(str(message.ctx.sender))
        envelope.check_number(peer, body.ticket.site, self._site_name)
        return await self._horizontal.reserve(message.ctx, body)

    async def _sync(self, message: _Message) -> BaseModel:
        member = message.query("member").get("member")
        if member is None:
            raise InvalidRequest("?member=NAME is missing: the name of the site that asks")
        if member != message.ctx.sender:
            raise NotAuthorised(
                f"site {message.ctx.sender!r} may ask for what it shares itself, not for {member[:80]!r}"
            )
        mine = await message.body_if_any(SyncReport)
        if mine is not None:
            if mine.site != member:
                raise NotAuthorised(f"site {member!r} may tell its own part, not that of {mine.site[:80]!r}")
            envelope.check_number(await self._directory.site(member), mine.number, self._site_name)
        return await self._horizontal.sync(message.ctx, mine)

    async def _put(self, message: _Message) -> BaseModel:
        message.query()
        service_id = message.service_id
        body = await message.body(DocumentPut)
        _same(service_id, body.document.service_id)
        return await self._horizontal.put(message.ctx, service_id, body)

    async def _bury(self, message: _Message) -> BaseModel:
        message.query()
        service_id = message.service_id
        body = await message.body_if_any(Tombstone) or Tombstone(service_id=service_id)
        _same(service_id, body.service_id)
        if body.document is not None:
            _same(service_id, body.document.service_id)
        return await self._horizontal.bury(message.ctx, service_id, body)

    async def _abort(self, message: _Message) -> None:
        rid = envelope.rid_of(message.query("reservation")["reservation"])
        await self._horizontal.abort(message.ctx, message.service_id, rid)

    async def _snapshot(self, message: _Message) -> BaseModel:
        message.query()
        return await self._horizontal.snapshot(message.ctx, message.service_id)

    async def _give(self, message: _Message) -> BaseModel:
        message.query()
        body = await message.body(BlockRequest)
        return await self._horizontal.give(message.ctx, message.service_id, body)

    async def _vote(self, message: _Message) -> BaseModel:
        message.query()
        body = await message.body(VoteRequest)
        return await self._horizontal.vote(message.ctx, message.service_id, body)

    async def _hand_in(self, message: _Message) -> BaseModel:
        message.query()
        body = await message.body(Change)
        return await self._horizontal.hand_in(message.ctx, message.service_id, body)


class _Endpoint:
    """An ASGI endpoint for all methods of one path (a plain function would be limited to GET)."""

    def __init__(self, server: EastWestServer, answers: Mapping[str, tuple[str, Answer]] | None) -> None:
        self._server = server
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._server.respond(Request(scope, receive), self._answers)
        await response(scope, receive, send)


def make_east_west_app(
    horizontal: Horizontal,
    *,
    site_name: str,
    directory: Directory,
    incarnation: Callable[[], str],
    received: Received,
    revoked: Callable[[int], bool],
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    body_timeout_s: float = DEFAULT_BODY_TIMEOUT_S,
    rate_per_second: float = DEFAULT_RATE_PER_SECOND,
    rate_burst: int = DEFAULT_RATE_BURST,
    now: Callable[[], float] = time.time,
    clock: Callable[[], float] = time.monotonic,
) -> Starlette:
    """The ASGI app for `listener.Listener` with `tls.Credentials.server()`.

    received(peer, kind, request_id, code): called once per message; kind is one of hello, reserve, put,
    bury, abort, snapshot, give, hand_in, vote, sync, unknown; code is `ok` or that of the error; peer is
    `unknown` until proven. revoked: of a certificate's serial number (`tls.Credentials.revoked`). rate:
    messages per second of each peer, rate_burst of them at once. clock: seconds, monotonic.
    """
    return EastWestServer(
        horizontal,
        site_name=site_name,
        directory=directory,
        incarnation=incarnation,
        received=received,
        revoked=revoked,
        max_body_bytes=max_body_bytes,
        body_timeout_s=body_timeout_s,
        rates=Buckets(rate=rate_per_second, burst=rate_burst, most=MOST_SITES, clock=clock),
        now=now,
    ).app()


def _same(in_path: str, in_body: str) -> None:
    if in_path != in_body:
        raise InvalidRequest(f"the path is of service {in_path}, the body of {in_body[:80]!r}")


def _answered(content: BaseModel | None) -> Response:
    if content is None:
        return Response(status_code=204)
    return Response(content.model_dump_json(), media_type="application/json")


def _refused(error: DiminetError) -> Response:
    headers: dict[str, Any] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    if isinstance(error, TooLarge | InvalidRequest | NotAuthorised | TooManyRequests):
        headers["Connection"] = "close"  # the rest of the body, if there is one, is not waited for
    return Response(
        json.dumps(error.as_dict()),
        status_code=envelope.STATUS.get(error.code, 500),
        headers=headers,
        media_type="application/json",
    )
