"""What every part of the engine works with: who we are, the ports, the limits."""

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakValueDictionary

import structlog

from diminet.engine.ports import Clock, Directory, Identity, Peers, South, Store
from diminet.errors import DiminetError, SiteRefused
from diminet.logic.service_type import ServiceType
from diminet.messages import Context
from diminet.model import Event, Initiator

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds unless said. undo_share: part of a request's time kept for undoing it. outbox_batch:
    messages to one peer at one go. refusals: of one document by one member before it is put off.
    round_batch: services that one round of a background look (overlaps, audit, pools) takes; of more, the
    next ones in the next. sync_entries: services of which an asker
    tells its own part with its question; with more, the other site asks by itself. audit_ports: of one
    service and site, told to the others. peer_refusals_per_hour: of one peer, told in the history."""

    request_timeout: float = 10.0
    undo_share: float = 0.25
    reservation_lifetime: float = 30.0
    busy_pause: float = 0.05
    sync_interval: float = 10.0
    reconcile_interval: float = 5.0
    lease_lifetime: float = 5.0
    deliver_interval: float = 1.0
    outbox_batch: int = 100
    refusals: int = 3
    backoff_first: float = 0.5
    backoff_most: float = 10.0
    refusal_backoff_most: float = 300.0
    confirm_delay: float = 0.3
    settle_interval: float = 0.0
    revoked_ttl: float = 86400.0
    events_ttl: float = 30 * 86400.0
    events_most: int = 100_000
    watermark: int = 4
    pool_step: int = 1
    growth_steps: int = 4
    vni_k_first: int = 1
    vni_k_last: int = 4095
    services_per_project: int = 1000
    members_per_service: int = 250
    blocks_per_project: int = 100 * 1024
    parallel_repairs: int = 4
    audit_interval: float = 10.0
    audit_ports: int = 4096
    round_batch: int = 200
    sync_entries: int = 2000
    peer_refusals_per_hour: int = 100


class Meter(Protocol):
    """Where the engine's figures go."""

    def create_step(self, step: str, seconds: float) -> None: ...
    def set_services(self, counts: Mapping[tuple[str, str], int]) -> None: ...
    def set_blocks(self, counts: Mapping[tuple[str, str], int]) -> None: ...
    def set_outbox(self, depth: int, oldest_age: float) -> None: ...
    def set_audit(self, counts: Mapping[str, int]) -> None: ...


class Locks:
    """One lock per name, for as long as somebody holds or waits for it: they do not pile up."""

    def __init__(self) -> None:
        self._used: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __getitem__(self, name: str) -> asyncio.Lock:
        lock = self._used.get(name)
        if lock is None:
            lock = self._used[name] = asyncio.Lock()
        return lock

    def __len__(self) -> int:
        return len(self._used)


@dataclass(slots=True)
class Instance:
    """This site's instance. `later` runs something behind the answer and keeps hold of it."""

    name: str
    number: int
    store: Store
    peers: Peers
    south: South
    directory: Directory
    identity: Identity
    clock: Clock
    types: Mapping[str, ServiceType]
    asn: int
    meter: Meter
    limits: Limits = field(default_factory=Limits)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    locks: Locks = field(default_factory=Locks)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Nobody waits for its outcome, so it is told here."""
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, DiminetError):
            log.warning("behind the answer", code=error.code, message=error.message)
        elif isinstance(error, Exception):
            log.error("bug", exc_info=error)

    def type_of(self, name: str) -> ServiceType:
        """Raises SiteRefused for a type that only a newer version knows."""
        try:
            return self.types[name]
        except KeyError:
            raise SiteRefused(
                f"site {self.name} does not know services of type {name!r}; upgrade it first",
                sites=[self.name],
            ) from None

    def context(self, project_id: str = "diminet", seconds: float | None = None) -> Context:
        """Of a message that no user has asked for. seconds: until its deadline; else `request_timeout`."""
        wait = self.limits.request_timeout if seconds is None else seconds
        return Context(
            request_id=f"req-{self.clock.uuid()}",
            initiator=Initiator(user_id="diminet", project_id=project_id, site=self.name),
            deadline=self.clock.now() + wait,
        )

    def seen(self, kind: str, service_id: str, project_id: str | None, **detail: Any) -> Event:
        """What this site saw by itself: nobody's request."""
        return Event(
            at=self.clock.now(),
            kind=kind,
            service_id=service_id,
            project_id=project_id,
            request_id=None,
            site=self.name,
            detail=detail,
        )

    def event(
        self,
        kind: str,
        ctx: Context,
        service_id: str | None,
        project_id: str | None = None,
        **detail: Any,
    ) -> Event:
        return Event(
            at=self.clock.now(),
            kind=kind,
            service_id=service_id,
            project_id=project_id or ctx.initiator.project_id,
            request_id=ctx.request_id,
            user_id=ctx.initiator.user_id,
            site=ctx.initiator.site,
            detail=detail,
        )

    async def tell_news(self) -> None:
        """Wake whoever waits for new events."""
        async with self.news:
            self.news.notify_all()
