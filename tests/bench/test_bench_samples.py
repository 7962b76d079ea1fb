"""Statistics of what a benchmark found."""

import pytest
from bench_results import sample, some_results
from hypothesis import given
from hypothesis import strategies as st

from diminet.bench.samples import FloorSample, mean_of, summarise

seconds = st.floats(min_value=0, max_value=1e4, allow_nan=False)


def test_nothing_has_no_summary():
    assert summarise([]) is None


def test_one_value_has_no_error():
    found = summarise([2.0])
    assert found is not None
    assert (found.count, found.mean, found.stderr, found.median, found.p99) == (1, 2.0, None, 2.0, 2.0)


def test_of_known_values():
    found = summarise([4.0, 1.0, 3.0, 2.0])
    assert found is not None
    assert (found.mean, found.median, found.p99) == (2.5, 2.5, 4.0)
    assert found.stderr == pytest.approx(0.6454972)  # sqrt(5/3) / 2


def test_p99_is_the_nearest_rank():
    found = summarise(float(n) for n in range(1, 201))
    assert found is not None
    assert found.p99 == 198.0


@given(st.lists(seconds, min_size=1, max_size=50), st.randoms())
def test_order_does_not_matter_and_all_is_within(values, chance):
    found = summarise(values)
    shuffled = list(values)
    chance.shuffle(shuffled)
    assert found == summarise(shuffled)
    assert found is not None
    assert min(values) <= found.median <= found.p99 <= max(values)
    assert found.stderr is None or found.stderr >= 0


def test_ratio_and_growth_are_of_medians():
    results = some_results()
    assert results.ratio("l3", "create", 2, 0.0) == pytest.approx(2.0)
    assert results.ratio("l3", "create", 6, 0.0) == pytest.approx(2.2)
    assert results.growth("l3", "create", 0.0) == pytest.approx(1.1)
    assert results.ratio("l2", "create", 2, 0.0) is None
    assert results.growth("l2", "create", 0.0) is None


def test_a_floor_of_nothing_is_no_divisor():
    empty = FloorSample(kind="l3", operation="create", sites=2, delay_ms=0.0, seconds=0.0)
    assert some_results().model_copy(update={"floor": (empty,)}).ratio("l3", "create", 2, 0.0) is None


def test_the_wan_part_is_in_round_trips():
    results = some_results()
    assert results.round_trips("l3", "create", 2) == pytest.approx(2.0)
    assert results.round_trips("l3", "delete", 2) is None
    near = results.model_copy(update={"delays_ms": (0.0,)})
    assert near.round_trips("l3", "create", 2) is None


def test_runs_with_a_data_plane_are_apart():
    results = some_results()
    assert {s.data_plane for s in results.of("l3", "create", 2, 0.0)} == {False}
    assert [s.first_ping for s in results.of("l3", "create", 2, 0.0, data_plane=True)] == [0.5]


def test_mean_of_nothing_is_nothing():
    assert mean_of([], lambda s: s.seconds) == 0.0
    assert mean_of([sample(seconds=1.0), sample(seconds=3.0)], lambda s: s.seconds) == 2.0
