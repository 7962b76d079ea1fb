"""Two sites, A (who answers) and B (who asks), with real TLS on loopback."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diminet.east_west import pki
from diminet.east_west.client import HttpPeers
from diminet.east_west.server import make_east_west_app
from diminet.east_west.tls import Credentials, TlsFiles
from diminet.errors import SiteUnknown
from diminet.listener import Listener
from diminet.messages import (
    Acknowledgement,
    BlockGrant,
    ChangeAnswer,
    Context,
    Hello,
    MemberState,
    Reservation,
    Snapshot,
    SyncReport,
    Vote,
)
from diminet.model import (
    Block,
    Capabilities,
    Document,
    Epoch,
    Identifiers,
    Initiator,
    Member,
    OperatingStatus,
    Pair,
    ProvisioningStatus,
    Resource,
    Site,
)

SERVICE = str(uuid.UUID(int=7))
INITIATOR = Initiator(user_id="zoë", project_id="demo", site="B")


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


def context(**changes: Any) -> Context:
    return Context(request_id="req-" + str(uuid.uuid4()), initiator=INITIATOR).model_copy(update=changes)


def document(**changes: Any) -> Document:
    return Document(
        service_id=SERVICE,
        epoch=Epoch(1, 2),
        revision=3,
        type="l2",
        project_id="demo",
        members=(Member(site="B", number=2, slot=1), Member(site="A", number=1, slot=2, rid="r-1")),
        resources=(Resource(site="B", resource_id="net"),),
        identifiers=Identifiers(vni=8193, asn=64999),
        initiator=INITIATOR,
        created_at=1.5,
        updated_at=2.5,
    ).model_copy(update=changes)


class RecordingHorizontal:
    """A double of engine.ports.Horizontal: keeps what it was told and gives fixed answers.

    error: raised instead of every answer. delay_s: before it.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.delay_s = 0.0

    async def _note(self, *call: Any) -> None:
        self.calls.append(call)
        await asyncio.sleep(self.delay_s)
        if self.error is not None:
            raise self.error

    async def hello(self, ctx):
        await self._note("hello", ctx)
        return Hello(name="A", number=1, protocol="1.0", incarnation="inc-A")

    async def reserve(self, ctx, request):
        await self._note("reserve", ctx, request)
        return Reservation(
            rid="r-1",
            service_id=SERVICE,
            site="A",
            number=1,
            expires_at=9.0,
            capabilities=Capabilities(kind="linux"),
            resources=(),
        )

    async def put(self, ctx, service_id, put):
        await self._note("put", ctx, service_id, put)
        return MemberState(
            site="A",
            pair=Pair(Epoch(1, 2), 3),
            applied=None,
            provisioning_status=ProvisioningStatus.ACTIVE,
            operating_status=OperatingStatus.ONLINE,
        )

    async def bury(self, ctx, service_id, tombstone):
        await self._note("bury", ctx, service_id, tombstone)
        return Acknowledgement(site="A", clean=True, also=("C",))

    async def abort(self, ctx, service_id, rid):
        await self._note("abort", ctx, service_id, rid)

    async def snapshot(self, ctx, service_id):
        await self._note("snapshot", ctx, service_id)
        return Snapshot(document=document(), state=None)

    async def give(self, ctx, service_id, request):
        await self._note("give", ctx, service_id, request)
        block = Block(cidr="10.0.0.0/24", index=3, owner="B", version=2, giver="A")
        return BlockGrant(blocks=(block,), spare=4)

    async def hand_in(self, ctx, service_id, change):
        await self._note("hand_in", ctx, service_id, change)
        return ChangeAnswer(document=document(), waiting=("C",))

    async def vote(self, ctx, service_id, request):
        await self._note("vote", ctx, service_id, request)
        return Vote(site="A", granted=True, pair=Pair(Epoch(1, 2), 3), promised=request.epoch)

    async def sync(self, ctx, mine=None):
        await self._note("sync", ctx, mine)
        return SyncReport(site="A", number=1, incarnation="inc-A", services=())


class TableDirectory:
    """A double of engine.ports.Directory: a dict."""

    def __init__(self, *names: str) -> None:
        self.table = {
            name: Site(name=name, number=n, north_url="http://x", east_west_url="https://127.0.0.1:1")
            for n, name in enumerate(names, 1)
        }

    def point(self, name: str, port: int, host: str = "127.0.0.1") -> None:
        self.table[name] = self.table[name].model_copy(update={"east_west_url": f"https://{host}:{port}"})

    async def site(self, name: str) -> Site:
        if name not in self.table:
            raise SiteUnknown(f"no site {name}", sites=[name])
        return self.table[name]

    async def sites(self) -> tuple[Site, ...]:
        return tuple(self.table.values())


@dataclass
class World:
    """A CA with certificates for A and B, and what it takes to run them. recheck_s is 0: files are
    looked at before every use."""

    root: Path
    horizontal: RecordingHorizontal = field(default_factory=RecordingHorizontal)
    directory: TableDirectory = field(default_factory=lambda: TableDirectory("A", "B"))
    received: list[tuple[str, str, str, str]] = field(default_factory=list)

    @property
    def ca(self) -> Path:
        return self.root / "ca"

    def files(self, site: str, ca: str = "ca", **more: Any) -> TlsFiles:
        """Certificate of the site, issued at the first call. more: for pki.issue."""
        out = self.root / f"{ca}-{site}"
        if not (self.root / ca).exists():
            pki.init_ca(self.root / ca)
        if not out.exists():
            pki.issue(self.root / ca, site, ["127.0.0.1"], out, **more)
        site_files = pki.SiteFiles(out)
        return TlsFiles(ca=site_files.ca, cert=site_files.cert, key=site_files.key, crl=site_files.crl)

    def credentials(self, site: str, **more: Any) -> Credentials:
        return Credentials(self.files(site), site, recheck_s=0.0, **more)

    @contextlib.asynccontextmanager
    async def serving(self, credentials: Credentials | None = None, **limits: Any) -> AsyncIterator[Listener]:
        credentials = credentials or self.credentials("A")
        app = make_east_west_app(
            self.horizontal,
            site_name="A",
            directory=self.directory,
            incarnation=lambda: "inc-A",
            received=lambda *what: self.received.append(what),
            revoked=credentials.revoked,
            **limits,
        )
        listener = Listener(app, "127.0.0.1", 0, credentials.server(), name="east-west API", grace_s=1)
        await listener.start()
        self.directory.point("A", listener.port)
        try:
            yield listener
        finally:
            await listener.stop()

    @contextlib.asynccontextmanager
    async def peers(self, credentials: Credentials | None = None, **more: Any) -> AsyncIterator[HttpPeers]:
        peers = HttpPeers(
            self.directory,
            site_name="B",
            credentials=credentials or self.credentials("B"),
            incarnation=lambda: "inc-B",
            **more,
        )
        try:
            yield peers
        finally:
            await peers.close()
