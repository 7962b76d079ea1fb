"""Idempotency keys: of equal requests one is done, the others are told its result (DESIGN section 3)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from diminet.engine.instance import Instance
from diminet.engine.ports import Tx
from diminet.errors import IdempotencyConflict, ResourceBusy
from diminet.messages import Caller
from diminet.model import ProvisioningStatus


class Repeats:
    """idempotency: (key, hash of what is asked), of a project."""

    def __init__(self, here: Instance) -> None:
        self.here = here

    def admit(
        self,
        tx: Tx,
        project_id: str,
        idempotency: tuple[str, str] | None,
        service_id: str,
    ) -> None:
        """In the transaction that begins a create, so that of equal requests at once only one begins."""
        if self.repeated(tx, project_id, idempotency) is not None:
            raise ResourceBusy("the first request with this key has just ended; repeat it", retry_after=1.0)
        if idempotency is not None:
            key, body_hash = idempotency
            tx.remember(project_id, key, body_hash, service_id, self.here.clock.now())

    def repeated(self, tx: Tx, project_id: str, idempotency: tuple[str, str] | None) -> str | None:
        """The id of the service that the same request has made already, if any."""
        if idempotency is None:
            return None
        known = tx.idempotent(project_id, idempotency[0], self.here.clock.now())
        return self._replay(tx, known, idempotency[1]) if known is not None else None

    def _replay(self, tx: Tx, known: tuple[str, str], body_hash: str) -> str | None:
        self._same_body(known, body_hash)
        if tx.intent(known[1]) is not None:
            raise ResourceBusy("the first request with this key is still running", retry_after=1.0)
        row = tx.service(known[1])
        return known[1] if row is not None and row.status != ProvisioningStatus.REVOKED else None

    @staticmethod
    def _same_body(known: tuple[str, str], body_hash: str) -> None:
        if known[0] != body_hash:
            raise IdempotencyConflict(
                "this Idempotency-Key was used with another body; use a new key for a new request"
            )

    async def forget(self, project_id: str, idempotency: tuple[str, str] | None, service_id: str) -> None:
        """A failed create is retried, not replayed; the key of another that is running stays."""
        if idempotency is None:
            return
        key, now = idempotency[0], self.here.clock.now()

        def decide(tx: Tx) -> None:
            known = tx.idempotent(project_id, key, now)
            if known is not None and known[1] == service_id:
                tx.forget(project_id, key)

        await self.here.store.write(decide)

    @asynccontextmanager
    async def once(
        self, caller: Caller, idempotency: tuple[str, str] | None, service_id: str
    ) -> AsyncIterator[bool]:
        """Whether to do what is asked of a service, or to tell again how it is now, since a request with
        this key has done it. What fails leaves no key behind, so that it is retried."""
        if idempotency is None:
            yield True
            return
        project, (key, body_hash), now = caller.project_id, idempotency, self.here.clock.now
        async with self.here.locks[f"key {project} {key}"]:
            known = await self.here.store.read(lambda tx: tx.idempotent(project, key, now()))
            if known is not None:
                self._same_body(known, body_hash)
            yield known is None
            if known is None:
                await self.here.store.write(
                    lambda tx: tx.remember(project, key, body_hash, service_id, now())
                )
