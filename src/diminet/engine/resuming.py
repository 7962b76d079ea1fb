"""Operations that nobody carries on: overrun by their time, or left by a process that has stopped.

What was committed is finished; what was not is undone. A running operation of another process is left
to it until its deadline.
"""

import asyncio

import structlog

from diminet.engine.coordinator import Coordinator
from diminet.engine.instance import Instance
from diminet.engine.ports import IntentRow, ServiceRow, Tx
from diminet.errors import DiminetError, SiteUnreachable
from diminet.messages import Context

log = structlog.get_logger()


class Resuming:
    def __init__(self, here: Instance, coordinator: Coordinator) -> None:
        self.here = here
        self.coordinator = coordinator

    # -- out of time -------------------------------------------------------------------------------

    async def abandon(self, ctx: Context, service_id: str, error: DiminetError) -> None:
        """An operation that has overrun its time was stopped; undo it, as after a crash."""
        running = self.coordinator.running
        if service_id in running:
            return
        running.add(service_id)
        try:
            await self._undo(ctx, service_id, error)
        except DiminetError:
            return  # its intent is still there: resumed by the loop
        finally:
            running.discard(service_id)

    async def _undo(self, ctx: Context, service_id: str, error: DiminetError) -> None:
        def look(tx: Tx) -> tuple[IntentRow | None, ServiceRow | None]:
            return tx.intent(service_id), tx.service(service_id)

        intent, row = await self.here.store.read(look)
        if intent is None or intent.request_id != ctx.request_id:
            return  # it never began, or is another's
        if row is None:
            await self.coordinator.undoing.give_up(ctx, intent, error, intent.sites)
        elif intent.before is not None and row.document.pair == intent.before.pair:
            await self.coordinator.undoing.drop_intent(ctx, intent, error, intent.sites)
        elif not row.document.tombstone:
            await self.coordinator.undoing.take_back(ctx, intent, row.document, error)

    # -- after a crash -----------------------------------------------------------------------------

    async def resume(self) -> None:
        """Operations that no process runs any more: finish them if they were committed, else undo."""
        intents = await self.here.store.read(lambda tx: tx.intents())
        now, master = self.here.clock.now(), self.coordinator
        most = self.here.limits.request_timeout  # a deadline beyond it: the clock was set back since
        due = [
            intent
            for intent in intents
            if intent.service_id not in master.running
            and (intent.holder == master.process or not now < intent.deadline <= now + most)
        ]
        await asyncio.gather(*(self._resume_one(intent) for intent in due))

    async def _resume_one(self, intent: IntentRow) -> None:
        """What fails is tried again at the next turn, and keeps no other from being finished."""
        self.coordinator.running.add(intent.service_id)
        try:
            await self._resume(intent)
        except DiminetError as error:
            log.warning("resume", service=intent.service_id, code=error.code, message=error.message)
        finally:
            self.coordinator.running.discard(intent.service_id)

    async def _resume(self, intent: IntentRow) -> None:
        row = await self.here.store.read(lambda tx: tx.service(intent.service_id))
        ctx = Context(
            request_id=intent.request_id,
            initiator=intent.initiator,
            deadline=self.here.clock.now() + self.coordinator.forward(),
        )
        if row is None:
            gone = SiteUnreachable(
                "the instance stopped before the service was made; ask again",
                sites=[s for s in intent.sites if s != self.here.name],
            )
            await self.coordinator.undoing.give_up(ctx, intent, gone, intent.sites)
        elif intent.before is not None and row.document.pair == intent.before.pair:
            stopped = SiteUnreachable("the instance stopped before the change was made; ask again")
            await self.coordinator.undoing.drop_intent(ctx, intent, stopped, intent.sites)
        elif row.document.tombstone:
            await self.coordinator.undoing.bury(ctx, intent.service_id)
        else:
            await self.coordinator.spreading.spread_behind(ctx, intent)
