"""The page and the figure say what was found, and nothing that was not."""

from xml.etree import ElementTree

import pytest
from bench_results import floor, sample, some_results

from diminet.bench import figure, page


def text(**given):
    return page.markdown(some_results(**given), json_name="x.json", figure_name="x.svg")


def rows(markdown, beginning):
    return [line for line in markdown.splitlines() if line.startswith(beginning)]


def test_the_command_and_the_seed_are_there():
    assert "`diminet bench create --seed 1`" in text()
    assert "seed 1, 1 runs each, 2 to 6 sites, 0, 25 ms" in text()
    assert "(x.json)" in text()
    assert "(x.svg)" in text()


def test_a_busy_machine_is_said():
    assert "**Provisional**" not in text()
    assert "**Provisional**" in text(load=(1.7, 7.0))


def test_aims_met_and_missed():
    aims = text()
    (growth,) = rows(aims, "| l3 create, 0 ms: ratio")
    assert growth.endswith("| at most 1.15 | 1.10 | met |")
    (memory,) = rows(aims, "| idle instance, memory")
    assert memory.endswith("| at most 120 MB | 124 MB | **missed** |")
    (processor,) = rows(aims, "| idle instance, processor")
    assert processor.endswith("| under 1% | 0.40% | met |")
    (trips,) = rows(aims, "| l3 create, N=2: WAN")
    assert trips.endswith("| at most 2 | 2.00 | met |")


def test_growth_beyond_the_aim_is_missed():
    results = text(samples=(sample(), sample(sites=6, seconds=0.9)))
    (growth,) = rows(results, "| l3 create, 0 ms: ratio")
    assert growth.endswith("| 1.50 | **missed** |")


def test_what_was_not_measured_has_no_row():
    found = text()
    assert "## L2" not in found
    assert rows(found, "| 25 ms | 6 |") == []
    assert "## An idle instance" not in text(idle=())
    assert "## What failed" not in found


def test_failures_are_told():
    found = text(failures=("l2, N=3, 0 ms, at A: the disk is full",))
    assert "- l2, N=3, 0 ms, at A: the disk is full" in found


def test_a_row_of_creates():
    assert rows(text(), "| 0 ms | 2 | 200 | 200 | 200 | 100 | 2.00 | - | 500 |")
    assert rows(text(), "| 25 ms | 2 | 300 | 300 | 300 | 100 | 3.00 | 2.00 | - |")


def test_every_row_has_its_header_s_columns():
    width = 0
    for line in text(failures=("x",)).splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        width = width or line.count("|")
        assert line.count("|") == width


def test_shares_of_steps_and_the_rest():
    creates = [sample(), sample(seconds=0.4)]
    assert page.step_names(creates) == ["intent", "reserve", "spread"]
    assert page.share(creates, "intent") == pytest.approx(0.04 / 0.6)
    total = sum(page.share(creates, name) for name in ("intent", "reserve", "spread", page.REST))
    assert total == pytest.approx(1.0)
    assert page.share([], "intent") == 0.0


def test_the_figure_is_an_svg_with_a_line_for_each_delay_and_its_floor():
    root = ElementTree.fromstring(figure.svg(some_results()))
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2 * 2 * 2  # kinds, delays, create and floor
    assert any(len(line.get("points", "").split()) == 2 for line in lines)


def test_the_figure_stays_inside():
    far = some_results(samples=(sample(seconds=100.0), sample(sites=6, seconds=1e-3)), floor=(floor(),))
    root = ElementTree.fromstring(figure.svg(far))
    _, _, width, height = map(float, root.get("viewBox", "").split())
    for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
        assert 0 <= float(circle.get("cx", "-1")) <= width
        assert 0 <= float(circle.get("cy", "-1")) <= height


def test_a_figure_of_nothing():
    ElementTree.fromstring(figure.svg(some_results(samples=(), floor=())))
