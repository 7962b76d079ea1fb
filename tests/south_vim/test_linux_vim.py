"""The networking service itself: addresses, tenants, refusals, crashes. Doubles only for the kernel."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from ipaddress import ip_address, ip_network

import pytest

from diminet.errors import BadSurroundings, SiteRefused, StorageUnavailable
from diminet.model import AddressRange
from diminet.south.linux import names
from diminet.south.linux.vim_access import Quotas
from diminet.south.linux.vim_errors import BadRequest, Forbidden, InUse, Missing
from diminet.south.linux.vim_requests import (
    NetworkCreate,
    NetworkUpdate,
    PortCreate,
    PortUpdate,
    SubnetCreate,
    SubnetUpdate,
)
from diminet.south.linux.vim_store import VimStore


async def web(vim, actor, cidr="10.1.0.0/24", **subnet):
    """A network with one subnet."""
    network = await vim.create_network(actor, NetworkCreate(name="web"))
    version = ip_network(cidr).version
    subnet = SubnetCreate(network_id=network.id, cidr=cidr, ip_version=version, **subnet)
    return network, await vim.create_subnet(actor, subnet)


def pool(first: str, last: str) -> dict[str, str]:
    return {"start": first, "end": last}


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))


def test_a_port_gets_address_mac_and_instance(site):
    async def work():
        async with site.vim() as vim:
            network, subnet = await web(vim, site.tenant)
            assert (network.state, network.mtu, subnet.gateway_ip) == ("ACTIVE", 1450, "10.1.0.1")
            port = await vim.create_port(site.tenant, PortCreate(network_id=network.id, name="vm1"))
            assert (port.state, port.instance, port.fixed_ips[0].ip) == ("ACTIVE", "vm1", "10.1.0.2")
            assert port.mac == names.port_mac(site.number, port.id)
            assert site.kernel.plugged[port.id] == {
                "network_id": network.id,
                "instance": "vm1",
                "mac": port.mac,
                "addresses": [("10.1.0.2", 24)],
                "gateways": ["10.1.0.1"],
                "mtu": 1450,
            }
            gateway = names.gateway_mac(site.number, network.id)
            assert site.kernel.gateway[network.id] == ((("10.1.0.1", 24),), gateway)
            await vim.delete_port(site.tenant, port.id)
            await vim.delete_network(site.tenant, network.id)
            assert not site.kernel.plugged
            assert not site.kernel.gateway
            assert not site.kernel.bridge_mtu

    run(work)


def test_a_hundred_ports_at_once(site):
    async def work():
        async with site.vim() as vim:
            pools = (pool("10.1.0.10", "10.1.0.59"), pool("10.1.0.100", "10.1.0.149"))
            network, subnet = await web(vim, site.tenant, allocation_pools=pools)
            request = PortCreate(network_id=network.id, name="vm")
            ports = await asyncio.gather(*[vim.create_port(site.tenant, request) for _ in range(100)])
            assert len({p.fixed_ips[0].ip for p in ports}) == 100
            assert len({p.mac for p in ports}) == 100
            assert len({p.instance for p in ports}) == 100
            ranges = [(ip_address(a), ip_address(b)) for a, b in subnet.pools]
            for port in ports:
                assert any(a <= ip_address(port.fixed_ips[0].ip) <= b for a, b in ranges)
            with pytest.raises(InUse) as refused:
                await vim.create_port(site.tenant, request)
            assert refused.value.type == "IpAddressGenerationFailure"

    run(work)


class Keeper:
    """Gives one more address each time it is asked, as the engine's keeper does through the South."""

    def __init__(self, vim, subnet_id, last, most):
        self.vim, self.subnet_id, self.last, self.most = vim, subnet_id, last, most
        self.asked, self.made = [], []

    async def more_room(self, network_id, cidr):
        self.asked.append((network_id, cidr))
        if len(self.asked) > self.most:
            return False
        await asyncio.sleep(0)
        self.last += 1

        def write(tx):
            row = tx.subnet(self.subnet_id)
            pools = (AddressRange(row.pools[0].first, f"10.1.0.{self.last}"),)
            tx.save_subnet(row.model_copy(update={"pools": pools}))

        await self.vim.store.write(write)
        return True

    def port_made(self, network_id):
        self.made.append(network_id)


def test_dry_pools_grow_within_the_request(site):
    async def work():
        async with site.vim() as vim:
            pools = (pool("10.1.0.10", "10.1.0.11"),)
            network, subnet = await web(vim, site.tenant, allocation_pools=pools)
            vim.keeper = keeper = Keeper(vim, subnet.id, 11, 5)
            request = PortCreate(network_id=network.id)
            results = await asyncio.gather(
                *[vim.create_port(site.tenant, request) for _ in range(10)], return_exceptions=True
            )
            refused = [r for r in results if isinstance(r, InUse)]
            ips = {r.fixed_ips[0].ip for r in results if not isinstance(r, BaseException)}
            assert ips == {f"10.1.0.{n}" for n in range(10, 17)}
            assert len(refused) == 3
            assert keeper.made == [network.id] * 7
            assert set(keeper.asked) == {(network.id, "10.1.0.0/24")}

    run(work)


def test_a_keeper_that_does_not_answer_in_time(site):
    class Slow:
        async def more_room(self, network_id, cidr):
            await asyncio.sleep(3600)

        def port_made(self, network_id): ...

    async def work():
        async with site.vim(keeper=Slow(), more_room_timeout=0.01) as vim:
            network, _ = await web(vim, site.tenant, allocation_pools=())
            with pytest.raises(InUse, match="No more IP addresses"):
                await vim.create_port(site.tenant, PortCreate(network_id=network.id))

    run(work)


def test_projects_do_not_see_each_other(site):
    async def work():
        async with site.vim() as vim:
            mine, my_subnet = await web(vim, site.tenant)
            theirs, _ = await web(vim, site.other)  # the same CIDR
            my_port = await vim.create_port(site.tenant, PortCreate(network_id=mine.id, name="vm1"))
            their_port = await vim.create_port(site.other, PortCreate(network_id=theirs.id, name="vm1"))
            assert my_port.fixed_ips[0].ip == their_port.fixed_ips[0].ip
            assert my_port.instance != their_port.instance
            assert [n.id for n in await vim.networks(site.tenant)] == [mine.id]
            assert [s.id for s in await vim.subnets(site.tenant)] == [my_subnet.id]
            assert [p.id for p in await vim.ports(site.tenant)] == [my_port.id]
            assert len(await vim.networks(site.admin)) == 2
            for attempt in (
                vim.network(site.other, mine.id),
                vim.subnet(site.other, my_subnet.id),
                vim.port(site.other, my_port.id),
                vim.delete_network(site.other, mine.id),
                vim.delete_port(site.other, my_port.id),
                vim.create_port(site.other, PortCreate(network_id=mine.id)),
                vim.update_subnet(site.other, my_subnet.id, SubnetUpdate(name="x")),
            ):
                with pytest.raises(Missing):
                    await attempt
            for attempt in (
                vim.create_network(site.reader, NetworkCreate(name="x")),
                vim.create_network(site.tenant, NetworkCreate(project_id="red")),
                vim.create_network(site.tenant, NetworkCreate(shared=True)),
                vim.update_network(site.reader, mine.id, NetworkUpdate(name="x")),
                vim.delete_port(site.reader, my_port.id),
            ):
                with pytest.raises(Forbidden):
                    await attempt

    run(work)


def test_a_shared_network_is_seen_and_used_but_not_changed(site):
    async def work():
        async with site.vim() as vim:
            network = await vim.create_network(site.admin, NetworkCreate(name="all", shared=True))
            await vim.create_subnet(site.admin, SubnetCreate(network_id=network.id, cidr="10.9.0.0/24"))
            port = await vim.create_port(site.tenant, PortCreate(network_id=network.id))
            assert port.project_id == "blue"
            assert [p.id for p in await vim.ports(site.other)] == []
            with pytest.raises(Forbidden):
                await vim.delete_network(site.tenant, network.id)
            with pytest.raises(Forbidden):
                await vim.create_subnet(site.tenant, SubnetCreate(network_id=network.id, cidr="10.8.0.0/24"))

    run(work)


@pytest.mark.parametrize(
    ("subnet", "error"),
    [
        ({"cidr": "10.1.0.0/25"}, (BadRequest, "InvalidInput")),  # overlaps the one that is there
        ({"cidr": "10.2.0.0/24", "gateway_ip": "10.3.0.1"}, (BadRequest, "InvalidInput")),
        ({"cidr": "10.2.0.0/24", "gateway_ip": "10.2.0.255"}, (BadRequest, "InvalidInput")),
        (
            {"cidr": "10.2.0.0/24", "allocation_pools": [pool("10.2.0.1", "10.2.0.9")]},
            (InUse, "GatewayConflictWithAllocationPools"),
        ),
        (
            {"cidr": "10.2.0.0/24", "allocation_pools": [pool("10.2.0.9", "10.2.0.2")]},
            (BadRequest, "InvalidAllocationPool"),
        ),
        (
            {"cidr": "10.2.0.0/24", "allocation_pools": [pool("10.2.0.9", "fd00::1")]},
            (BadRequest, "InvalidAllocationPool"),
        ),
        (
            {"cidr": "10.2.0.0/24", "allocation_pools": [pool("10.2.0.9", "10.2.1.2")]},
            (BadRequest, "OutOfBoundsAllocationPool"),
        ),
        (
            {
                "cidr": "10.2.0.0/24",
                "allocation_pools": [pool("10.2.0.20", "10.2.0.30"), pool("10.2.0.9", "10.2.0.20")],
            },
            (InUse, "OverlappingAllocationPools"),
        ),
        ({"cidr": "fd00::/64"}, (BadRequest, "InvalidInput")),  # ip_version is 4 unless said
        ({"cidr": "10.2.0.0/24", "ipv6_address_mode": "slaac"}, (BadRequest, "InvalidInput")),
        ({"cidr": "fd00::/80", "ip_version": 6, "ipv6_ra_mode": "slaac"}, (BadRequest, "InvalidInput")),
    ],
)
def test_subnets_that_are_refused(site, subnet, error):
    async def work():
        async with site.vim() as vim:
            network, _ = await web(vim, site.tenant)
            with pytest.raises(error[0]) as refused:
                await vim.create_subnet(site.tenant, SubnetCreate(network_id=network.id, **subnet))
            assert refused.value.type == error[1]
            assert len(await vim.subnets(site.tenant)) == 1

    run(work)


@pytest.mark.parametrize(
    ("fixed", "error"),
    [
        ({"ip_address": "10.1.0.5"}, None),
        ({"ip_address": "10.1.0.200"}, None),  # outside of the pools is the tenant's choice
        ({"ip_address": "10.1.0.2"}, (InUse, "IpAddressAlreadyAllocated")),
        ({"ip_address": "10.1.0.1"}, (InUse, "IpAddressAlreadyAllocated")),  # the gateway
        ({"ip_address": "10.1.0.255"}, (BadRequest, "InvalidIpForSubnet")),
        ({"ip_address": "10.7.0.1"}, (BadRequest, "InvalidIpForNetwork")),
        ({"subnet_id": "elsewhere"}, (Missing, "SubnetNotFound")),
    ],
)
def test_fixed_addresses(site, fixed, error):
    async def work():
        async with site.vim() as vim:
            pools = (pool("10.1.0.2", "10.1.0.99"),)
            network, _ = await web(vim, site.tenant, allocation_pools=pools)
            await vim.create_port(site.tenant, PortCreate(network_id=network.id))
            request = PortCreate(network_id=network.id, fixed_ips=[fixed])
            if error is None:
                port = await vim.create_port(site.tenant, request)
                assert port.fixed_ips[0].ip == fixed["ip_address"]
                return
            with pytest.raises(error[0]) as refused:
                await vim.create_port(site.tenant, request)
            assert refused.value.type == error[1]
            assert len(site.kernel.plugged) == 1

    run(work)


def test_dual_stack_slaac_and_a_port_without_address(site):
    async def work():
        async with site.vim() as vim:
            network, _ = await web(vim, site.tenant)
            for cidr, mode in (("fd00:1::/64", None), ("fd00:2::/64", "slaac")):
                request = SubnetCreate(network_id=network.id, cidr=cidr, ip_version=6, ipv6_address_mode=mode)
                await vim.create_subnet(site.tenant, request)
            port = await vim.create_port(site.tenant, PortCreate(network_id=network.id))
            ips = [address.ip for address in port.fixed_ips]
            assert ips[0] == "10.1.0.2"
            assert "fd00:1::2" in ips
            assert len(ips) == 3
            gateways = site.kernel.plugged[port.id]["gateways"]
            assert sorted(ip_address(g).version for g in gateways) == [4, 6]
            bare = await vim.create_port(site.tenant, PortCreate(network_id=network.id, fixed_ips=[]))
            assert bare.fixed_ips == ()

    run(work)


def test_changes_reach_the_instances(site):
    async def work():
        async with site.vim() as vim:
            network, subnet = await web(vim, site.tenant)
            port = await vim.create_port(site.tenant, PortCreate(network_id=network.id, name="vm1"))
            await vim.update_network(site.tenant, network.id, NetworkUpdate(mtu=1400))
            assert site.kernel.plugged[port.id]["mtu"] == site.kernel.bridge_mtu[network.id] == 1400
            await vim.update_subnet(site.tenant, subnet.id, SubnetUpdate(gateway_ip=None))
            assert site.kernel.plugged[port.id]["gateways"] == []
            assert network.id not in site.kernel.gateway
            moved = PortUpdate(fixed_ips=[{"ip_address": "10.1.0.77"}])
            assert (await vim.update_port(site.tenant, port.id, moved)).fixed_ips[0].ip == "10.1.0.77"
            assert site.kernel.plugged[port.id]["addresses"] == [("10.1.0.77", 24)]
            await vim.update_port(site.tenant, port.id, PortUpdate(admin_state_up=False))
            assert port.id not in site.kernel.plugged
            await vim.update_port(site.tenant, port.id, PortUpdate(admin_state_up=True))
            assert port.id in site.kernel.plugged
            await vim.update_network(site.tenant, network.id, NetworkUpdate(admin_state_up=False))
            assert port.id not in site.kernel.plugged
            with pytest.raises(InUse, match="a port uses that address"):
                await vim.update_subnet(
                    site.tenant,
                    subnet.id,
                    SubnetUpdate(gateway_ip="10.1.0.77", allocation_pools=[pool("10.1.0.2", "10.1.0.9")]),
                )
            with pytest.raises(InUse):
                await vim.delete_subnet(site.tenant, subnet.id)
            with pytest.raises(InUse, match="ports"):
                await vim.delete_network(site.tenant, network.id)

    run(work)


def test_a_port_deleted_while_all_are_plugged_again_stays_gone(site):
    async def work():
        async with site.vim() as vim:
            network, _ = await web(vim, site.tenant)
            request = PortCreate(network_id=network.id)
            ports = [await vim.create_port(site.tenant, request) for _ in range(8)]
            await asyncio.gather(
                *[vim.delete_port(site.tenant, port.id) for port in ports],
                *[vim.update_network(site.tenant, network.id, NetworkUpdate(mtu=1300 + n)) for n in range(8)],
                *[vim.wiring.port(port.id) for port in ports],
            )
            assert site.kernel.plugged == {}
            assert await vim.ports(site.admin) == []

    run(work)


@pytest.mark.parametrize("trouble", ["garbage", "directory", "locked", "no parent"])
def test_a_database_that_cannot_be_used_is_said_to_be_so(tmp_path, trouble):
    path = tmp_path / "vim.db"
    holder = sqlite3.connect(tmp_path / "vim.db") if trouble == "locked" else None
    if trouble == "garbage":
        path.write_bytes(b"this is no database" * 1000)
    elif trouble == "directory":
        path.mkdir()
    elif trouble == "no parent":
        path = tmp_path / "nothing" / "vim.db"
    elif holder:
        holder.execute("BEGIN EXCLUSIVE")

    async def work():
        store = VimStore(path, busy_timeout=0.1)
        try:
            with pytest.raises(StorageUnavailable, match=r"vim\.db cannot be used") as caught:
                await store.open()
            damaged = trouble == "garbage"
            assert ("free its disk" in caught.value.message) is not damaged
            assert ("vim.db-wal" in caught.value.message) is damaged  # what to move away, and what is lost
            assert ("addresses were given out, are lost" in caught.value.message) is damaged
        finally:
            await store.close()

    run(work)
    if holder:
        holder.close()


def test_macs_by_hand(site):
    async def work():
        async with site.vim() as vim:
            network, _ = await web(vim, site.tenant)
            mac = "52:54:00:00:00:01"
            request = PortCreate(network_id=network.id, mac_address=mac.upper().replace(":", "-"))
            assert (await vim.create_port(site.tenant, request)).mac == mac
            with pytest.raises(InUse) as refused:
                await vim.create_port(site.tenant, request)
            assert refused.value.type == "MacAddressInUse"

    run(work)


def test_one_device_with_two_ports_is_one_instance(site):
    async def work():
        async with site.vim() as vim:
            one, _ = await web(vim, site.tenant)
            two, _ = await web(vim, site.tenant, "10.2.0.0/24")
            a = await vim.create_port(site.tenant, PortCreate(network_id=one.id, name="a", device_id="d1"))
            b = await vim.create_port(site.tenant, PortCreate(network_id=two.id, name="b", device_id="d1"))
            c = await vim.create_port(
                site.other,
                PortCreate(network_id=(await web(vim, site.other))[0].id, name="a", device_id="d1"),
            )
            assert a.instance == b.instance == "a"
            assert c.instance not in (None, "a")
            router = PortCreate(network_id=one.id, device_owner="network:dhcp")
            assert (await vim.create_port(site.tenant, router)).instance is None

    run(work)


def test_quotas(site):
    async def work():
        async with site.vim(quotas=Quotas(networks=1, subnets=1, ports=1)) as vim:
            network, _ = await web(vim, site.tenant)
            await vim.create_port(site.tenant, PortCreate(network_id=network.id))
            for attempt in (
                vim.create_network(site.tenant, NetworkCreate()),
                vim.create_subnet(site.tenant, SubnetCreate(network_id=network.id, cidr="10.5.0.0/24")),
                vim.create_port(site.tenant, PortCreate(network_id=network.id)),
            ):
                with pytest.raises(InUse) as refused:
                    await attempt
                assert refused.value.type == "OverQuota"

    run(work)


@pytest.mark.parametrize("step", ["make_bridge", "set_gateway", "plug"])
def test_what_the_kernel_refuses_leaves_no_port_or_network(site, step):
    async def work():
        async with site.vim() as vim:
            if step == "make_bridge":
                site.kernel.refuse = {step}
                with pytest.raises(SiteRefused):
                    await vim.create_network(site.tenant, NetworkCreate())
                assert await vim.networks(site.admin) == []
                return
            network, subnet = await web(vim, site.tenant)
            site.kernel.refuse = {step}
            if step == "plug":
                with pytest.raises(SiteRefused):
                    await vim.create_port(site.tenant, PortCreate(network_id=network.id))
                assert await vim.ports(site.admin) == []
                return
            new = SubnetUpdate(gateway_ip="10.1.0.254", allocation_pools=[pool("10.1.0.2", "10.1.0.9")])
            with pytest.raises(SiteRefused):
                await vim.update_subnet(site.tenant, subnet.id, new)
            assert vim.wiring.behind(network.id)

    run(work)


def test_a_restart_plugs_everything_again_and_removes_strangers(site):
    async def before():
        async with site.vim() as vim:
            network, _ = await web(vim, site.tenant)
            for _ in range(3):
                await vim.create_port(site.tenant, PortCreate(network_id=network.id))

    run(before)
    had = (dict(site.kernel.plugged), dict(site.kernel.gateway), dict(site.kernel.bridge_mtu))
    site.kernel.reboot()
    stranger = "00000000-0000-4000-8000-00000000beef"
    site.kernel.bridge_mtu[stranger] = 1500
    site.kernel.gateway[stranger] = ((), "")
    site.kernel.plugged[stranger] = {}

    async def after():
        async with site.vim():
            assert (site.kernel.plugged, site.kernel.gateway, site.kernel.bridge_mtu) == had

    run(after)


def test_a_crash_at_any_point_of_a_port_is_finished_by_the_restart(site):
    """Rows as a kill -9 leaves them: BUILD before the kernel was told, DELETING before it forgot."""

    async def before():
        async with site.vim() as vim:
            network, _ = await web(vim, site.tenant)
            ports = [await vim.create_port(site.tenant, PortCreate(network_id=network.id)) for _ in range(3)]
            gone, _ = await web(vim, site.tenant, "10.2.0.0/24")

            def crash(tx):
                tx.save_port(ports[0].model_copy(update={"state": "BUILD"}))
                tx.save_port(ports[1].model_copy(update={"state": "DELETING"}))
                tx.save_network(gone.model_copy(update={"state": "DELETING"}))

            await vim.store.write(crash)
            del site.kernel.plugged[ports[0].id]
            return [port.id for port in ports], network.id

    async def after(ids, network_id):
        async with site.vim() as vim:
            rows = {row.id: row.state for row in await vim.ports(site.admin)}
            assert rows == {ids[0]: "ACTIVE", ids[2]: "ACTIVE"}
            assert set(site.kernel.plugged) == {ids[0], ids[2]}
            assert [n.id for n in await vim.networks(site.admin)] == [network_id]
            assert set(site.kernel.bridge_mtu) == {network_id}
            fourth = await vim.create_port(site.tenant, PortCreate(network_id=network_id))
            assert fourth.fixed_ips[0].ip == "10.1.0.3"  # of the port that is gone

    ids, network_id = asyncio.run(before())
    asyncio.run(after(ids, network_id))


def test_a_database_of_another_version_is_refused(tmp_path):
    async def once():
        store = VimStore(tmp_path / "vim.db")
        try:
            await store.open()
        finally:
            await store.close()

    asyncio.run(once())
    db = sqlite3.connect(tmp_path / "vim.db")
    db.execute("UPDATE vim_schema SET version = 99")
    db.commit()
    db.close()
    with pytest.raises(BadSurroundings, match="version 99"):
        asyncio.run(once())
