from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from diminet.model import AddressRange
from diminet.south.linux import ipam


@st.composite
def subnets(draw):
    """A CIDR, some pools in it that do not overlap, addresses in use, perhaps a gateway."""
    version = draw(st.sampled_from([4, 6]))
    base = draw(st.integers(0, 255))
    length = draw(st.integers(22, 32)) if version == 4 else draw(st.sampled_from([48, 64, 120, 127, 128]))
    network = ip_network(f"10.{base}.0.0/{length}" if version == 4 else f"fd00:{base:x}::/{length}")
    first, last = int(network.network_address), int(network.broadcast_address)
    near = st.integers(0, min(last - first, 40)).map(lambda offset: first + offset)
    bounds = sorted(draw(st.lists(near | st.integers(first, last), max_size=8, unique=True)))
    pools = [
        AddressRange(ipam.text(str(network), low), ipam.text(str(network), high))
        for low, high in zip(bounds[::2], bounds[1::2], strict=False)
    ]
    used = {ipam.text(str(network), n) for n in draw(st.lists(near, max_size=30))}
    gateway = draw(st.none() | near.map(lambda n: ipam.text(str(network), n)))
    return str(network), pools, used, gateway


@given(subnets())
def test_next_free_is_the_lowest_usable_address_that_is_free(case):
    cidr, pools, used, gateway = case
    got = ipam.next_free(cidr, pools, used, gateway)
    low, high = ipam.usable(cidr)
    taken = {int(ip_address(ip)) for ip in used | ({gateway} if gateway else set())}

    def fits(number):
        return low <= number <= high and number not in taken and ipam.contains(ipam.as_numbers(pools), number)

    if got is not None:
        assert fits(int(ip_address(got)))
    # A free one below `got` would have to be within as many steps of a pool's start as there are taken.
    end = int(ip_address(got)) if got is not None else None
    for first, _ in ipam.as_numbers(pools):
        for number in range(max(first, low), max(first, low) + len(taken) + 1):
            if end is None or number < end:
                assert not fits(number)


@given(subnets())
def test_giving_until_dry_gives_each_address_once(case):
    cidr, pools, used, gateway = case
    small = [p for p in ipam.as_numbers(pools) if p[1] - p[0] < 50]
    pools = [AddressRange(ipam.text(cidr, a), ipam.text(cidr, b)) for a, b in small]
    given_out = set()
    for _ in range(4 * 50 + 1):
        ip = ipam.next_free(cidr, pools, used | given_out, gateway)
        if ip is None:
            break
        assert ip not in given_out
        given_out.add(ip)
    low, high = ipam.usable(cidr)
    everything = {n for a, b in small for n in range(a, b + 1) if low <= n <= high}
    taken = {int(ip_address(ip)) for ip in used | ({gateway} if gateway else set())}
    assert {int(ip_address(ip)) for ip in given_out} == everything - taken


@given(subnets())
def test_default_pools_are_all_but_the_gateway(case):
    cidr, _, _, gateway = case
    pools = ipam.as_numbers(ipam.default_pools(cidr, gateway))
    low, high = ipam.usable(cidr)
    assert not ipam.overlapping(pools)
    size = sum(b - a + 1 for a, b in pools)
    inside = gateway is not None and low <= int(ip_address(gateway)) <= high
    assert size == high - low + 1 - inside
    assert gateway is None or not ipam.contains(pools, int(ip_address(gateway)))


def test_a_pool_of_a_whole_64_is_no_work():
    pools = ipam.default_pools("fd00::/64", "fd00::1")
    used = {f"fd00::{n:x}" for n in range(2, 2000)}
    assert ipam.next_free("fd00::/64", pools, used, "fd00::1") == f"fd00::{2000:x}"


def test_known_values():
    assert ipam.default_gateway("10.1.0.0/24") == "10.1.0.1"
    assert ipam.default_pools("10.1.0.0/24", "10.1.0.1") == (AddressRange("10.1.0.2", "10.1.0.254"),)
    assert ipam.default_pools("10.1.0.0/30", None) == (AddressRange("10.1.0.1", "10.1.0.2"),)
    assert ipam.default_pools("fd00::/126", "fd00::2") == (
        AddressRange("fd00::1", "fd00::1"),
        AddressRange("fd00::3", "fd00::3"),
    )
    assert ipam.usable("10.0.0.4/31") == (int(ip_address("10.0.0.4")), int(ip_address("10.0.0.5")))
    assert ipam.eui64("2001:db8::/64", "02:00:00:aa:bb:cc") == "2001:db8::ff:feaa:bbcc"
    assert ipam.next_free("10.0.0.0/24", [], set(), None) is None
