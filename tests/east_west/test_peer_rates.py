"""Each peer has its own rate; who asks too often waits, and is not refused."""

import json
import time

import aiohttp
import pytest
from east_west_world import SERVICE, TableDirectory, context, run
from test_hostile_input import HEADERS

from diminet.east_west.client import HttpPeers
from diminet.errors import SiteUnreachable


@pytest.fixture
def three(world):
    world.directory = TableDirectory("A", "B", "C")
    return world


def test_too_many_messages_of_one_peer_are_refused_unread_and_the_other_is_served(three):
    async def ask(session, listener, site):
        url = f"https://127.0.0.1:{listener.port}/intersite-horizontal/{SERVICE}"
        trust = three.credentials(site).client("A")
        async with session.request("GET", url, headers=HEADERS, ssl=trust) as answer:
            return answer.status, json.loads(await answer.read()), answer.headers.get("Retry-After")

    async def go():
        clock = time.monotonic()  # stands still: nothing is let in again
        limits = {"rate_per_second": 0.5, "rate_burst": 3, "clock": lambda: clock}
        async with three.serving(**limits) as listener, aiohttp.ClientSession() as session:
            mine = [await ask(session, listener, "B") for _ in range(5)]
            async with aiohttp.ClientSession() as another:
                return mine, await ask(another, listener, "C")

    mine, other = run(go())
    assert [status for status, _, _ in mine] == [200, 200, 200, 429, 429]
    _, body, retry_after = mine[-1]
    assert (body["code"], body["retry_after"], retry_after) == ("too-many-requests", 2.0, "2")
    assert other[0] == 200
    assert len(three.horizontal.calls) == 4
    told = [(peer, code) for peer, _, _, code in three.received]
    assert told == [("B", "ok")] * 3 + [("B", "too-many-requests")] * 2 + [("C", "ok")]


def test_the_client_waits_as_it_is_told(three):
    async def go():
        limits = {"rate_per_second": 5.0, "rate_burst": 1}
        async with three.serving(**limits), three.peers() as peers:
            return [await peers.at("A").snapshot(context(), SERVICE) for _ in range(4)]

    assert len(run(go())) == 4
    codes = [code for _, _, _, code in three.received]
    assert codes.count("ok") == 4
    assert "too-many-requests" in codes
    assert len(three.horizontal.calls) == 4


def test_when_the_time_is_over_the_site_counts_as_not_reached(three):
    async def go():
        async with three.serving(rate_per_second=0.01, rate_burst=1):
            peers = HttpPeers(
                three.directory,
                site_name="B",
                credentials=three.credentials("B"),
                incarnation=lambda: "inc-B",
                request_timeout_s=1.0,
            )
            await peers.at("A").snapshot(context(), SERVICE)
            with pytest.raises(SiteUnreachable):
                await peers.at("A").snapshot(context(), SERVICE)
            await peers.close()

    run(go())
