"""What L2 refuses: of the tenant's request, at the asked site, and of a document."""

import pytest
from logic_cases import document, draft, given, made, network, port, request, subnet

from diminet.errors import InvalidRequest, ResourceBusy, ResourceNotClean
from diminet.logic.l2 import L2
from diminet.model import Entry, Resource

CIDR = "10.0.0.0/24"
L2_TYPE = L2()
A, B = Entry(site="a", resource_id="na"), Entry(site="b")


def service(service_id="s", type_name="l2"):
    plan = draft({"a": given(network("na", subnet(CIDR))), "b": made("nb")})
    return document(type_name, L2_TYPE.decide(plan), plan.members, service_id=service_id)


def test_params_are_completed():
    assert L2_TYPE.check([A, B], {}, "a") == {"gateway": "local"}
    full = {"gateway": "none", "block_size": 8}
    assert L2_TYPE.check([A, B], full, "a") == full
    assert L2_TYPE.check([A, B], {"block_size": None}, "b") == {"gateway": "local"}


@pytest.mark.parametrize(
    "params",
    [{"gateway": "both"}, {"gateway": None}, {"gateway": ["local"]}, {"mtu": 9000}]
    + [{"block_size": size} for size in (0, -4, 3, 1.5, "4", True)],
)
def test_bad_params_are_refused(params):
    with pytest.raises(InvalidRequest, match="params"):
        L2_TYPE.check([A, B], params, "a")


@pytest.mark.parametrize(
    ("entries", "receiver", "told"),
    [
        ([A], "a", "at least two sites"),
        ([A, A], "a", "more than once"),
        ([A, Entry(site="a", resource_id="x"), B], "a", "one network of a site"),
        ([Entry(site="a"), B], "a", "must name an existing network"),
        ([A, B], "c", "send it to one of a, b"),
    ],
)
def test_bad_entries_are_refused(entries, receiver, told):
    with pytest.raises(InvalidRequest, match=told):
        L2_TYPE.check(entries, {}, receiver)


def asked(site="b", resource_id="nb", subnets=(CIDR,)):
    own = [network("na", *(subnet(c) for c in subnets))]
    return request(site, ("a", "b"), L2_TYPE.wanted(own, {}, None), resource_id)


def test_a_clean_remote_network_fits():
    dhcp = port("10.0.0.2", infrastructure=True)
    L2_TYPE.fit(given(network("nb", subnet(CIDR)), dhcp), asked(), "b", ())
    L2_TYPE.fit(made("nb"), asked(resource_id=None), "b", ())


def test_the_origin_may_be_in_use():
    L2_TYPE.fit(given(network("na", subnet(CIDR)), port("10.0.0.9")), asked("a", "na"), "a", ())


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        (given(network("nb", subnet(CIDR)), port("10.0.0.9")), r"10\.0\.0\.9"),
        (given(network("nb", subnet("10.1.0.0/24"))), r"needs exactly 10\.0\.0\.0/24"),
        (given(network("nb", subnet(CIDR), subnet("10.1.0.0/24"))), "needs exactly"),
        (given(network("nb")), "has no subnet"),
        (given(network("nb", subnet("2001:db8::/64", slaac=True))), "SLAAC"),
    ],
)
def test_what_is_not_clean_is_refused(facts, told):
    with pytest.raises(ResourceNotClean, match=told) as refused:
        L2_TYPE.fit(facts, asked(), "b", ())
    assert refused.value.sites == ("b",)


def test_a_remote_network_in_use_is_refused_also_where_the_receiver_has_none():
    nothing = request("b", ("a", "b"), L2_TYPE.wanted([], {}, None), "nb")
    L2_TYPE.fit(given(network("nb", subnet(CIDR))), nothing, "b", ())
    with pytest.raises(ResourceNotClean):
        L2_TYPE.fit(given(network("nb", subnet(CIDR)), port("10.0.0.9")), nothing, "b", ())


@pytest.mark.parametrize("type_name", ["l2", "l3"])
def test_a_network_of_another_service_is_busy_for_good(type_name):
    other = service("other", type_name)
    with pytest.raises(ResourceBusy, match="service other") as refused:
        L2_TYPE.fit(given(network("na", subnet(CIDR))), asked("a", "na"), "a", [other])
    assert refused.value.ticket is None
    with pytest.raises(ResourceBusy, match="service other"):
        L2_TYPE.recheck(service(), "a", [other])


def test_malformed_wishes_of_a_peer_are_refused():
    bad = request("b", ("a", "b"), {"subnets": [{"cidr": 4}]}, "nb")
    with pytest.raises(InvalidRequest, match="not understood"):
        L2_TYPE.fit(given(network("nb", subnet(CIDR))), bad, "b", ())


def changed(doc, site, **subnet_fields):
    resources = tuple(
        r.model_copy(update={"subnets": tuple(s.model_copy(update=subnet_fields) for s in r.subnets)})
        if r.site == site
        else r
        for r in doc.resources
    )
    return doc.model_copy(update={"resources": resources})


def test_a_sane_document_stands_and_others_do_not():
    doc = service()
    L2_TYPE.recheck(doc, "a", ())
    taken = doc.resources_of("a")[0].subnets[0].gateway_ip
    bad = [
        changed(doc, "b", gateway_ip="10.9.0.1"),
        changed(doc, "b", gateway_ip=taken),
        changed(doc, "b", cidr="10.1.0.0/24"),
        changed(doc, "b", block_prefix=31),
        changed(doc, "b", block_prefix=None),
        doc.model_copy(update={"resources": doc.resources[:1]}),
        doc.model_copy(update={"resources": (*doc.resources, Resource(site="b", resource_id="n2"))}),
    ]
    for document_ in bad:
        with pytest.raises(InvalidRequest):
            L2_TYPE.recheck(document_, "b", ())


def test_targets_name_the_others():
    doc = service()
    target = L2_TYPE.target(doc, "a", ())
    assert target is not None
    assert target.layer == "l2"
    assert target.networks == ("na",)
    assert target.export_target == doc.identifiers.target(1)
    assert target.import_targets == (doc.identifiers.target(2),)
    assert target.peers == (2,)
    assert target.mtu == 1450
    assert not target.anycast_gateway
    assert L2_TYPE.target(doc, "z", ()) is None


def test_subnets_that_appear_on_a_stretched_network_are_told():
    doc = service()
    now = [network("na", subnet(CIDR), subnet("10.7.0.0/24"))]
    problems = L2_TYPE.appeared(doc, "a", now, ())
    assert len(problems) == 1
    assert "10.7.0.0/24" in problems[0]
