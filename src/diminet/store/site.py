"""What concerns this site as a whole: its identifiers, the peers it has met, leases, the database."""

import sqlalchemy as sa

from diminet.engine.ports import Meta, PeerRow
from diminet.store.rows import Rows
from diminet.store.tables import identifiers, leases, meta, peers


class SiteWide(Rows):
    def take_identifier(self, service_id: str, low: int, high: int) -> int | None:
        """The same again for a service that has one. Behind the highest while there is room, so that
        the search for a gap among all of them is rare."""
        number = self._number_of(service_id)
        if number is not None:
            return number
        highest = self._db.execute(_HIGHEST, {"high": high}).scalar()
        following = max(low, (highest or 0) + 1)
        number = following if following <= high else self._lowest_free(low, high)
        if number is not None:
            self._db.execute(_MINT, {"number": number, "service_id": service_id})
        return number

    def identifier_holder(self, number: int) -> str | None:
        return self._db.execute(_HOLDER_OF, {"number": number}).scalar()

    def release_identifier(self, service_id: str) -> None:
        self._drop(identifiers, service_id=service_id)

    def _number_of(self, service_id: str) -> int | None:
        return self._db.execute(_NUMBER_OF, {"service_id": service_id}).scalar()

    def _lowest_free(self, low: int, high: int) -> int | None:
        at_low = sa.select(identifiers.c.number).where(identifiers.c.number == low)
        if low <= high and self._db.execute(at_low).first() is None:
            return low
        following = identifiers.alias("following")
        gap = (
            sa.select(identifiers.c.number + 1)
            .where(identifiers.c.number >= low, identifiers.c.number < high)
            .where(~sa.exists().where(following.c.number == identifiers.c.number + 1).correlate(identifiers))
            .order_by(identifiers.c.number)
            .limit(1)
        )
        return self._db.execute(gap).scalar()

    # -- peers --

    def peer(self, site: str) -> PeerRow | None:
        body = self._db.execute(_PEER, {"site": site}).scalar()
        return None if body is None else PeerRow.model_validate_json(body)

    def peers(self) -> list[PeerRow]:
        rows = self._bodies(_PEERS)
        return [PeerRow.model_validate_json(body) for body in rows]

    def save_peer(self, row: PeerRow) -> None:
        self._put(peers, {"site": row.site}, {"body": row.model_dump_json()})

    # -- leases and the database itself --

    def lease(self, name: str, holder: str, now: float, seconds: float) -> bool:
        held = self._db.execute(_LEASE, {"name": name}).first()
        # Beyond now + seconds nobody can have taken it: the clock was set back since.
        if held is not None and held.holder != holder and now < held.expires_at <= now + seconds:
            return False
        self._put(leases, {"name": name}, {"holder": holder, "expires_at": now + seconds})
        return True

    def meta(self) -> Meta:
        row = self._db.execute(_META).one()
        return Meta(database_id=row.database_id, incarnation=row.incarnation, writes=row.writes, key=row.key)

    def outbid_writes(self, seen: int) -> None:
        self._db.execute(meta.update().where(meta.c.writes <= seen).values(writes=seen + 1))


_HIGHEST = sa.select(sa.func.max(identifiers.c.number)).where(identifiers.c.number <= sa.bindparam("high"))
_NUMBER_OF = sa.select(identifiers.c.number).where(identifiers.c.service_id == sa.bindparam("service_id"))
_HOLDER_OF = sa.select(identifiers.c.service_id).where(identifiers.c.number == sa.bindparam("number"))
_MINT = identifiers.insert().inline()
_PEER = sa.select(peers.c.body).where(peers.c.site == sa.bindparam("site"))
_PEERS = sa.select(peers.c.body).order_by(peers.c.site)
_LEASE = sa.select(leases).where(leases.c.name == sa.bindparam("name"))
_META = sa.select(meta.c.database_id, meta.c.incarnation, meta.c.writes, meta.c.key)
COUNT_WRITE = meta.update().values(writes=meta.c.writes + 1)
