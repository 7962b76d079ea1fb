"""The pure parts: buckets, what tenants may read, headers, depth."""

import contextlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diminet.errors import InvalidRequest, TooManyRequests
from diminet.north.bodies import parse_json
from diminet.north.errors import wants_problem, without_internals
from diminet.north.limits import client_key
from diminet.north.preconditions import request_id
from diminet.north.views import rfc3339
from diminet.rates import Buckets


@given(st.lists(st.floats(min_value=0, max_value=10), max_size=200), st.integers(1, 10), st.floats(0.1, 50))
def test_never_more_than_the_burst_and_the_rate_times_the_time(pauses, burst, rate):
    now = 0.0
    buckets = Buckets(rate=rate, burst=burst, most=10, clock=lambda: now)
    allowed = 0
    for pause in pauses:
        now += pause
        allowed += buckets.take("p") is None
    assert allowed <= burst + rate * now + 1e-6


@given(st.integers(1, 10), st.floats(0.1, 50))
def test_after_the_time_that_was_told_one_more_is_allowed(burst, rate):
    now = 0.0
    buckets = Buckets(rate=rate, burst=burst, most=10, clock=lambda: now)
    while (wait := buckets.take("p")) is None:
        pass
    now += wait + 1e-6
    assert buckets.take("p") is None


def test_the_table_of_buckets_is_bounded_and_a_clock_set_back_harms_nobody():
    now = 100.0
    buckets = Buckets(rate=1, burst=1, most=10, clock=lambda: now)
    for number in range(1000):
        buckets.take(f"p{number}")
    assert len(buckets) == 10
    buckets.take("p")
    now = 0.0
    with pytest.raises(TooManyRequests, match="wait 1"):
        buckets.check("p", "you")


def test_one_ipv6_host_is_one_client():
    assert client_key("2001:db8::1") == client_key("2001:db8::ffff:2") == "2001:db8::/64"
    assert client_key("10.0.0.1") != client_key("10.0.0.2")
    assert client_key(None) == client_key("") == "unknown"


@given(st.text())
def test_a_request_id_is_safe_whatever_is_sent(given_id):
    made = request_id(given_id)
    assert 1 <= len(made) <= 64
    assert set(made) <= set(string.ascii_letters + string.digits + "._:-")


@pytest.mark.parametrize(
    "text",
    ["10.1.0.0/24 and 10.2.0.1 overlap", "2001:1234:5678::/48", "fe80::1", "at 12:30:45", "port 9790", "1:2"],
)
def test_what_a_tenant_needs_stays_readable(text):
    assert without_internals(text) == text


@given(st.integers(1, 65535), st.integers(4096, 2**24 - 1), st.integers(1, 250))
def test_no_route_target_or_vni_is_readable(asn, vni, slot):
    told = without_internals(f"target {asn}:{vni * 256 + slot}, VNI {vni}, vni={vni}")
    assert str(vni) not in told.replace("VNI", "")
    assert str(vni * 256 + slot) not in told


@given(st.text())
def test_accept_never_breaks_us(accept):
    assert wants_problem(accept) in (True, False)


@given(st.binary(max_size=200))
def test_bytes_are_json_or_refused(data):
    with contextlib.suppress(InvalidRequest):
        parse_json(data, depth=8)


@given(st.integers(1, 190), st.integers(1, 190))
def test_depth_is_bounded_exactly(levels, depth):
    data = b"[" * levels + b"]" * levels
    if levels <= depth + 1:
        assert parse_json(data, depth=depth) is not None
    else:
        with pytest.raises(InvalidRequest, match="deeper"):
            parse_json(data, depth=depth)


def test_times():
    assert rfc3339(None) is None
    assert rfc3339(0.0625) == "1970-01-01T00:00:00.062Z"
