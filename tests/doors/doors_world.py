"""Four sites whose production engines stand behind their production east-west apps, asked in process with
the certificates of valid peers: what TLS would have proven is in the scope, nothing else is left out."""

import asyncio
import json
import re
import uuid
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

import simulated_cloud
from diminet.east_west import pki
from diminet.east_west.server import make_east_west_app
from diminet.messages import BlockRequest, ReserveRequest, SyncEntry, SyncReport
from diminet.model import Block, Document, Entry, Initiator, OperatingStatus, ProvisioningStatus, Ticket
from diminet.store.tables import metadata
from diminet.telemetry import Metrics

ROOT = "/intersite-horizontal"
NAMES = "ABCD"
FRESH = str(uuid.UUID(int=77))  # a service that is only being asked for
CIDR = "10.7.0.0/24"
UNTOLD = {"events", "meta", "leases", "peers"}  # tables of the history, and of when who was heard
HEARD = {"services", "member_states"}  # when a member last spoke, whatever it said, is in these
TIME = re.compile(r"\b1\d{9}(\.\d+)?")
BODY_BYTES = 64 * 1024
BODY_TIMEOUT_S = 0.2
CLAIMS = {  # what a proxy might say of who speaks; nobody between two instances may
    "X-Forwarded-Client-Cert": "URI=diminet://site/A",
    "X-SSL-Client-S-DN": "CN=A",
    "Forwarded": "for=A",
    "DIMINET-Sender": "A",
}


class Message(NamedTuple):
    """One request as it is on the wire."""

    method: str
    path: str
    body: bytes = b""
    query: str = ""
    headers: dict[str, str] = {}
    project: str = simulated_cloud.PROJECT
    slow: bool = False  # its body never ends


class Answer(NamedTuple):
    status: int
    code: str  # "ok" or that of the error
    body: Any
    unread: bool  # nothing of the request's body was read


@cache
def certificates() -> dict[str, bytes]:
    """DER by site: those of NAMES, Z that is in nobody's directory, R whose certificate is revoked."""
    with TemporaryDirectory() as made:
        home = Path(made)
        pki.init_ca(home / "ca")
        return {
            site: x509.load_pem_x509_certificate(
                pki.issue(home / "ca", site, [], home / site).cert.read_bytes()
            ).public_bytes(Encoding.DER)
            for site in (*NAMES, "Z", "R")
        }


def revoked_serial() -> int:
    return x509.load_der_x509_certificate(certificates()["R"]).serial_number


@dataclass
class World:
    """X: an L2 service of A (its master), B and D. Y: an L3 service of C (its master) and B, so that C is a
    peer of B like any other. `promise`: what B keeps for A, for the service FRESH."""

    cloud: simulated_cloud.Cloud
    x: Document
    y: Document
    networks: dict[str, str]  # site -> one of demo's own, in no service
    foreign: str  # a network of B, of another project
    blocks: tuple[Block, ...]  # of X, as A knows them
    promise: Any = None
    metrics: dict[str, Metrics] = field(default_factory=lambda: {name: Metrics() for name in NAMES})

    async def send(self, sender: str | None, receiver: str, message: Message) -> Answer:
        """sender: whose certificate; None: without one."""
        read: list[int] = []

        async def receive() -> dict[str, Any]:
            read.append(1)
            if message.slow:
                await asyncio.sleep(BODY_TIMEOUT_S / 4)
                return {"type": "http.request", "body": b" ", "more_body": True}
            return {"type": "http.request", "body": message.body, "more_body": False}

        told: list[dict[str, Any]] = []

        async def send(event: dict[str, Any]) -> None:
            told.append(event)

        await self.app(receiver)(self._scope(sender, message), receive, send)
        body = json.loads(b"".join(t.get("body", b"") for t in told) or b"null")
        status = told[0]["status"]
        return Answer(status, "ok" if status < 300 else body["code"], body, not read)

    def app(self, site: str, **limits: Any) -> Any:
        return make_east_west_app(
            self.cloud[site],
            site_name=site,
            directory=self.cloud.names,
            incarnation=lambda: "inc",
            received=self.metrics[site].east_west_received,
            revoked=lambda serial: serial == revoked_serial(),
            max_body_bytes=BODY_BYTES,
            body_timeout_s=BODY_TIMEOUT_S,
            **limits,
        )

    def _scope(self, sender: str | None, message: Message) -> dict[str, Any]:
        initiator = Initiator(user_id="mallory", project_id=message.project, site=sender or "A")
        headers = {
            "X-OpenStack-Request-ID": f"req-{uuid.uuid4()}",
            "DIMINET-Initiator": initiator.model_dump_json(),
            "DIMINET-Incarnation": "inc",
            "DIMINET-Protocol": "1.0",
            **message.headers,
        }
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": message.method,
            "scheme": "https",
            "path": message.path,
            "raw_path": message.path.encode(),
            "query_string": message.query.encode(),
            "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "peer_certificate": certificates()[sender] if sender else None,
        }

    async def settled(self) -> None:
        """What goes on behind the answers has ended."""
        for _ in range(100):
            tasks = [t for name in NAMES for t in self.cloud[name].here.tasks]
            if not tasks:
                return
            await asyncio.gather(*tasks, return_exceptions=True)
        raise AssertionError("work behind the answers does not end")

    async def picture(self) -> dict[str, str]:
        """Every row of every site but of the history, and every site's whole VIM."""
        found: dict[str, str] = {}
        for name in NAMES:
            for table in metadata.sorted_tables:
                if table.name not in UNTOLD:
                    rows = await self.cloud.stores[name].read(
                        lambda tx, t=table: [tuple(row) for row in tx._db.execute(sa.select(t))]
                    )
                    told = repr(sorted(map(repr, rows)))
                    found[f"{name} {table.name}"] = TIME.sub("", told) if table.name in HEARD else told
            vim = self.cloud.vims[name]
            found[f"{name} vim"] = repr((vim.picture(), vim.port_rows, vim.keys, vim.marks))
        return found

    async def events(self, site: str) -> list[Any]:
        return await self.cloud.stores[site].read(
            lambda tx: tx.events(service_id=None, project_id=None, after=0, limit=10_000)
        )

    def counted(self, site: str, peer: str, kind: str, code: str) -> float:
        labels = {"peer": peer, "kind": kind, "direction": "in", "code": code}
        return self.metrics[site].registry.get_sample_value("diminet_east_west_messages_total", labels) or 0.0


async def opened() -> World:
    cloud = simulated_cloud.Cloud(*NAMES)
    net = {name: cloud.vims[name].add_network(f"10.{20 + i}.0.0/24") for i, name in enumerate(NAMES)}
    own = cloud.vims["A"].add_network(CIDR)
    x = await cloud.create("A", "l2", f"A:{own}", "B", "D", params={"block_size": 16})
    y_net = {name: cloud.vims[name].add_network(f"10.{30 + i}.0.0/24") for i, name in enumerate("BC")}
    y = await cloud.create("C", "l3", f"C:{y_net['C']}", f"B:{y_net['B']}")
    foreign = cloud.vims["B"].add_network("10.50.0.0/24", project="other")
    held = await cloud.stores["A"].read(lambda tx: tx.blocks(x.document.service_id))
    world = World(cloud, x.document, y.document, net, foreign, tuple(h.block for h in held))
    told = cloud.ctx("A").model_copy(update={"sender": "A"})
    world.promise = await cloud["B"].reserve(told, reserve_request(world, net["B"]))
    await world.settled()
    return world


def reserve_request(world: World, network: str, **changes: Any) -> ReserveRequest:
    return ReserveRequest(
        service_id=FRESH,
        type="l3",
        project_id=simulated_cloud.PROJECT,
        ticket=Ticket(1, 1, 1),
        lifetime=9.0,
        entries=(Entry(site="B", resource_id=network),),
        members=("A", "B"),
    ).model_copy(update=changes)


def entry_of(document: Document, **changes: Any) -> SyncEntry:
    return SyncEntry(
        service_id=document.service_id,
        pair=document.pair,
        provisioning_status=ProvisioningStatus.ACTIVE,
        operating_status=OperatingStatus.ONLINE,
    ).model_copy(update=changes)


def report_of(site: str, *entries: SyncEntry, number: int | None = None) -> SyncReport:
    return SyncReport(
        site=site, number=number or NAMES.index(site) + 1, incarnation="inc", services=tuple(entries)
    )


def block_request(**changes: Any) -> BlockRequest:
    return BlockRequest(cidr=CIDR, number=1, count=1).model_copy(update=changes)
