"""How what is ours is recognised: read back what was written, and nothing else."""

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from diminet.model import AddressRange, SubnetShape
from diminet.south.neutron import marks
from diminet.south.neutron.marks import MOST_TAG, Made

texts = st.text(st.characters(codec="ascii", exclude_categories=("C", "Z")), min_size=1, max_size=60)


def ranges(kind, most):
    return st.lists(
        st.tuples(st.integers(0, most), st.integers(0, most)).map(
            lambda pair: AddressRange(str(kind(min(pair))), str(kind(max(pair))))
        ),
        max_size=4,
    ).map(tuple)


shapes = st.one_of(
    st.builds(
        SubnetShape,
        cidr=st.just("10.0.0.0/8"),
        ip_version=st.just(4),
        gateway_ip=st.one_of(st.none(), st.integers(0, 2**32 - 1).map(lambda n: str(IPv4Address(n)))),
        pools=ranges(IPv4Address, 2**32 - 1),
    ),
    st.builds(
        SubnetShape,
        cidr=st.just("fd00::/64"),
        ip_version=st.just(6),
        gateway_ip=st.one_of(st.none(), st.integers(0, 2**128 - 1).map(lambda n: str(IPv6Address(n)))),
        pools=ranges(IPv6Address, 2**128 - 1),
    ),
)


@given(shapes)
def test_how_a_subnet_was_is_read_back_or_said_not_to_fit(shape):
    tag = marks.was(shape)
    assert len(tag) <= MOST_TAG
    assert marks.was_tag(["theirs", tag]) == tag
    back = marks.shape_before(tag, shape.cidr)
    if shape.ip_version == 4 or len(shape.pools) <= 2:
        assert back == shape
    else:
        assert back in (shape, None)


@given(st.text(max_size=40), st.sampled_from(["10.0.0.0/8", "fd00::/64"]))
def test_a_tag_that_somebody_changed_is_no_shape(said, cidr):
    found = marks.shape_before(f"diminet-was={said}", cidr)
    assert found is None or marks.shape_before(marks.was(found), cidr) == found


@given(texts, texts, st.lists(texts.filter(lambda t: not t.startswith("diminet")), max_size=4))
def test_tags_and_descriptions_say_whose_it_is(service, key, theirs):
    made = Made(service, key)
    assert marks.made_of([*theirs, *marks.tags(made)]) == made
    assert marks.without_ours([*theirs, *marks.tags(made)]) == theirs
    assert marks.made_of(theirs) is None
    found = marks.made_of_description(marks.description(made))
    assert found == made
    assert marks.made_of_description("a description of the tenant's") is None
    assert marks.made_of_description(None) is None


@given(texts, texts)
def test_bgp_vpns_are_known_by_their_name(name, value):
    assert marks.service_of(marks.vpn_name(name)) == name
    assert marks.service_of(marks.mark_name("database", value)) is None
    assert marks.mark_of(marks.mark_name("database", value), "database") == value
    assert marks.mark_of(marks.mark_name("database", value), "data") is None
    assert not marks.is_ours("a tenant's")
    assert not marks.is_ours(None)
