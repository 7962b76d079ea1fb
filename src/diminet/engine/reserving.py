"""Asking all sites at once to reserve, and what to do when two requests meet (DESIGN section 5, Conflicts).

The lowest ticket keeps what it has and asks the busy sites again; any other releases all its own and
begins anew with the same ticket; both until the deadline.
"""

import asyncio
from collections.abc import Mapping, Sequence

from diminet.engine.instance import Instance
from diminet.engine.outbox import Outbox
from diminet.engine.reservations import Reservations
from diminet.errors import (
    DiminetError,
    ResourceBusy,
    RevisionConflict,
    ServiceNotFound,
    SiteUnreachable,
    TooManyRequests,
    Unavailable,
)
from diminet.logic.lifecycle import after_busy
from diminet.messages import Context, Reservation, ReserveRequest
from diminet.model import Ticket

Answer = Reservation | DiminetError


class Reserving:
    def __init__(self, here: Instance, reservations: Reservations, outbox: Outbox) -> None:
        self.here = here
        self.reservations = reservations
        self.outbox = outbox

    async def all(
        self, ctx: Context, requests: Mapping[str, ReserveRequest], *, defer: bool
    ) -> tuple[dict[str, Reservation], list[str]]:
        """Reserve at every site of `requests`: the promises, and (defer) the sites that are away.

        Raises the refusal that counts, everything released then, as far as the sites can be told."""
        got: dict[str, Reservation] = {}
        deadline = ctx.deadline or self.here.clock.now() + self.here.limits.request_timeout
        while True:
            if defer:  # a site that is silent must leave time to make the service among the others
                now = self.here.clock.now()
                ctx = ctx.model_copy(update={"deadline": now + (deadline - now) / 2})
            asked = [site for site in requests if site not in got]
            answers = await asyncio.gather(*(self._ask(ctx, site, requests[site]) for site in asked))
            errors: dict[str, DiminetError] = {}
            for site, answer in zip(asked, answers, strict=True):
                if isinstance(answer, Reservation):
                    got[site] = answer
                else:
                    errors[site] = answer
            away = [s for s, e in errors.items() if defer and isinstance(e, SiteUnreachable)]
            errors = {s: e for s, e in errors.items() if s not in away}
            if not errors:
                return got, away
            final = [e for e in errors.values() if not isinstance(e, ResourceBusy) or not e.ticket]
            request = next(iter(requests.values()))
            ticket = request.ticket
            if final or self.here.clock.now() + self.here.limits.busy_pause >= deadline:
                silent = [*away, *(s for s, e in errors.items() if isinstance(e, SiteUnreachable))]
                untold = [*silent, *await self.release(ctx, got)]
                await self.tell_later(ctx, request.service_id, ticket, untold)
                raise worst(final or list(errors.values()))
            holders = [e.ticket for e in errors.values() if e.ticket]
            if after_busy(ticket, [type(ticket)(*h) for h in holders]) == "release":
                await self.release(ctx, got)
                got = {}
            await self.here.clock.sleep(self.here.limits.busy_pause * (0.5 + self.here.clock.random()))

    async def _ask(self, ctx: Context, site: str, request: ReserveRequest) -> Answer:
        try:
            if site == self.here.name:
                return await self.reservations.reserve(ctx, request, self.here.name)
            return await self.here.peers.at(site).reserve(ctx, request)
        except DiminetError as error:
            if not error.sites:
                error.sites = (site,)
            return error

    async def tell_later(self, ctx: Context, service_id: str, ticket: Ticket, sites: Sequence[str]) -> None:
        """Sites that may have promised something for an operation that has come to nothing."""
        word = ticket.word()
        await self.here.store.write(
            lambda tx: self.outbox.post(tx, ctx, service_id, sites, "abort", rid=word)
        )

    async def release(self, ctx: Context, got: Mapping[str, Reservation]) -> tuple[str, ...]:
        """Take the promises back; the sites that could not be told, which let them expire."""
        limits = self.here.limits
        undo = self.here.clock.now() + limits.request_timeout * limits.undo_share
        ctx = ctx.model_copy(update={"deadline": undo})

        async def told(site: str, promise: Reservation) -> bool:
            try:
                if site == self.here.name:
                    await self.reservations.release(promise.rid)
                else:
                    await self.here.peers.at(site).abort(ctx, promise.service_id, promise.rid)
            except DiminetError:
                return False
            return True

        answers = await asyncio.gather(*(told(site, promise) for site, promise in got.items()))
        return tuple(site for site, done in zip(got, answers, strict=True) if not done)


def for_good(error: DiminetError) -> bool:
    """Whether asking again in a moment would be told the same."""
    passing = (Unavailable, TooManyRequests, RevisionConflict, ServiceNotFound)
    busy = isinstance(error, ResourceBusy) and (error.ticket or error.retry_after)
    return not (busy or isinstance(error, passing))


def worst(errors: Sequence[DiminetError]) -> DiminetError:
    """The one to tell the user: a refusal before an absence, absences put together in one sentence."""
    refusals = [e for e in errors if not isinstance(e, SiteUnreachable)]
    if refusals:
        return refusals[0]
    sites = sorted({site for e in errors for site in e.sites})
    if len(sites) == 1:
        return errors[0]
    return SiteUnreachable(
        f"sites {', '.join(sites)} do not answer; nothing was changed; try again later, or with "
        "on_unreachable=defer",
        sites=sites,
        retry_after=max(e.retry_after or 5.0 for e in errors),
    )
