"""KeystoneDirectory: what a catalog says (pure), and a real Keystone's."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from diminet.directory.keystone import KeystoneDirectory, read
from diminet.errors import BadSurroundings, SiteUnknown
from diminet.lab.openstack.cloud import Cloud
from diminet.model import Site
from openstack_instance import run, site_cloud


def catalog(*endpoints: tuple[str, str, str]) -> list[dict[str, object]]:
    return [
        {"type": kind, "endpoints": [{"interface": "public", "region_id": region, "url": url}]}
        for region, kind, url in endpoints
    ]


def both(region: str, number: str, host: str) -> tuple[tuple[str, str, str], ...]:
    return (
        (region, "intersite", f"https://{host}:9790"),
        (region, "intersite-horizontal", f"https://{host}:9791/?number={number}"),
    )


def test_a_region_with_both_endpoints_is_a_site() -> None:
    found = read(catalog(*both("paris", "1", "p"), *both("lyon", "2", "l")), "public", {})
    assert found.complaints == ()
    assert found.sites["lyon"] == Site(
        name="lyon", number=2, north_url="https://l:9790", east_west_url="https://l:9791"
    )


def test_other_interfaces_and_services_are_not_looked_at() -> None:
    odd = catalog(("paris", "network", "https://n"))
    assert read(odd, "public", {}).sites == {}
    assert read(catalog(*both("paris", "1", "p")), "internal", {}).sites == {}


@pytest.mark.parametrize(
    "wrong",
    [
        (("nice", "intersite", "https://n:9790"),),
        (("nice", "intersite-horizontal", "https://n:9791/?number=3"),),
        both("nice", "", "n"),
        both("nice", "0", "n"),
        both("nice", "4096", "n"),
        both("nice", "1", "n"),  # paris has it
        both("nice", "3", "p"),  # and this address
        both("nice", "3", "[n"),
        both("not a name", "3", "n"),
        (("nice", "intersite", "https://n"), ("nice", "intersite-horizontal", "http://n/?number=3")),
        (("nice", "intersite", "ftp://n"), ("nice", "intersite-horizontal", "https://n/?number=3")),
    ],
)
def test_a_wrong_entry_is_told_and_harms_no_other(wrong: tuple[tuple[str, str, str], ...]) -> None:
    known = read(catalog(*both("paris", "1", "p")), "public", {}).sites
    found = read(catalog(*both("paris", "1", "p"), *wrong), "public", known)
    assert list(found.sites) == ["paris"]
    assert len(found.complaints) == 1


@pytest.fixture
def registered(cloud: Cloud) -> Iterator[None]:
    """A and B are sites; C is not yet."""
    ids = [
        cloud.register(kind, region, url)
        for region, number in (("A", "1"), ("B", "2"))
        for _, kind, url in both(region, number, region.lower())
    ]
    yield
    for identifier in ids:
        cloud.unregister(identifier)


def directory(cloud: Cloud, path: Path, *, number: int = 1, refresh_s: float = 3600.0) -> object:
    """A context manager around what is opened."""

    class Opened:
        async def __aenter__(self) -> KeystoneDirectory:
            self._stack = site_cloud(cloud, path)
            self._made = KeystoneDirectory(
                self._stack.__enter__(),
                "A",
                number,
                copy=path / "directory.toml",
                interface="public",
                refresh_s=refresh_s,
            )
            await self._made.open()
            return self._made

        async def __aexit__(self, *_: object) -> None:
            await self._made.close()
            self._stack.__exit__(None, None, None)

    return Opened()


def test_the_sites_are_those_of_the_catalog(cloud: Cloud, registered: None, tmp_path: Path) -> None:
    async def go() -> None:
        async with directory(cloud, tmp_path) as opened:
            assert [site.name for site in await opened.sites()] == ["A", "B"]
            assert (await opened.site("B")).number == 2
            with pytest.raises(SiteUnknown, match="A, B"):
                await opened.site("C")

    run(go())


def test_a_region_that_comes_is_found_at_its_first_mention(
    cloud: Cloud, registered: None, tmp_path: Path
) -> None:
    async def go() -> None:
        async with directory(cloud, tmp_path) as opened:
            made = [cloud.register(kind, "C", url) for _, kind, url in both("C", "3", "c")]
            try:
                await asyncio.sleep(1.1)
                assert (await opened.site("C")).number == 3
            finally:
                for identifier in made:
                    cloud.unregister(identifier)

    run(go())


def test_it_is_refreshed_in_the_background(cloud: Cloud, registered: None, tmp_path: Path) -> None:
    async def go() -> None:
        async with directory(cloud, tmp_path, refresh_s=0.1) as opened:
            made = [cloud.register(kind, "C", url) for _, kind, url in both("C", "3", "c")]
            try:
                for _ in range(600):
                    if len(await opened.sites()) == 3:
                        break
                    await asyncio.sleep(0.1)
                assert [site.name for site in await opened.sites()] == ["A", "B", "C"]
            finally:
                for identifier in made:
                    cloud.unregister(identifier)

    run(go())


def test_while_keystone_is_away_the_last_good_copy_serves_also_a_new_start(
    cloud: Cloud, registered: None, tmp_path: Path
) -> None:
    async def go() -> None:
        async with directory(cloud, tmp_path) as opened:
            before = await opened.sites()
            cloud.stop_keystone()
            try:
                assert await opened.sites() == before
                async with directory(cloud, tmp_path) as again:
                    assert await again.sites() == before
                (tmp_path / "directory.toml").unlink()
                async with directory(cloud, tmp_path) as without:
                    with pytest.raises(SiteUnknown, match="Keystone has not answered"):
                        await without.site("B")
            finally:
                cloud.start_keystone()

    run(go())


def test_a_site_that_is_not_registered_or_has_another_number_does_not_start(
    cloud: Cloud, tmp_path: Path
) -> None:
    async def opened(number: int) -> None:
        async with directory(cloud, tmp_path, number=number):
            pass

    with pytest.raises(BadSurroundings, match="openstack endpoint create --region A intersite"):
        run(opened(1))
    made = [cloud.register(kind, "A", url) for _, kind, url in both("A", "1", "a")]
    try:
        with pytest.raises(BadSurroundings, match="number=1"):
            run(opened(7))
    finally:
        for identifier in made:
            cloud.unregister(identifier)
