"""Counts every message that this instance sends, by what became of it: refused answers too."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from diminet.engine.ports import Horizontal, Peers
from diminet.errors import DiminetError, SiteUnknown, SiteUnreachable
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

NO_ANSWER = "no-answer"
Sent = Callable[[str, str, str], None]
T = TypeVar("T")


class MeteredPeers:
    """engine.ports.Peers in front of others. sent(peer, kind, code): told once per message; code is `ok`,
    that of an error, or `no-answer`. Names that the directory does not have, which anyone may think of,
    are no peers."""

    def __init__(self, inner: Peers, sent: Sent) -> None:
        self._inner = inner
        self._sent = sent

    def at(self, site: str) -> Horizontal:
        return _MeteredPeer(self._inner.at(site), site, self._sent)


class _MeteredPeer:
    def __init__(self, inner: Horizontal, site: str, sent: Sent) -> None:
        self._inner = inner
        self._site = site
        self._sent = sent

    async def _call(self, kind: str, work: Awaitable[T]) -> T:
        try:
            answer = await work
        except SiteUnknown:
            raise
        except DiminetError as error:
            self._sent(self._site, kind, NO_ANSWER if isinstance(error, SiteUnreachable) else error.code)
            raise
        self._sent(self._site, kind, "ok")
        return answer

    async def hello(self, ctx: Context) -> Hello:
        return await self._call("hello", self._inner.hello(ctx))

    async def reserve(self, ctx: Context, request: ReserveRequest) -> Reservation:
        return await self._call("reserve", self._inner.reserve(ctx, request))

    async def put(self, ctx: Context, service_id: str, put: DocumentPut) -> MemberState:
        return await self._call("put", self._inner.put(ctx, service_id, put))

    async def bury(self, ctx: Context, service_id: str, tombstone: Tombstone) -> Acknowledgement:
        return await self._call("bury", self._inner.bury(ctx, service_id, tombstone))

    async def abort(self, ctx: Context, service_id: str, rid: str) -> None:
        await self._call("abort", self._inner.abort(ctx, service_id, rid))

    async def snapshot(self, ctx: Context, service_id: str) -> Snapshot:
        return await self._call("snapshot", self._inner.snapshot(ctx, service_id))

    async def give(self, ctx: Context, service_id: str, request: BlockRequest) -> BlockGrant:
        return await self._call("give", self._inner.give(ctx, service_id, request))

    async def hand_in(self, ctx: Context, service_id: str, change: Change) -> ChangeAnswer:
        return await self._call("hand_in", self._inner.hand_in(ctx, service_id, change))

    async def sync(self, ctx: Context, mine: SyncReport | None = None) -> SyncReport:
        return await self._call("sync", self._inner.sync(ctx, mine))
