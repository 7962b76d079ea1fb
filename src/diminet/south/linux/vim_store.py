"""The linux site's own database of networks, subnets, ports and marks: one SQLite file.

It is apart from DIMINET's database on purpose: the networking service must survive the loss of that
one, and DIMINET finds its own objects again by the marks `ours` and `key` (DESIGN invariant 9).

All of it runs in one worker thread, so transactions are serial; an address is given in the same
transaction that looks for a free one. Errors: StorageUnavailable (locked, full, read-only),
BadSurroundings (another version's file).
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, create_engine, delete, event, func, insert, select, update
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from diminet.errors import BadSurroundings, StorageUnavailable
from diminet.model import Model
from diminet.south.linux.vim_tables import (
    SCHEMA_VERSION,
    Address,
    LinkRow,
    NetworkRow,
    PortRow,
    SubnetRow,
    addresses,
    links,
    marks,
    metadata,
    networks,
    ports,
    schema,
    subnets,
)

T = TypeVar("T")


class VimTx:
    """One transaction. Synchronous: it runs in the store's worker thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _one(self, table: Table, id_: str) -> dict[str, Any] | None:
        row = self._connection.execute(select(table).where(table.c.id == id_)).mappings().first()
        return dict(row) if row else None

    def _all(self, table: Table, where: dict[str, Any]) -> list[dict[str, Any]]:
        statement = select(table).filter_by(**where)
        if "created_at" in table.c:
            statement = statement.order_by(table.c.created_at, table.c.id)
        return [dict(row) for row in self._connection.execute(statement).mappings()]

    def _save(self, table: Table, row: Model, *, leave_out: set[str] | None = None) -> None:
        values = row.model_dump(mode="json", exclude=leave_out)
        known = self._connection.execute(select(table.c.id).where(table.c.id == values["id"])).first()
        if known:
            self._connection.execute(update(table).where(table.c.id == values["id"]).values(**values))
        else:
            self._connection.execute(insert(table).values(**values))

    # networks
    def network(self, network_id: str) -> NetworkRow | None:
        row = self._one(networks, network_id)
        return NetworkRow(**row) if row else None

    def networks(self, **where: Any) -> list[NetworkRow]:
        return [NetworkRow(**row) for row in self._all(networks, where)]

    def save_network(self, row: NetworkRow) -> None:
        self._save(networks, row)

    def delete_network(self, network_id: str) -> None:
        """With its subnets; its ports must be gone."""
        self._connection.execute(delete(subnets).where(subnets.c.network_id == network_id))
        self._connection.execute(delete(networks).where(networks.c.id == network_id))

    # subnets
    def subnet(self, subnet_id: str) -> SubnetRow | None:
        row = self._one(subnets, subnet_id)
        return SubnetRow(**row) if row else None

    def subnets(self, **where: Any) -> list[SubnetRow]:
        return [SubnetRow(**row) for row in self._all(subnets, where)]

    def save_subnet(self, row: SubnetRow) -> None:
        self._save(subnets, row)

    def delete_subnet(self, subnet_id: str) -> None:
        self._connection.execute(delete(subnets).where(subnets.c.id == subnet_id))

    def used(self, subnet_id: str) -> set[str]:
        """The addresses of ports in that subnet."""
        statement = select(addresses.c.ip).where(addresses.c.subnet_id == subnet_id)
        return set(self._connection.execute(statement).scalars())

    # ports
    def _with_addresses(self, rows: list[dict[str, Any]]) -> list[PortRow]:
        by_port: dict[str, list[Address]] = {row["id"]: [] for row in rows}
        statement = select(addresses).order_by(addresses.c.subnet_id, addresses.c.ip)
        if len(rows) == 1:
            statement = statement.where(addresses.c.port_id == rows[0]["id"])
        elif len({row["network_id"] for row in rows}) == 1:
            of_network = select(subnets.c.id).where(subnets.c.network_id == rows[0]["network_id"])
            statement = statement.where(addresses.c.subnet_id.in_(of_network))
        for subnet_id, ip, port_id in self._connection.execute(statement):
            if port_id in by_port:
                by_port[port_id].append(Address(subnet_id=subnet_id, ip=ip))
        for found in by_port.values():
            found.sort(key=lambda address: ":" in address.ip)  # IPv4 first
        return [PortRow(**row, fixed_ips=tuple(by_port[row["id"]])) for row in rows]

    def port(self, port_id: str) -> PortRow | None:
        row = self._one(ports, port_id)
        return self._with_addresses([row])[0] if row else None

    def ports(self, **where: Any) -> list[PortRow]:
        rows = self._all(ports, where)
        return self._with_addresses(rows) if rows else []

    def count_ports(self, project_id: str) -> int:
        statement = select(func.count()).select_from(ports).where(ports.c.project_id == project_id)
        return int(self._connection.execute(statement).scalar_one())

    def has_mac(self, network_id: str, mac: str) -> bool:
        statement = select(ports.c.id).where(ports.c.network_id == network_id, ports.c.mac == mac)
        return self._connection.execute(statement).first() is not None

    def save_port(self, row: PortRow) -> None:
        """With its addresses; the primary key of `addresses` holds that none is given twice."""
        self._save(ports, row, leave_out={"fixed_ips"})
        self._connection.execute(delete(addresses).where(addresses.c.port_id == row.id))
        for address in row.fixed_ips:
            self._connection.execute(insert(addresses).values(**address.model_dump(), port_id=row.id))

    def delete_port(self, port_id: str) -> None:
        self._connection.execute(delete(addresses).where(addresses.c.port_id == port_id))
        self._connection.execute(delete(ports).where(ports.c.id == port_id))

    # links of services to networks
    def links(self, **where: Any) -> list[LinkRow]:
        return [LinkRow(**row) for row in self._all(links, where)]

    def set_links(self, service_id: str, rows: Iterable[LinkRow]) -> None:
        """All links of that service, replacing those that it had."""
        self._connection.execute(delete(links).where(links.c.service_id == service_id))
        for row in rows:
            self._connection.execute(insert(links).values(**row.model_dump()))

    # marks
    def mark(self, name: str) -> str | None:
        return self._connection.execute(select(marks.c.value).where(marks.c.name == name)).scalar()

    def set_mark(self, name: str, value: str) -> None:
        self._connection.execute(delete(marks).where(marks.c.name == name))
        self._connection.execute(insert(marks).values(name=name, value=value))


class VimStore:
    """The SQLite file at `path` (made if missing), used from one worker thread of its own.

    busy_timeout: seconds to wait for a lock that another process holds.
    """

    def __init__(self, path: Path, *, busy_timeout: float = 5.0) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vim-store")
        self._engine = _engine(path, busy_timeout)

    async def open(self) -> None:
        """Make the schema if the file is new. Raises BadSurroundings if it is of another version."""
        await self._run(self._prepare)

    async def close(self) -> None:
        await self._run(self._engine.dispose)
        self._thread.shutdown(wait=True)

    async def write(self, decide: Callable[[VimTx], T]) -> T:
        """Run `decide` in one immediate transaction: on disk when this returns, undone if it raises."""
        return await self._run(lambda: self._transact(decide, "BEGIN IMMEDIATE"))

    async def read(self, look: Callable[[VimTx], T]) -> T:
        return await self._run(lambda: self._transact(look, "BEGIN"))

    async def _run(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, work)
        except DBAPIError as error:
            raise StorageUnavailable(
                f"The networking service's database {self._path} cannot be used ({error.orig}); "
                f"{self._what_to_do(error)}.",
                retry_after=1.0,
            ) from error

    def _what_to_do(self, error: DBAPIError) -> str:
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # the rest says in which way
        if code not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return "free its disk, or end what locks it, and try again"
        return (
            f"it is damaged: stop DIMINET and put a copy of it from a backup back, or move {self._path}, "
            f"{self._path.name}-wal and {self._path.name}-shm away to begin with an empty one; then all "
            "networks, subnets and ports of this site, and which addresses were given out, are lost, and "
            "its part of every inter-site service has to be made anew"
        )

    def _transact(self, work: Callable[[VimTx], T], begin: str) -> T:
        with self._engine.connect().execution_options(begin=begin) as connection, connection.begin():
            return work(VimTx(connection))

    def _prepare(self) -> None:
        with self._engine.connect().execution_options(begin="BEGIN IMMEDIATE") as db, db.begin():
            metadata.create_all(db)
            version = db.execute(select(schema.c.version)).scalar()
            if version is None:
                db.execute(insert(schema).values(version=SCHEMA_VERSION))
            elif version != SCHEMA_VERSION:
                raise BadSurroundings(
                    f"{self._path} has schema version {version}, this program knows {SCHEMA_VERSION}; "
                    "start the DIMINET version that wrote it."
                )


def _engine(path: Path, busy_timeout: float) -> Engine:
    """One connection that lives as long as the engine; transactions are begun by hand."""
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=StaticPool,
        connect_args={"timeout": busy_timeout, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def prepare(raw: Any, _record: Any) -> None:
        raw.isolation_level = None  # sqlite3 shall not begin transactions by itself
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            raw.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))

    return engine
