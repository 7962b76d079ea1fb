"""Certificates, CA, revocation lists and the directory are changed under running instances, over real TLS on
loopback: nothing is restarted, nobody is cut off who should not be, and who should be is, at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from doors_world import NAMES, World, opened

from diminet.directory import file as directory_file
from diminet.directory.file import FileDirectory
from diminet.east_west import pki
from diminet.east_west.client import HttpPeers
from diminet.east_west.server import make_east_west_app
from diminet.east_west.tls import Credentials, TlsFiles, check
from diminet.errors import BadSurroundings, DiminetError, NotAuthorised, SiteUnreachable
from diminet.listener import Listener
from diminet.messages import Tombstone
from diminet.model import Site
from diminet.telemetry import Metrics

NOW = 0.0  # seconds between two looks at a file


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 120))


class Operator:
    """Who keeps the CAs, and copies files to the sites."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ports: dict[str, int] = {}

    def ca(self, name: str) -> Path:
        if not (self.home / name).exists():
            pki.init_ca(self.home / name)
        return self.home / name

    def files(self, site: str) -> TlsFiles:
        made = pki.SiteFiles(self.home / "at" / site)
        return TlsFiles(ca=made.ca, cert=made.cert, key=made.key, crl=made.crl)

    def install(self, site: str, issuer: str, *trusted: str) -> None:
        """A pair of that CA, and the certificates and lists of all that are trusted."""
        made = self.home / f"{issuer}-{site}"
        if not made.exists():
            pki.issue(self.ca(issuer), site, ["127.0.0.1"], made)
        files = self.files(site)
        files.cert.parent.mkdir(parents=True, exist_ok=True)
        self.trust(site, *trusted)
        files.key.write_bytes((made / "site.key").read_bytes())
        files.cert.write_bytes((made / "site.pem").read_bytes())

    def trust(self, site: str, *trusted: str) -> None:
        files = self.files(site)
        assert files.crl is not None
        files.crl.write_bytes(b"".join((self.ca(ca) / "crl.pem").read_bytes() for ca in trusted))
        files.ca.write_bytes(b"".join((self.ca(ca) / "ca.pem").read_bytes() for ca in trusted))

    def sites_file(self, site: str) -> Path:
        return self.home / f"sites-{site}.toml"

    def list_sites(self, site: str, *names: str) -> None:
        """The directory that this site has."""
        sites = [
            Site(
                name=name,
                number=NAMES.index(name) + 1,
                north_url=f"https://127.0.0.1:{number}",
                east_west_url=f"https://127.0.0.1:{self.ports.get(name, number)}",
            )
            for number, name in enumerate(names, 1)
        ]
        directory_file.write(self.sites_file(site), sites)


class Door:
    """One site: its east-west port and its way to the others."""

    def __init__(self, world: World, operator: Operator, site: str) -> None:
        self.world, self.site, self.metrics = world, site, Metrics()
        self.credentials = Credentials(operator.files(site), site, recheck_s=NOW)
        operator.list_sites(site, *NAMES)
        number = NAMES.index(site) + 1
        self.directory = FileDirectory(operator.sites_file(site), site, number, recheck_s=NOW)
        app = make_east_west_app(
            world.cloud[site],
            site_name=site,
            directory=self.directory,
            incarnation=lambda: "inc",
            received=self.metrics.east_west_received,
            revoked=self.credentials.revoked,
        )
        self.listener = Listener(app, "127.0.0.1", 0, self.credentials.server(), grace_s=1)
        self.kept = self.peers()

    def peers(self) -> HttpPeers:
        """A way without connections yet; `kept` is the one whose connections are held."""
        return HttpPeers(
            self.directory, site_name=self.site, credentials=self.credentials, incarnation=lambda: "inc"
        )

    async def hello(self, other: str) -> None:
        """On the held connections, and on a new one."""
        ctx = self.world.cloud.ctx(self.site)
        assert (await self.kept.at(other).hello(ctx)).name == other
        fresh = self.peers()
        try:
            assert (await fresh.at(other).hello(ctx)).name == other
        finally:
            await fresh.close()

    async def refused(self, other: str) -> list[DiminetError]:
        """What the other end, or this one, says to the same."""
        ctx, fresh, found = self.world.cloud.ctx(self.site), self.peers(), []
        for way in (self.kept, fresh):
            with pytest.raises((NotAuthorised, SiteUnreachable)) as caught:
                await way.at(other).hello(ctx)
            found.append(caught.value)
        await fresh.close()
        return found


@contextlib.asynccontextmanager
async def doors(operator: Operator, *names: str) -> AsyncIterator[dict[str, Door]]:
    world = await opened()
    made = {name: Door(world, operator, name) for name in names}
    try:
        for name, door in made.items():
            await door.listener.start()
            operator.ports[name] = door.listener.port
        for name in names:
            operator.list_sites(name, *NAMES)
        yield made
    finally:
        for door in made.values():
            await door.kept.close()
            await door.listener.stop()
        await world.cloud.close()


async def all_speak(made: dict[str, Door]) -> None:
    for site, door in made.items():
        for other in made:
            if other != site:
                await door.hello(other)


def test_another_ca_takes_over_step_by_step_and_nobody_is_cut_off_meanwhile(tmp_path):
    async def main():
        operator = Operator(tmp_path)
        for site in "AB":
            operator.install(site, "old", "old")
        async with doors(operator, "A", "B") as made:
            await all_speak(made)
            for site in "AB":  # 1. both CAs are trusted everywhere, one site after the other
                operator.trust(site, "old", "new")
                await all_speak(made)
            for site in "AB":  # 2. certificates of the new one
                operator.install(site, "new", "old", "new")
                await all_speak(made)
            for site in "AB":  # 3. the old one is no longer trusted
                operator.trust(site, "new")
                await all_speak(made)
            operator.install("B", "old", "old", "new")  # who comes back with the old one
            assert {type(e) for e in await made["B"].refused("A")} == {SiteUnreachable}

    run(main())


def test_who_is_revoked_by_either_of_two_cas_is_shut_out_on_open_connections_too(tmp_path):
    async def main():
        operator = Operator(tmp_path)
        for site, issuer in (("A", "old"), ("B", "old"), ("D", "new")):
            operator.install(site, issuer, "old", "new")
        async with doors(operator, "A", "B", "D") as made:
            await all_speak(made)
            for site, issuer in (("D", "new"), ("B", "old")):
                pki.revoke(operator.ca(issuer), site)
                operator.trust("A", "old", "new")
                assert all("revoked" in e.message for e in await made[site].refused("A"))
                await made["A"].refused(site)  # nor does A speak to it, whatever it knows itself
                ctx = made["A"].world.cloud.ctx(site)
                stone = Tombstone(service_id=made["A"].world.x.service_id)
                with pytest.raises((NotAuthorised, SiteUnreachable)):
                    await made[site].kept.at("A").bury(ctx, stone.service_id, stone)
            text = made["A"].metrics.text().decode()
            assert 'code="not-authorised",direction="in",kind="hello",peer="unknown"' in text
            pki.renew(operator.ca("old"), operator.home / "old-B")  # B may stay: it gets a new one
            operator.install("B", "old", "old", "new")
            await made["B"].hello("A")
            await made["A"].hello("B")

    run(main())


def test_who_is_taken_out_of_the_directory_is_refused_at_once_and_may_come_back(tmp_path):
    async def main():
        operator = Operator(tmp_path)
        for site in "AB":
            operator.install(site, "old", "old")
        async with doors(operator, "A", "B") as made:
            await all_speak(made)
            operator.list_sites("A", "A", "C", "D")
            assert {e.code for e in await made["B"].refused("A")} == {"not-authorised"}
            operator.list_sites("A", *NAMES)
            await all_speak(made)

    run(main())


def test_a_ca_without_its_revocation_list_is_not_taken_up(tmp_path):
    """OpenSSL would refuse every certificate of it: what is in use stays, and the log says why."""

    async def main():
        operator = Operator(tmp_path)
        for site in "AB":
            operator.install(site, "old", "old")
        async with doors(operator, "A", "B") as made:
            files = operator.files("A")
            files.ca.write_bytes(files.ca.read_bytes() + (operator.ca("new") / "ca.pem").read_bytes())
            await all_speak(made)
            with pytest.raises(BadSurroundings, match=r"append its crl\.pem"):
                check(files, "A")
            operator.trust("A", "old", "new")
            check(files, "A")
            await all_speak(made)

    run(main())


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"]
)
def test_a_list_that_is_none_is_not_taken_up(tmp_path, content):
    operator = Operator(tmp_path)
    operator.install("A", "old", "old")
    files = operator.files("A")
    files.crl.write_bytes(content)
    with pytest.raises(BadSurroundings, match="not a PEM CRL"):
        check(files, "A")
    files.crl.write_bytes((operator.ca("other") / "crl.pem").read_bytes())
    with pytest.raises(BadSurroundings, match="not signed by the CA"):
        check(files, "A")
