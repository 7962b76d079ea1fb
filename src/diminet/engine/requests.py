"""What a user may ask of this instance: done here if we are the master, else handed to it."""

from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from diminet.engine import fence
from diminet.engine.changes import Changes
from diminet.engine.coordinator import Coordinator
from diminet.engine.detaching import Detaching
from diminet.engine.forgetting import Forgetting
from diminet.engine.instance import Instance
from diminet.engine.outbox import Outbox
from diminet.engine.participant import Participant
from diminet.engine.pools import Pools
from diminet.engine.ports import ServiceFilter, ServiceRow, Tx
from diminet.engine.rejoining import Rejoining
from diminet.engine.repeats import Repeats
from diminet.engine.resuming import Resuming
from diminet.engine.takeover import Takeover
from diminet.engine.views import Views
from diminet.errors import (
    DiminetError,
    InvalidRequest,
    NotAuthorised,
    PoolExhausted,
    QuotaExceeded,
    ResourceBusy,
    ServiceNotFound,
    SiteUnreachable,
    Unavailable,
)
from diminet.logic.takeover import fenced
from diminet.messages import (
    Caller,
    Change,
    ChangeAnswer,
    Context,
    CreateRequest,
    ServiceView,
    SiteView,
)
from diminet.model import Document, Event, ProvisioningStatus

T = TypeVar("T")
WRITERS = frozenset({"admin", "member"})


def may_write(caller: Caller) -> None:
    if not caller.roles & WRITERS:
        raise NotAuthorised("your role may only read; ask for the role member in this project")


class Requests:
    def __init__(
        self,
        here: Instance,
        coordinator: Coordinator,
        participant: Participant,
        changes: Changes,
        outbox: Outbox,
        pools: Pools,
        views: Views,
        resuming: Resuming,
        takeover: Takeover,
        rejoining: Rejoining,
    ) -> None:
        self.here = here
        self.coordinator = coordinator
        self.participant = participant
        self.changes = changes
        self.outbox = outbox
        self.pools = pools
        self.views = views
        self.resuming = resuming
        self.takeover_ = takeover
        self.rejoining = rejoining
        self.forgetting = Forgetting(here, outbox, pools)
        self.detaching = Detaching(here, participant)
        self.repeats = Repeats(here)

    # -- create --------------------------------------------------------------------------------------

    async def create(
        self,
        caller: Caller,
        ctx: Context,
        request: CreateRequest,
        *,
        wait: bool,
        idempotency: tuple[str, str] | None,
    ) -> tuple[ServiceView, bool]:
        """The service, and whether every member is active. idempotency: (key, hash of the body)."""
        service_id = self.here.clock.uuid()
        try:
            may_write(caller)
            self._concerned(request)
            repeated = await self.here.store.read(
                lambda tx: self.repeats.repeated(tx, caller.project_id, idempotency)
            )
            if repeated is None:
                await self._make(caller, ctx, request, service_id, wait=wait, idempotency=idempotency)
        except DiminetError as error:
            await self._audit(ctx, service_id, "create", error)
            raise
        row = await self._row(repeated or service_id)
        view = await self.views.of(row)
        return view, row.status == ProvisioningStatus.ACTIVE and not view.waiting

    async def _make(
        self,
        caller: Caller,
        ctx: Context,
        request: CreateRequest,
        service_id: str,
        *,
        wait: bool,
        idempotency: tuple[str, str] | None,
    ) -> None:
        project = caller.project_id

        def admit(tx: Tx) -> None:
            self.repeats.admit(tx, project, idempotency, service_id)

        work = self.coordinator.create(ctx, project, request, service_id, wait=wait, admit=admit)
        try:
            await self._in_time(ctx, service_id, work)
        except DiminetError:
            await self.repeats.forget(project, idempotency, service_id)
            raise

    async def _in_time(self, ctx: Context, service_id: str, work: Coroutine[Any, Any, T]) -> T:
        """A user never waits beyond the request's time, whatever hangs; what was begun is undone."""
        try:
            async with self.here.clock.timeout(self.here.limits.request_timeout):
                return await work
        except TimeoutError:
            error = SiteUnreachable(
                f"site {self.here.name} could not finish within {self.here.limits.request_timeout:g} s; "
                "what was begun is being undone; try again later",
                sites=[self.here.name],
                retry_after=self.here.limits.request_timeout,
            )
            self.here.later(self.resuming.abandon(ctx, service_id, error))
            raise error from None

    def _concerned(self, request: CreateRequest) -> None:
        if request.type not in self.here.types:
            raise InvalidRequest(
                f"there is no service type {request.type!r}; use one of {', '.join(sorted(self.here.types))}"
            )
        sites = sorted({e.site for e in request.resources})
        if self.here.name not in sites:
            raise InvalidRequest(
                f"site {self.here.name} is not concerned; send the request to one of {', '.join(sites)}",
                sites=sites,
            )
        if len(sites) > self.here.limits.members_per_service:
            raise QuotaExceeded(f"a service has at most {self.here.limits.members_per_service} members")

    # -- read ----------------------------------------------------------------------------------------

    async def _row(self, service_id: str) -> ServiceRow:
        row = await self.here.store.read(lambda tx: fence.known(self.here, tx, service_id))
        hidden = row is not None and (
            row.left is not None or (row.settled and row.status != ProvisioningStatus.REVOKED)
        )
        if row is None or hidden:
            raise ServiceNotFound(f"there is no service {service_id} at site {self.here.name}")
        return row

    async def _theirs(self, caller: Caller, service_id: str) -> ServiceRow:
        row = await self._row(service_id)
        if not caller.admin and row.document.project_id != caller.project_id:
            raise ServiceNotFound(f"there is no service {service_id} at site {self.here.name}")
        return row

    async def show(self, caller: Caller, service_id: str) -> ServiceView:
        return await self.views.of(await self._theirs(caller, service_id))

    async def list(self, caller: Caller, where: ServiceFilter) -> list[ServiceView]:
        if not caller.admin:
            where = where.model_copy(update={"project_id": caller.project_id})
        rows = await self.here.store.read(lambda tx: tx.services(where))
        return [await self.views.of(row, in_full=False) for row in rows]

    async def events(self, caller: Caller, service_id: str | None, after: int, limit: int) -> Sequence[Event]:
        if service_id is not None:
            await self._theirs(caller, service_id)
        project = None if caller.admin else caller.project_id
        return await self.here.store.read(
            lambda tx: tx.events(service_id=service_id, project_id=project, after=after, limit=limit)
        )

    async def next_event(self, after: int, timeout: float) -> None:  # noqa: ASYNC109  # a limit on waiting, not a cancellation
        """Returns when there may be events after that one, or when the time is over."""
        try:
            async with self.here.clock.timeout(timeout), self.here.news:
                await self.here.news.wait()
        except TimeoutError:
            return

    async def sites(self, caller: Caller) -> Sequence[SiteView]:
        """What a tenant learns of a site is what its own services there would tell it; admin: all."""
        project = None if caller.admin else caller.project_id

        def look(tx: Tx) -> tuple[dict[str, float | None], set[str]]:
            return {p.site: p.seen_at for p in tx.peers()}, tx.sharing_sites(project)

        seen, shared = await self.here.store.read(look)
        limit = self.here.clock.now() - 2 * self.here.limits.sync_interval
        return [
            SiteView(
                name=site.name,
                number=site.number,
                reachable=(seen.get(site.name) or 0.0) >= limit if site.name in shared else None,
                last_seen=seen.get(site.name) if site.name in shared else None,
                north_url=site.north_url,
                east_west_url=site.east_west_url,
            )
            for site in await self.here.directory.sites()
        ]

    # -- change --------------------------------------------------------------------------------------

    async def change(
        self,
        caller: Caller,
        ctx: Context,
        service_id: str,
        change: Change,
        *,
        idempotency: tuple[str, str] | None = None,
    ) -> tuple[ServiceView | None, tuple[str, ...]]:
        """The service after the change (None: gone), and the sites that are waited for."""
        may_write(caller)
        try:
            async with self.repeats.once(caller, idempotency, service_id) as first:
                if first:
                    answer = await self._change(caller, ctx, service_id, change)
                else:
                    return await self.show(caller, service_id), ()
        except DiminetError as error:
            await self._audit(ctx, service_id, change.operation, error)
            raise
        await self.here.tell_news()
        if answer.document is None:
            return None, ()
        if answer.document.member(self.here.name) is None:
            return await self.views.of_left(answer.document, confirmed=answer.confirmed), answer.waiting
        row = await self.here.store.read(lambda tx: tx.service(service_id))
        if row is None or row.left is not None:
            return None, answer.waiting
        view = await self.views.of(row.model_copy(update={"document": self._newer(row, answer)}))
        return view, answer.waiting

    @staticmethod
    def _newer(row: ServiceRow, answer: ChangeAnswer) -> Document:
        if answer.document is not None and answer.document.pair > row.document.pair:
            return answer.document
        return row.document

    async def _change(self, caller: Caller, ctx: Context, service_id: str, change: Change) -> ChangeAnswer:
        row = await self.here.store.read(lambda tx: tx.service(service_id))
        if (row is None or row.left is not None) and change.operation == "join" and change.via:
            self._own_join(change)
            answer = await self.here.peers.at(change.via).hand_in(ctx, service_id, change)
            with suppress(Unavailable):  # heard at the interval then
                await self.participant.ask_whether_confirmed(ctx, service_id)
            return answer
        row = await self._theirs(caller, service_id)
        initiator = ctx.initiator.model_copy(update={"project_id": row.document.project_id})
        ctx = ctx.model_copy(update={"initiator": initiator})
        if row.document.epoch.site == self.here.number:
            return await self._in_time(ctx, service_id, self.changes.apply(ctx, service_id, change))
        try:
            answer = await self.here.peers.at(row.document.master).hand_in(ctx, service_id, change)
        except SiteUnreachable:
            if change.operation == "delete":
                return await self._queue_delete(ctx, row)
            if not self.detaching.leaves_here(row.document, change):
                raise
            return await self.detaching.detach(ctx, row)
        document = answer.document
        if document is not None and answer.confirmed:
            pair = document.pair
            await self.here.store.write(lambda tx: self.participant.confirm(tx, service_id, pair))
        return answer

    def _own_join(self, change: Change) -> None:
        if change.entry is None or change.entry.site != self.here.name:
            raise InvalidRequest(
                f"site {self.here.name} has no such service; here you can only join it with a network "
                "of this site"
            )

    async def _queue_delete(self, ctx: Context, row: ServiceRow) -> ChangeAnswer:
        """The master is away: it is told when it is back."""
        document = row.document

        def decide(tx: Tx) -> None:
            current = tx.service(document.service_id)
            if current is None or current.document.epoch != document.epoch:
                raise ResourceBusy("the service has another master now; repeat it", retry_after=1.0)
            if current.left is not None or current.document.tombstone:
                return  # the same as a delete, for us
            gone = current.model_copy(update={"status": ProvisioningStatus.PENDING_DELETE})
            tx.save_service(gone, expect=current.document.pair)
            self.outbox.post(tx, ctx, document.service_id, [document.master], "delete")
            tx.add_event(self.here.event("delete-queued", ctx, document.service_id, document.project_id))

        await self.here.store.write(decide)
        return ChangeAnswer(document=document, waiting=(document.master,))

    async def handed_in(self, ctx: Context, service_id: str, change: Change) -> ChangeAnswer:
        """From a peer, for us as the master; a member that a joining site has asked passes it on."""
        row = await self.here.store.read(lambda tx: fence.known(self.here, tx, service_id))
        if row is None or row.left is not None or ctx.initiator.project_id != row.document.project_id:
            raise ServiceNotFound(f"there is no service {service_id} at site {self.here.name}")
        if row.document.epoch.site == self.here.number:
            answer = await self._in_time(ctx, service_id, self.changes.apply(ctx, service_id, change))
            await self.here.tell_news()
            return answer
        if change.via == self.here.name and change.operation == "join":
            if change.entry is None or change.entry.site != ctx.sender:
                raise ServiceNotFound(f"there is no service {service_id} at site {self.here.name}")
            onward = ctx.model_copy(update={"sender": None})
            return await self.here.peers.at(row.document.master).hand_in(onward, service_id, change)
        if row.document.member(ctx.sender or "") is None:
            raise ServiceNotFound(f"there is no service {service_id} at site {self.here.name}")
        raise NotAuthorised(f"site {self.here.name} is not the master of service {service_id}")

    async def more_room(
        self,
        caller: Caller,
        ctx: Context,
        service_id: str,
        *,
        idempotency: tuple[str, str] | None = None,
    ) -> ServiceView:
        """Another block for every subnet of this site, now."""
        may_write(caller)
        row = await self._theirs(caller, service_id)
        try:
            async with self.repeats.once(caller, idempotency, service_id) as first:
                if first:
                    await self._grow(row.document)
        except DiminetError as error:
            await self._audit(ctx, service_id, "more-room", error)
            raise
        return await self.views.of(row)

    async def _grow(self, document: Document) -> None:
        await self.here.store.read(lambda tx: fence.refuse(self.here, tx, document.service_id))
        if not self.here.type_of(document.type).uses_blocks:
            raise InvalidRequest("only services that stretch a network (l2) have address pools")
        grown = [
            await self.pools.more_room(resource.resource_id, subnet.cidr)
            for resource in document.resources_of(self.here.name)
            for subnet in resource.subnets
        ]
        if not any(grown):
            raise PoolExhausted(
                "no member has addresses to spare now; free some, or make the network larger",
                sites=[m.site for m in document.members],
            )

    # -- operators -----------------------------------------------------------------------------------

    async def takeover(
        self, caller: Caller, ctx: Context, service_id: str, gone: frozenset[str]
    ) -> ServiceView:
        """This site becomes the master. gone: sites that the operator declares lost for good."""
        try:
            if not caller.admin:
                raise NotAuthorised("a takeover is for operators: it needs the role admin")
            row = await self._row(service_id)
            if await self.here.store.read(lambda tx: tx.fenced(service_id)):
                await self._in_time(ctx, service_id, self.rejoining.rejoin(ctx, service_id, gone))
            elif row.document.epoch.site != self.here.number or fenced(row.document, row.promised):
                await self._in_time(ctx, service_id, self.takeover_.run(ctx, service_id, gone))
        except DiminetError as error:
            await self._audit(ctx, service_id, "takeover", error)
            raise
        return await self.show(caller, service_id)

    async def forget(self, caller: Caller, ctx: Context, service_id: str, site: str) -> ServiceView | None:
        """The operator's word that the database of a site that is no member any more is destroyed. None:
        the service was only waiting for it, and is gone."""
        try:
            if not caller.admin:
                raise NotAuthorised("forgetting a site is for operators: it needs the role admin")
            row = await self._row(service_id)
            await self.forgetting.forget(ctx, row, site)
        except DiminetError as error:
            await self._audit(ctx, service_id, "forget", error)
            raise
        after = await self.here.store.read(lambda tx: tx.service(service_id))
        return None if after is None or after.settled else await self.views.of(after)

    # -- audit ---------------------------------------------------------------------------------------

    async def refused(self, caller: Caller | None, ctx: Context, what: str, error: DiminetError) -> None:
        """A request that was refused before it came here."""
        await self._audit(ctx, None, what, error)

    async def _audit(self, ctx: Context, service_id: str | None, what: str, error: DiminetError) -> None:
        event = self.here.event(
            "request-refused",
            ctx,
            service_id,
            operation=what,
            code=error.code,
            message=error.message,
            sites=list(error.sites),
        )
        await self.here.store.write(lambda tx: tx.add_event(event))
        await self.here.tell_news()
