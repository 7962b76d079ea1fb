"""How a service is at this site, as it is told to peers that have a part in it."""

from collections.abc import Sequence

from diminet.engine.drift import Drift
from diminet.engine.instance import Instance
from diminet.engine.ports import SITE, HeldBlock, MemberRow, ServiceRow, Tx
from diminet.messages import Context, MemberState, Snapshot
from diminet.model import Document, OperatingStatus, ProvisioningStatus


class States:
    def __init__(self, here: Instance, drift: Drift) -> None:
        self.here = here
        self.drift = drift

    async def state(self, service_id: str, asked: Document) -> MemberState:
        """How our part is; of a service that we do not know, that nothing is here."""

        def look(tx: Tx) -> tuple[ServiceRow | None, list[HeldBlock], list[MemberRow]]:
            return tx.service(service_id), tx.blocks(service_id), tx.members(service_id)

        row, held, asked_too = await self.here.store.read(look)
        if row is None:
            return MemberState(
                site=self.here.name,
                pair=asked.pair,
                applied=asked.pair,
                provisioning_status=ProvisioningStatus.ACTIVE,
                operating_status=OperatingStatus.OFFLINE,
            )
        return self.state_of(row, held).model_copy(update={"also": self._also(row.document, asked_too)})

    def _also(self, document: Document, known: Sequence[MemberRow]) -> tuple[str, ...]:
        """Whom we, as the master before, have taken in and the present one may not know of."""
        if self.here.name not in document.former or document.tombstone:
            return ()
        told = {m.site for m in document.members} | document.departed.keys()
        return tuple(sorted(m.site for m in known if not m.clean and m.site not in told))

    def state_of(self, row: ServiceRow, held: Sequence[HeldBlock]) -> MemberState:
        done = row.applied == row.document.pair
        told = row.left is not None  # all that we know, so that nothing of ours is thought lost
        given = [h.block for h in held if told or (h.block.giver == self.here.name and h.block.version > 1)]
        return MemberState(
            site=self.here.name,
            pair=row.document.pair,
            applied=row.applied,
            provisioning_status=ProvisioningStatus.ACTIVE if done else row.status,
            operating_status=self.drift.operating(row),
            warnings=row.warnings,
            fault=(row.fault or {}).get("message"),
            blocks=tuple(given),
            left=row.left,
        )

    async def snapshot(self, ctx: Context, service_id: str) -> Snapshot:
        """All that we have of a service, for a site that has a part in it; else as if unknown."""

        return await self.here.store.read(lambda tx: self._snapshot(tx, service_id, ctx.sender))

    def _snapshot(self, tx: Tx, service_id: str, asker: str | None) -> Snapshot:
        row = tx.service(service_id)
        if row is None or not self._concerns(row, tx.members(service_id), asker):
            return Snapshot(document=None, state=None, fenced=tx.fenced(SITE))
        held = tx.blocks(service_id)
        return Snapshot(
            document=row.document,
            state=self.state_of(row, held),
            blocks=tuple(h.block for h in held),
            confirmed=row.confirmed == row.document.pair,
            ports=self.drift.audit.mine.get(service_id, {}),
            promised=row.promised,
            asked=tx.block_requests(service_id, asker) if asker else {},
            fenced=tx.fenced(service_id),
        )

    @staticmethod
    def _concerns(row: ServiceRow, asked: Sequence[MemberRow], sender: str | None) -> bool:
        return (
            sender is None
            or row.document.member(sender) is not None
            or any(member.site == sender and not member.clean for member in asked)
        )
