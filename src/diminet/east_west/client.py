"""The way to the other instances: engine.ports.Peers over HTTPS.

The engine repeats what is lost; here nothing is repeated but what the peer never read: a message that
met an idle connection which it had closed, and one that it refused unread because there were too many.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import TypeVar

import aiohttp
from pydantic import BaseModel
from yarl import URL

from diminet.east_west import envelope
from diminet.east_west.certificates import day
from diminet.east_west.explain import why_no_answer
from diminet.east_west.tls import Credentials
from diminet.engine.ports import Directory, Horizontal
from diminet.errors import IncompatibleSites, InvalidRequest, SiteUnreachable, TooLarge, TooManyRequests
from diminet.messages import (
    Acknowledgement,
    BlockGrant,
    BlockRequest,
    Change,
    ChangeAnswer,
    Context,
    DocumentPut,
    Hello,
    MemberState,
    Reservation,
    ReserveRequest,
    Snapshot,
    SyncReport,
    Tombstone,
)

DEFAULT_REQUEST_TIMEOUT_S = 10.0
DEFAULT_CONNECT_TIMEOUT_S = 3.0
DEFAULT_CONNECTIONS_PER_PEER = 32
LEAST_PAUSE_S = 0.05  # before a peer is asked again that is asked too often
DEFAULT_IDLE_S = 60.0  # shorter than the listener's keep-alive: this end closes first
DEFAULT_RETRY_AFTER_S = 10.0  # told to users whose request met a site that is away
DEFAULT_MAX_BODY_BYTES = 4 * 1024 * 1024
DEFAULT_MAX_ANSWER_BYTES = 16 * 1024 * 1024

M = TypeVar("M", bound=BaseModel)
N = TypeVar("N", Hello, Reservation, SyncReport)


class _NoAnswer(Exception):
    """Nothing was answered. reused: on a connection that had been idle."""

    def __init__(self, why: str, *, reused: bool) -> None:
        super().__init__(why)
        self.why = why
        self.reused = reused


class HttpPeers:
    """engine.ports.Peers. close() it at the end, in the loop in which it was used.

    incarnation: of this instance, asked for every message. request_timeout_s: a call ends after that,
    or at `ctx.deadline` if that is sooner, and one that cannot even connect after connect_timeout_s.
    connections_per_peer: at once; more calls wait their turn.
    idle_s: an unused connection is closed after that. outgoing: gives an envelope the tokens with which
    it may go to another site (default: those that it has). now: epoch seconds.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        site_name: str,
        credentials: Credentials,
        incarnation: Callable[[], str],
        request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
        connect_timeout_s: float = DEFAULT_CONNECT_TIMEOUT_S,
        connections_per_peer: int = DEFAULT_CONNECTIONS_PER_PEER,
        idle_s: float = DEFAULT_IDLE_S,
        retry_after_s: float = DEFAULT_RETRY_AFTER_S,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
        max_answer_bytes: int = DEFAULT_MAX_ANSWER_BYTES,
        outgoing: Callable[[Context], Awaitable[Context]] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self.site_name = site_name
        self._credentials = credentials
        self._incarnation = incarnation
        self._request_timeout_s = request_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._connections_per_peer = connections_per_peer
        self._idle_s = idle_s
        self._retry_after_s = retry_after_s
        self._max_body_bytes = max_body_bytes
        self._max_answer_bytes = max_answer_bytes
        self._outgoing = outgoing
        self._now = now
        self._session: aiohttp.ClientSession | None = None

    def at(self, site: str) -> Horizontal:
        return HttpPeer(self, site)

    async def check_number(self, site: str, said: int) -> None:
        """Raises IncompatibleSites if the directory gives the site another number than it gives itself."""
        envelope.check_number(await self._directory.site(site), said, self.site_name)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(
        self,
        site: str,
        ctx: Context,
        method: str,
        path: str,
        body: BaseModel | None = None,
        query: Mapping[str, str] | None = None,
        *,
        judged: bool = False,
    ) -> bytes:
        """One message; the body of a good answer. Raises what the peer answered, SiteUnreachable when
        nothing came back, SiteUnknown for a name that the directory does not have. A peer that has not
        read it, because we ask too often, is asked again when it says, as long as there is time.

        judged: the other site judges whether the user may, so that tokens go along; else they do not."""
        data = body.model_dump_json().encode() if body is not None else None
        if data is not None and len(data) > self._max_body_bytes:
            raise TooLarge(
                f"the message to site {site!r} has {len(data)} bytes, at most {self._max_body_bytes}"
            )
        base = (await self._directory.site(site)).east_west_url.rstrip("/")
        url = URL(base + path).with_query(query or {})
        seconds = self._seconds(ctx)
        if seconds <= 0:
            raise self._unreachable(site, "no time is left for the request")
        try:
            async with asyncio.timeout(seconds):
                sent = await self._with_tokens(ctx) if judged else _without_tokens(ctx)
                return await self._patiently(site, sent, method, url, data)
        except TimeoutError:
            raise self._unreachable(site, f"it did not answer within {seconds:.1f} s") from None
        except _NoAnswer as exc:
            raise self._unreachable(site, self._own_fault() or exc.why) from exc

    async def _patiently(self, site: str, ctx: Context, method: str, url: URL, data: bytes | None) -> bytes:
        while True:
            status, answer = await self._exchange(site, ctx, method, url, data)
            try:
                return self._judge(site, status, answer)
            except TooManyRequests as busy:
                await asyncio.sleep(max(busy.retry_after or 0.0, LEAST_PAUSE_S))

    async def _with_tokens(self, ctx: Context) -> Context:
        return ctx if self._outgoing is None else await self._outgoing(ctx)

    async def _exchange(
        self, site: str, ctx: Context, method: str, url: URL, data: bytes | None
    ) -> tuple[int, bytes]:
        # Several idle connections may have been closed by the peer; a new one is tried at the end.
        for _ in range(self._connections_per_peer):
            try:
                return await self._attempt(site, ctx, method, url, data)
            except _NoAnswer as exc:
                if not exc.reused:
                    raise
        return await self._attempt(site, ctx, method, url, data)

    async def _attempt(
        self, site: str, ctx: Context, method: str, url: URL, data: bytes | None
    ) -> tuple[int, bytes]:
        headers = envelope.to_headers(
            ctx, incarnation=self._incarnation(), seconds_left=max(self._seconds(ctx), 0.0)
        )
        headers["Accept-Encoding"] = "identity"
        if data is not None:
            headers["Content-Type"] = "application/json"
        trace = SimpleNamespace(reused=False)
        answered = False
        try:
            async with self._open().request(
                method,
                url,
                data=data,
                headers=headers,
                ssl=self._credentials.client(site),
                allow_redirects=False,
                trace_request_ctx=trace,
            ) as response:
                answered = True
                return response.status, await self._bounded(response, site)
        except aiohttp.ClientError as exc:
            raise _NoAnswer(why_no_answer(exc), reused=trace.reused and not answered) from exc

    async def _bounded(self, response: aiohttp.ClientResponse, site: str) -> bytes:
        data = bytearray()
        async for chunk in response.content.iter_any():
            data += chunk
            if len(data) > self._max_answer_bytes:
                response.close()
                raise IncompatibleSites(
                    f"site {site!r} answered more than {self._max_answer_bytes} bytes", sites=[site]
                )
        return bytes(data)

    def _judge(self, site: str, status: int, answer: bytes) -> bytes:
        if status in (200, 204):
            return answer
        error = envelope.error_of(answer, site)
        if error is not None:
            raise error
        if status >= 500:
            raise self._unreachable(site, f"it answered HTTP {status} without a reason")
        raise IncompatibleSites(
            f"site {site!r} answered HTTP {status} without a reason; does an instance of DIMINET listen at "
            "its east_west_url?",
            sites=[site],
        )

    def _seconds(self, ctx: Context) -> float:
        if ctx.deadline is None:
            return self._request_timeout_s
        return min(ctx.deadline - self._now(), self._request_timeout_s)

    def _own_fault(self) -> str | None:
        end = self._credentials.not_after()
        if end >= self._now():
            return None
        return (
            f"the certificate of this site ({self.site_name}) expired on {day(end)}; run `diminet pki renew` "
            "or set the clock"
        )

    def _unreachable(self, site: str, why: str) -> SiteUnreachable:
        return SiteUnreachable(
            f"site {site!r} cannot be reached: {why}", sites=[site], retry_after=self._retry_after_s
        )

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, limit_per_host=self._connections_per_peer, keepalive_timeout=self._idle_s
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
                auto_decompress=False,
                trust_env=False,
                trace_configs=[_reuse_tracing()],
            )
        return self._session


def _without_tokens(ctx: Context) -> Context:
    return ctx.model_copy(update={"token": None, "service_token": None})


def _reuse_tracing() -> aiohttp.TraceConfig:
    async def reused(
        _session: aiohttp.ClientSession,
        context: SimpleNamespace,
        _params: aiohttp.TraceConnectionReuseconnParams,
    ) -> None:
        context.trace_request_ctx.reused = True

    async def made(
        _session: aiohttp.ClientSession,
        context: SimpleNamespace,
        _params: aiohttp.TraceConnectionCreateStartParams,
    ) -> None:
        context.trace_request_ctx.reused = False

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_reuseconn.append(reused)
    tracing.on_connection_create_start.append(made)
    return tracing


class HttpPeer:
    """engine.ports.Horizontal of one other site."""

    def __init__(self, peers: HttpPeers, site: str) -> None:
        self._peers = peers
        self._site = site

    async def hello(self, ctx: Context) -> Hello:
        answer = self._read(Hello, await self._peers.call(self._site, ctx, "GET", "/"))
        return await self._numbered(answer)

    async def reserve(self, ctx: Context, request: ReserveRequest) -> Reservation:
        answer = await self._peers.call(self._site, ctx, "POST", envelope.PATH, request, judged=True)
        promise = await self._numbered(self._read(Reservation, answer))
        self._of_this_site(promise.site)
        self._of_this_service(request.service_id, promise.service_id)
        return promise

    async def put(self, ctx: Context, service_id: str, put: DocumentPut) -> MemberState:
        path = envelope.service_path(service_id)
        state = self._read(MemberState, await self._peers.call(self._site, ctx, "PUT", path, put))
        self._of_this_site(state.site)
        return state

    async def bury(self, ctx: Context, service_id: str, tombstone: Tombstone) -> Acknowledgement:
        path = envelope.service_path(service_id)
        answer = await self._peers.call(self._site, ctx, "DELETE", path, tombstone)
        acknowledged = self._read(Acknowledgement, answer)
        self._of_this_site(acknowledged.site)
        return acknowledged

    async def abort(self, ctx: Context, service_id: str, rid: str) -> None:
        path = envelope.service_path(service_id)
        query = {"reservation": envelope.rid_of(rid)}
        await self._peers.call(self._site, ctx, "DELETE", path, query=query)

    async def snapshot(self, ctx: Context, service_id: str) -> Snapshot:
        path = envelope.service_path(service_id)
        answer = self._read(Snapshot, await self._peers.call(self._site, ctx, "GET", path))
        self._of_this_site(answer.state.site if answer.state else self._site)
        self._of_this_service(service_id, answer.document.service_id if answer.document else service_id)
        return answer

    async def give(self, ctx: Context, service_id: str, request: BlockRequest) -> BlockGrant:
        path = envelope.service_path(service_id) + "/blocks"
        return self._read(BlockGrant, await self._peers.call(self._site, ctx, "POST", path, request))

    async def hand_in(self, ctx: Context, service_id: str, change: Change) -> ChangeAnswer:
        path = envelope.service_path(service_id) + "/requests"
        data = await self._peers.call(self._site, ctx, "POST", path, change, judged=True)
        answer = self._read(ChangeAnswer, data)
        self._of_this_service(service_id, answer.document.service_id if answer.document else service_id)
        return answer

    async def sync(self, ctx: Context, mine: SyncReport | None = None) -> SyncReport:
        query = {"member": self._peers.site_name}
        data = await self._peers.call(self._site, ctx, "GET", envelope.PATH, mine, query)
        report = await self._numbered(self._read(SyncReport, data))
        self._of_this_site(report.site)
        return report

    async def _numbered(self, answer: N) -> N:
        await self._peers.check_number(self._site, answer.number)
        return answer

    def _of_this_site(self, said: str) -> None:
        """A site answers for itself only."""
        if said != self._site:
            raise IncompatibleSites(
                f"site {self._site!r} answered in the name of site {said[:80]!r}", sites=[self._site]
            )

    def _of_this_service(self, asked: str, said: str) -> None:
        if said != asked:
            raise IncompatibleSites(
                f"site {self._site!r} was asked for service {asked} and answered of {said[:80]!r}",
                sites=[self._site],
            )

    def _read(self, model: type[M], answer: bytes) -> M:
        try:
            return envelope.parse(model, answer, "the answer")
        except InvalidRequest as exc:
            raise IncompatibleSites(
                f"site {self._site!r}: {exc.message}; compare the versions of both sites", sites=[self._site]
            ) from exc
