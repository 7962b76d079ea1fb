"""What `diminet bench scale` asks for, makes up and tells."""

import asyncio
import random
import xml.etree.ElementTree as ET

import pytest

from diminet.bench import crowd, many_sites, real_sites, scale_page
from diminet.bench.scale_results import Burst, Cost, Crowd, Scale, Simulated, Wide
from diminet.engine.ports import ServiceFilter

COSTS = {"create": Cost(seconds=0.03, statements=87, messages=2)}
MANY = {"create": Cost(seconds=0.045, statements=88, messages=2)}
FOUND = Scale(
    command="diminet bench scale",
    taken_at="2026-11-23T12:00:00+00:00",
    version="0.1.0",
    machine="a machine",
    load=(0.1, 2.0),
    delay_ms=25.0,
    timeout=120.0,
    bursts=(
        Burst(
            pattern="disjoint",
            creates=4,
            seconds=2.0,
            p50=0.5,
            p99=1.5,
            refused={"site-unreachable": 1},
            reserves=5,
            needed=4,
        ),
    ),
    wide=(
        Wide(kind="l2", sites=3, seconds=(0.2, 0.4), messages={"put": 2.0}, vim_calls=9.0, rss=125_000_000),
    ),
    simulated=(
        Simulated(
            kind="l3",
            sites=20,
            round_trips=2.0,
            messages={"put": 19},
            sent=164_848,
            master_statements=286,
            member_statements=50,
            cpu=0.7,
        ),
    ),
    crowds=(
        Crowd(services=50, start=1.0, rss=80_000_000, cpu=0.01, database=500_000, costs=COSTS),
        Crowd(services=50_000, start=1.5, rss=150_000_000, cpu=0.02, database=200_000_000, costs=MANY),
    ),
)


def test_the_page_tells_all() -> None:
    text = scale_page.markdown(FOUND, json_name="x.json", figure_name="x.svg")
    assert "| disjoint | 4 | 1.5 | 500 | 1500 | site-unreachable: 1 | 1 |" in text
    assert "| l2 | 3 | 300 | 2 put | 9 | 3.0 | 125 |" in text
    assert "| l3 | 20 | 2.00 | 19 put | 165 | 286 | 50 | 0.7 |" in text
    assert "| create (ms) | 30.0 | 45.0 | 1.50 | 87 → 88 | 2 |" in text
    assert "| start until it answers (s) | 1.00 | 1.50 | 1.50 | - | - |" in text
    assert "Provisional" not in text
    busy = scale_page.markdown(
        FOUND.model_copy(update={"load": (3.0, 3.0)}), json_name="x.json", figure_name="x.svg"
    )
    assert "Provisional" in busy


def test_the_picture_is_one_also_of_parts() -> None:
    parts = {"bursts": (), "wide": (), "simulated": (), "crowds": ()}
    for found in (FOUND, FOUND.model_copy(update=parts)):
        ET.fromstring(scale_page.svg(found))


@pytest.mark.parametrize("pattern", sorted(real_sites.PATTERNS))
def test_services_are_of_the_sites_that_the_pattern_says(pattern: str) -> None:
    of = real_sites.groups(pattern, 64, "ABCDEF", random.Random(1))
    assert len(of) == 64
    assert all(len(set(sites)) == len(sites) for sites in of)
    if pattern == "disjoint":
        assert {frozenset(sites) for sites in of} == {frozenset("AB"), frozenset("CD"), frozenset("EF")}
        assert {sites[0] for sites in of} == set("ABCDEF")
    else:
        assert {len(sites) for sites in of} == {real_sites.OVERLAP}
        assert {sites[0] for sites in of} == ({"A"} if pattern == "one master" else set("ABCDEF"))


def test_messages_are_counted_from_the_metrics() -> None:
    text = (
        "# TYPE diminet_east_west_messages counter\n"
        'diminet_east_west_messages_total{peer="B",kind="put",direction="out",code="ok"} 3.0\n'
        'diminet_east_west_messages_total{peer="C",kind="put",direction="out",code="no-answer"} 1.0\n'
        'diminet_east_west_messages_total{peer="C",kind="put",direction="in",code="ok"} 7.0\n'
    )
    assert real_sites.sent(text) == {"put": 4}


def test_a_simulated_create_takes_two_round_trips() -> None:
    for found in many_sites.measure(5, 25.0):
        assert found.round_trips == pytest.approx(2.0)
        assert found.messages == {"reserve": 4, "put": 4}
    with pytest.raises(RuntimeError, match="nothing is left"):
        asyncio.Runner(loop_factory=many_sites.VirtualLoop).run(asyncio.Event().wait())


def test_a_crowd_is_what_an_instance_takes_for_healthy(tmp_path) -> None:
    """Nothing of it is repaired, reported or told to the other site."""
    url = f"sqlite:///{tmp_path}/crowd.db"
    number = 30

    async def main() -> None:
        await crowd.fill(url, number)
        instance = crowd.Instance(url, number)
        await crowd.fill_near(instance, crowd.SHARED)
        costs = await instance.costs()
        assert costs["anti-entropy with one site"].messages == 1
        assert costs["audit round"].messages == 0
        assert await instance.site.engine.reconciler.repair() == []
        assert instance.site.engine.audit.findings == {}
        assert instance.site.engine.drift.appeared == {}
        assert not {"connect", "shape_subnet"} & instance.site.south.calls.keys()
        rows = await instance.site.store.read(lambda tx: tx.services(ServiceFilter(limit=100)))
        assert len(rows) == number
        await instance.site.close()
        await instance.near.close()

    asyncio.run(main())
