"""Who asks without end is answered 429 (or refused, and counted) while others are served, at both doors of a
production engine: one tenant among tenants, one peer among peers."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from doors_world import ROOT, Message, World, opened

from diminet.config import Settings
from diminet.config_limits import LimitSettings
from diminet.identity.file import FileIdentity, TokenEntry, hash_token, write
from diminet.listener import Listener
from diminet.messages import Tombstone
from diminet.north.app import make_north_app
from diminet.telemetry import Metrics

RATE, BURST = 2.0, 10
FLOOD = 200


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 120))


async def ready() -> list[str]:
    return []


@contextlib.asynccontextmanager
async def north(world: World, home: Path) -> AsyncIterator[str]:
    """A's north API, where `flooding` and `calm` are tokens of two projects."""
    tokens = {"flooding": "other", "calm": "demo"}
    write(
        home / "identity.toml",
        [
            TokenEntry(sha256=hash_token(token), user=token, project=project, role="member")
            for token, project in tokens.items()
        ],
    )
    settings = Settings(
        site={"name": "A", "number": 1},
        south={"vtep_ip": "10.0.0.1"},
        limits=LimitSettings(rate_per_second=RATE, rate_burst=BURST),
    )
    identity = FileIdentity(home / "identity.toml", "A")
    app = make_north_app(world.cloud["A"].requests, identity, Metrics(), ready, settings)
    listener = Listener(app, "127.0.0.1", 0, grace_s=1)
    await listener.start()
    try:
        yield f"http://127.0.0.1:{listener.port}"
    finally:
        await listener.stop()


async def flood(url: str, method: str, headers: dict[str, str], body: Any = None) -> tuple[Counter[int], Any]:
    """FLOOD requests side by side; how often each status came, and the Retry-After headers."""
    waits: list[str | None] = []

    async def one(session: aiohttp.ClientSession) -> int:
        async with session.request(method, url, headers=headers, json=body) as answer:
            if answer.status == 429:
                waits.append(answer.headers.get("Retry-After"))
            return answer.status

    async with aiohttp.ClientSession() as session:
        return Counter(await asyncio.gather(*(one(session) for _ in range(FLOOD)))), waits


async def calm(url: str, pause: float = 0.02) -> Counter[int]:
    """As many requests as a tenant may make, in the meantime."""
    seen: Counter[int] = Counter()
    async with aiohttp.ClientSession() as session:
        for _ in range(BURST):
            async with session.get(f"{url}/intersite-vertical", headers={"X-Auth-Token": "calm"}) as answer:
                seen[answer.status] += 1
            await asyncio.sleep(pause)
    return seen


def let_in(began: float) -> int:
    """How many the bucket lets through at most, until now."""
    return BURST + int((time.monotonic() - began) * RATE) + 1


def test_a_flooding_tenant_gets_429_and_the_other_is_served(tmp_path):
    async def main():
        world = await opened()
        before = await world.picture(), len(await world.events("A"))
        body = {"service": {"type": "l3", "resources": [{"site": "A"}, {"site": "B"}]}}
        async with north(world, tmp_path) as url:
            began = time.monotonic()
            (lists, waits), served = await asyncio.gather(
                flood(f"{url}/intersite-vertical", "GET", {"X-Auth-Token": "flooding"}), calm(url)
            )
            assert set(lists) == {200, 429}
            assert lists[200] <= let_in(began)
            assert all(wait is not None and int(wait) >= 1 for wait in waits)
            assert served == {200: BURST}
            creates, _ = await flood(f"{url}/intersite-vertical", "POST", {"X-Auth-Token": "flooding"}, body)
            assert creates[429] >= FLOOD - let_in(began)
            assert set(creates) <= {400, 429}
        told = len(await world.events("A")) - before[1]
        assert told <= let_in(began)  # who is refused for asking too often writes no history
        assert await world.picture() == before[0]
        await world.cloud.close()

    run(main())


def test_a_flood_without_a_token_is_limited_and_shuts_no_tenant_out(tmp_path):
    async def main():
        world = await opened()
        async with north(world, tmp_path) as url:
            began = time.monotonic()
            for headers in ({}, {"X-Auth-Token": "guessed"}):
                (seen, _), served = await asyncio.gather(
                    flood(f"{url}/intersite-vertical", "GET", headers), asyncio.sleep(0)
                )
                assert set(seen) <= {401, 429}
                assert seen[401] <= let_in(began)
                assert served is None
            assert await calm(url) == {200: BURST}
        await world.cloud.close()

    run(main())


class Timepiece:
    """Stands still: no bucket fills up again."""

    def __call__(self) -> float:
        return 1000.0


def test_a_flooding_peer_gets_429_and_a_create_of_another_goes_through():
    async def main():
        world = await opened()
        app = world.app("B", rate_per_second=RATE, rate_burst=BURST, clock=Timepiece())
        world.app = lambda site, **_: app  # one table of buckets for all that follows
        snapshot = Message("GET", f"{ROOT}/{world.x.service_id}")
        flooding, calm_one, create = await asyncio.gather(
            asyncio.gather(*(world.send("C", "B", snapshot) for _ in range(FLOOD))),
            asyncio.gather(*(world.send("D", "B", snapshot) for _ in range(BURST))),
            world.cloud.create("A", "l3", *(f"{s}:{world.networks[s]}" for s in "AD")),
        )
        assert Counter(a.code for a in flooding) == {"ok": BURST, "too-many-requests": FLOOD - BURST}
        assert Counter(a.code for a in calm_one) == {"ok": BURST}
        assert create.provisioning_status == "ACTIVE"
        assert world.counted("B", "C", "snapshot", "too-many-requests") == FLOOD - BURST
        late = await world.send("C", "B", Message("PUT", snapshot.path, b"{", slow=True))
        assert late.code == "too-many-requests"
        assert late.unread  # nothing of it is read
        await world.settled()
        await world.cloud.close()

    run(main())


def test_a_peer_that_is_refused_without_end_does_not_fill_the_history():
    """It stays under its rate: every message is refused and counted, so many are told as are allowed."""

    async def main():
        world = await opened()
        most = world.cloud["B"].here.limits.peer_refusals_per_hour
        old = len(await world.events("B"))
        stone = Tombstone(service_id=world.x.service_id).model_dump_json().encode()
        forged = Message("DELETE", f"{ROOT}/{world.x.service_id}", stone)
        for _ in range(most + 50):
            assert (await world.send("C", "B", forged)).code == "not-authorised"
        assert world.counted("B", "C", "bury", "not-authorised") == most + 50
        assert most <= len(await world.events("B")) - old <= most + 10
        assert (await world.send("D", "B", forged)).code == "not-authorised"
        news = (await world.events("B"))[-1]
        assert (news.kind, news.detail["peer"]) == ("peer-refused", "D")  # another one is told
        await world.cloud.close()

    run(main())
