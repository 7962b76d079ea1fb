"""What a `NeutronSouth` asks of its Neutron, and what it need not ask; a table of answers in its place."""

import asyncio
from typing import Any

import pytest

from diminet.model import AddressRange, SubnetShape, Target
from diminet.south.neutron import recent
from diminet.south.neutron.neutron import Refused
from diminet.south.neutron.south import NeutronSouth

CIDR = "10.1.0.0/24"
NETWORK: dict[str, Any] = {
    "id": "net",
    "name": "web",
    "project_id": "demo",
    "mtu": 1450,
    "tags": [],
    "shared": False,
    "description": "",
}


class Table:
    """calls: METHOD PATH, in order. A POST or PUT answers what was sent, with an id."""

    site = "here"

    def __init__(self, **answers: Any) -> None:
        self.calls: list[str] = []
        self.answers = answers
        self.broken = ""  # METHOD PATH that fails, though it was done

    def _asked(self, call: str) -> None:
        self.calls.append(call)
        if call == self.broken:
            raise Refused("as asked", site="here", status=409, kind="")

    async def get(self, what: str, path: str, **_: Any) -> Any:
        self._asked(f"GET {path}")
        if path.startswith("/quotas/"):
            return self.answers["quota"]
        return {"network": NETWORK | {"id": path.rpartition("/")[2]} | self.answers.get("network", {})}

    async def list(self, what: str, path: str, key: str, **_: Any) -> Any:
        self._asked(f"GET {path}")
        return list(self.answers.get(key, []))

    async def post(self, what: str, path: str, body: Any) -> Any:
        self._asked(f"POST {path}")
        if path.endswith("/tags"):
            return {}
        kind = next(iter(body))
        plain = {"tags": [], "networks": [], "gateway_ip": None, "allocation_pools": [], "mtu": 1450}
        return {kind: {**plain, **body[kind], "id": f"new-{kind}"}}

    async def put(self, what: str, path: str, body: Any) -> Any:
        self._asked(f"PUT {path}")
        kind = next(iter(body))
        return {kind: {**self.answers[f"{kind}s"][0], **body[kind]}}

    async def delete(self, what: str, path: str) -> bool:
        self._asked(f"DELETE {path}")
        return True


def row(**given: Any) -> Any:
    pools = [{"start": "10.1.0.2", "end": "10.1.0.254"}]
    usual = {"id": "sub", "network_id": "net", "project_id": "demo", "cidr": CIDR, "ip_version": 4}
    return {**usual, "gateway_ip": "10.1.0.1", "allocation_pools": pools, "tags": [], **given}


def shape(last: str = "10.1.0.9") -> SubnetShape:
    pools = (AddressRange("10.1.0.2", last),)
    return SubnetShape(cidr=CIDR, ip_version=4, gateway_ip="10.1.0.1", pools=pools)


def target(service: str = "s1", *imports: str) -> Target:
    return Target(
        service_id=service,
        project_id="demo",
        layer="l3",
        vni=28673,
        export_target="64999:1",
        import_targets=imports or ("64999:2",),
        networks=("net",),
    )


def asked(table: Table, work: Any) -> list[str]:
    table.calls.clear()
    asyncio.run(work)
    return list(table.calls)


VPNS = "/bgpvpn/bgpvpns"
JOIN = [f"POST {VPNS}", f"POST {VPNS}/new-bgpvpn/network_associations"]


def test_one_more_bgp_vpn_is_made_and_deleted_without_a_list_of_all():
    table = Table(bgpvpns=[])
    south = NeutronSouth(table)  # type: ignore[arg-type]
    assert asked(table, south.realised()) == [f"GET {VPNS}"]
    assert asked(table, south.connect(target())) == JOIN
    assert asked(table, south.disconnect("s1")) == [f"DELETE {VPNS}/new-bgpvpn"]
    assert asked(table, south.disconnect("s1")) == [f"GET {VPNS}"]


def test_all_are_looked_at_where_one_may_be_there_already():
    table = Table(bgpvpns=[])
    south = NeutronSouth(table)  # type: ignore[arg-type]
    assert asked(table, south.connect(target())) == [f"GET {VPNS}", *JOIN]  # the first since the start
    assert asked(table, south.connect(target("s1", "64999:3")))[0] == f"GET {VPNS}"
    table.broken = JOIN[0]
    for _ in range(2):
        with pytest.raises(Refused):
            asked(table, south.connect(target("s2")))
    assert table.calls[0] == f"GET {VPNS}"
    assert asked(table, south.disconnect("s2")) == [f"GET {VPNS}"]


def test_a_network_of_ours_is_made_and_shaped_without_looking_for_it():
    table = Table()
    south = NeutronSouth(table)  # type: ignore[arg-type]
    made = asked(table, south.make_network("s1", "demo", "web", "here", first=True))
    assert made == ["POST /networks", "POST /networks/new-network/tags"]
    assert asked(table, south.network("new-network")) == []
    assert asked(table, south.shape_subnet("new-network", shape())) == ["POST /subnets"]
    assert asked(table, south.shape_subnet("new-network", shape())) == []
    assert asked(table, south.make_network("s1", "demo", "web", "here"))[0] == "GET /networks"


def test_a_subnet_is_read_again_after_a_refusal_and_after_a_while(monkeypatch):
    table = Table(subnets=[row()])
    south = NeutronSouth(table)  # type: ignore[arg-type]
    whole = ["GET /subnets", "POST /subnets/sub/tags", "PUT /subnets/sub"]
    table.broken = "PUT /subnets/sub"
    for _ in range(2):
        with pytest.raises(Refused):
            asked(table, south.shape_subnet("net", shape()))
        assert table.calls == whole
    table.broken = ""
    assert asked(table, south.shape_subnet("net", shape())) == whole
    assert asked(table, south.shape_subnet("net", shape())) == []  # as it was just written
    monkeypatch.setattr(recent, "RECENT_S", 0.0)
    assert asked(table, south.shape_subnet("net", shape())) == whole


def test_a_tenants_subnets_are_read_for_every_promise():
    table = Table(subnets=[row()])
    south = NeutronSouth(table)  # type: ignore[arg-type]
    assert sorted(asked(table, south.owner("net"))) == ["GET /networks/net"]
    assert asked(table, south.network("net")) == ["GET /subnets"]
    assert asked(table, south.network("net")) == ["GET /subnets"]


@pytest.mark.parametrize(
    ("answers", "settled"),
    [
        ({"quota": {"quota": {"port": {"limit": 500, "reserved": 0}}}}, True),
        ({"quota": {"quota": {"port": {"limit": 500, "reserved": 1}}}}, False),
        ({"quota": {"quota": {"port": {"limit": -1, "reserved": 0}}}}, False),
        ({"quota": {"quota": {}}}, False),
        ({"quota": {"quota": {"port": {"limit": 500, "reserved": 0}}}, "network": {"shared": True}}, False),
    ],
)
def test_no_port_is_in_the_making_where_no_quota_is_reserved(answers, settled):
    south = NeutronSouth(Table(**answers))  # type: ignore[arg-type]
    assert asyncio.run(south.settled("net")) is settled


def test_a_neutron_without_such_an_account_cannot_tell():
    table = Table(quota={})
    table.broken = "GET /quotas/demo/details"
    assert asyncio.run(NeutronSouth(table).settled("net")) is False  # type: ignore[arg-type]
