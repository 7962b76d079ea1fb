"""What a benchmark reads: metrics, /proc, its options; and what it draws and orders."""

import os
import random
from ipaddress import IPv4Network

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from diminet.bench import create, idle
from diminet.bench.machines import Figures, parse_figures
from diminet.cli import bench as cli
from diminet.telemetry import Metrics


def test_figures_are_read_from_the_metrics_that_an_instance_gives():
    metrics = Metrics()
    metrics.create_step("reserve", 0.5)
    before = parse_figures(metrics.text().decode())
    metrics.create_step("reserve", 0.25)
    metrics.create_step("commit", 0.1)
    metrics.vim_call("connect", "ok", 2.0)
    gained = parse_figures(metrics.text().decode()).since(before)
    assert gained == Figures({"reserve": 0.25, "commit": 0.1}, {"connect": 2.0}, {"connect": 1.0})


def test_processor_time_of_a_process_with_an_odd_name():
    fields = ["S", *["0"] * 10, "100", "50", "30", "20", *["0"] * 30]
    spent = idle.parse_stat(f"42 (a) b (c)) {' '.join(fields)}")
    tick = os.sysconf("SC_CLK_TCK")
    assert spent == (150 / tick, 50 / tick)


def test_memory():
    text = "5500-7ff [rollup]\nRss:              1000 kB\nPss:               600 kB\nShared_Clean: 4 kB\n"
    assert idle.parse_memory(text) == (1_024_000, 614_400)


def test_this_process_can_be_looked_at():
    class Own:
        name, pid = "A", os.getpid()

    (found,) = idle.look([Own()], 0.01)
    assert found.site == "A"
    assert found.rss >= found.pss > 0
    assert found.cpu >= found.own_cpu >= 0


@given(st.integers(0, 2**31), st.integers(2, 6))
def test_a_draw_is_repeated_by_its_seed(seed, count):
    sites = list("ABCDEF")
    first = create.draw(random.Random(seed), "l2", sites, count)
    assert first == create.draw(random.Random(seed), "l2", sites, count)
    assert len(set(first.sites)) == count
    assert set(first.sites) <= set(sites)


def test_every_site_is_drawn_to_receive():
    chance = random.Random(1)
    seen = {create.draw(chance, "l3", list("ABCDEF"), 2).sites[0] for _ in range(200)}
    assert seen == set("ABCDEF")


@given(st.integers(2, 14))
def test_floor_shapes_share_no_address(count):
    network, taken = IPv4Network(create.FLOORS["l2"]), set()
    for index in range(count):
        shape = create.floor_shape(index, count)
        assert shape.pools
        first, last = (int(network[0].__class__(end)) for end in shape.pools[0])
        gateway = int(network[0].__class__(shape.gateway_ip))
        assert gateway + 1 == first <= last < int(network.broadcast_address)
        mine = set(range(gateway, last + 1))
        assert not mine & taken
        taken |= mine


@pytest.mark.parametrize(
    ("given_text", "found"), [("2-6", (2, 3, 4, 5, 6)), ("2,4", (2, 4)), ("3", (3,)), ("5,2-3", (2, 3, 5))]
)
def test_numbers_of_sites(given_text, found):
    assert cli._numbers(given_text) == found


@pytest.mark.parametrize("given_text", ["", "1-3", "x", "2-", "6-2", "-3", "2;4", "1"])
def test_misused_numbers_of_sites(given_text):
    with pytest.raises(typer.BadParameter):
        cli._numbers(given_text)


def test_delays_are_sorted_and_each_once():
    assert cli._delays("25,0,25") == (0.0, 25.0)


@pytest.mark.parametrize("given_text", ["", "a", "-1", "nan", "inf", "0,"])
def test_misused_delays(given_text):
    with pytest.raises(typer.BadParameter):
        cli._delays(given_text)


def test_the_command_does_the_same_again():
    wish = create.Wish(runs=3, sites=(2, 3), delays_ms=(0.0, 25.0), seed=9, idle_seconds=60.0)
    assert cli._command(wish) == "diminet bench create --runs 3 --sites 2,3 --delays 0,25 --seed 9"
    assert cli._command(wish._replace(idle_seconds=0.0)).endswith("--idle-seconds 0")
