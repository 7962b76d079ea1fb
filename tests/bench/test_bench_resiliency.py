"""What `diminet bench resiliency` makes of its pings."""

import xml.etree.ElementTree as ET

from diminet.bench import resiliency_page
from diminet.bench.outages import Outage, Outages, Pings


def pings(path: str, lost: range, *, sent: int = 100) -> Pings:
    """Every second from ten before the cut."""
    answered = tuple(n for n in range(sent) if n not in lost)
    return Pings(path=path, began=-10.0, interval=1.0, sent=sent, answered=answered)


OUTAGE = Outage(
    plane="data",
    healed=40.0,
    ended=90.0,
    pings=(pings("within C", range(0)), pings("A to C", range(13, 55))),
    statuses=((-9.0, "ONLINE"), (12.5, "DEGRADED"), (48.0, "ONLINE")),
)
FOUND = Outages(
    command="diminet bench resiliency",
    taken_at="2026-11-23T12:00:00+00:00",
    version="0.1.0",
    machine="a machine",
    delay_ms=0.0,
    cut="C",
    sites=("A", "B", "C"),
    outages=(OUTAGE,),
)


def test_phases_are_counted_apart() -> None:
    _, across = OUTAGE.pings
    assert across.between(*OUTAGE.phase("before")) == (10, 10)
    assert across.between(*OUTAGE.phase("during")) == (40, 3)
    assert across.between(*OUTAGE.phase("after")) == (50, 45)


def test_when_it_stopped_and_was_back() -> None:
    within, across = OUTAGE.pings
    assert across.last_answer(0.0, 40.0) == 2.0
    assert across.lasting_answers(40.0) == 45.0
    assert within.lasting_answers(40.0) == 40.0
    assert pings("A to C", range(13, 100)).lasting_answers(40.0) is None
    assert OUTAGE.status_since("DEGRADED", 0.0) == 12.5
    assert OUTAGE.status_since("ONLINE", 40.0) == 48.0
    assert OUTAGE.status_since("ERROR", 0.0) is None


def test_the_page_has_table_iv() -> None:
    text = resiliency_page.markdown(FOUND, json_name="x.json", figure_name="x.svg")
    assert "| data | within C | ✓ | ✓ | ✓ |" in text
    assert "| data | A to C | ✓ | 3 of 40 | 45 of 50 |" in text
    assert "| data | A to C | 2.0 | 5.0 |" in text
    assert "| data | service DEGRADED, then ONLINE | 12.5 | 8.0 |" in text


def test_the_picture_colours_each_second() -> None:
    root = ET.fromstring(resiliency_page.svg(FOUND))
    colours = [rect.get("fill") for rect in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert colours.count(resiliency_page.RED) == 42
    assert colours.count(resiliency_page.GREEN) == 100 + 58
