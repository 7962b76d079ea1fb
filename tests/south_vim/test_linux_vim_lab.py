"""The networking service on the real kernel, in a network and mount namespace of its own."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from diminet.model import AddressRange, SubnetShape
from diminet.south.linux.kernel import Kernel
from diminet.south.linux.linux import LinuxSouth
from diminet.south.linux.vim import LinuxVim
from diminet.south.linux.vim_access import Actor
from diminet.south.linux.vim_requests import NetworkCreate, NetworkUpdate, PortCreate, SubnetCreate
from diminet.south.linux.vim_store import VimStore

BLUE, RED = Actor("blue"), Actor("red")


@pytest.mark.lab
def test_instances_on_the_real_kernel(tmp_path):
    command = ["unshare", "-n", "-m", sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "done"


def ping(namespace: Path, address: str, *options: str) -> bool:
    command = ["nsenter", f"--net={namespace}", "ping", "-n", "-c", "1", "-W", "2", *options, address]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


async def web(vim: LinuxVim, actor: Actor) -> str:
    network = await vim.create_network(actor, NetworkCreate(name="web"))
    await vim.create_subnet(actor, SubnetCreate(network_id=network.id, cidr="10.1.0.0/24"))
    v6 = SubnetCreate(network_id=network.id, cidr="fd00:1::/64", ip_version=6)
    await vim.create_subnet(actor, v6)
    return network.id


async def check(directory: Path) -> None:
    kernel = Kernel(directory)
    path = directory / "vim.db"
    vim = LinuxVim(VimStore(path), kernel, 7)
    await vim.start()
    south = LinuxSouth(vim, None)  # type: ignore[arg-type]  # its data plane is not what is tested here
    blue, red = await web(vim, BLUE), await web(vim, RED)
    requests = [PortCreate(network_id=blue, name=f"vm{n}") for n in (1, 2)]
    one, two = [await vim.create_port(BLUE, request) for request in requests]
    alien = await vim.create_port(RED, PortCreate(network_id=red, name="vm1"))
    inside = {port.id: vim.wiring.instance_path(port.instance or "") for port in (one, two, alien)}

    for address in (two.fixed_ips[0].ip, two.fixed_ips[1].ip, "10.1.0.1", "fd00:1::1"):
        assert ping(inside[one.id], address), address
    assert ping(inside[one.id], two.fixed_ips[0].ip, "-M", "do", "-s", "1422")
    assert not ping(inside[one.id], two.fixed_ips[0].ip, "-M", "do", "-s", "1423")
    assert alien.fixed_ips[0].ip == one.fixed_ips[0].ip
    assert not ping(inside[alien.id], two.fixed_ips[0].ip)
    print("instances reach each other and the gateway, other projects do not")

    await vim.update_network(BLUE, blue, NetworkUpdate(mtu=1400))
    assert not ping(inside[one.id], two.fixed_ips[0].ip, "-M", "do", "-s", "1422")
    assert ping(inside[one.id], two.fixed_ips[0].ip, "-M", "do", "-s", "1372")
    moved = SubnetShape(
        cidr="10.1.0.0/24",
        ip_version=4,
        gateway_ip="10.1.0.129",
        pools=(AddressRange("10.1.0.130", "10.1.0.140"),),
    )
    await south.shape_subnet(blue, moved)
    assert ping(inside[one.id], "10.1.0.129")
    assert not ping(inside[one.id], "10.1.0.1")
    assert (
        "via 10.1.0.129"
        in subprocess.run(
            ["nsenter", f"--net={inside[two.id]}", "ip", "route"], capture_output=True, text=True, check=True
        ).stdout
    )
    print("MTU and gateway follow")

    await vim.close()
    await reboot(kernel, [one.id, two.id], blue)
    stranger = "00000000-0000-4000-8000-00000000beef"
    await kernel.make_bridge(stranger, 1450)
    await kernel.plug(
        stranger, stranger, "stranger", mac="02:00:00:00:00:01", addresses=[], gateways=[], mtu=1450
    )
    vim = LinuxVim(VimStore(path), kernel, 7)
    await vim.start()
    assert ping(inside[one.id], two.fixed_ips[0].ip)
    assert ping(inside[one.id], "10.1.0.129")
    assert set(await kernel.bridges()) == {blue, red}
    assert not kernel.instance_path("stranger").exists()
    print("a restart makes all again and removes what has no row")

    for actor in (BLUE, RED):
        for port in await vim.ports(actor):
            await vim.delete_port(actor, port.id)
        for network in await vim.networks(actor):
            await vim.delete_network(actor, network.id)
    left = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert len(left.splitlines()) == 1, left  # lo
    assert list((directory / "ns").iterdir()) == []
    await vim.close()
    kernel.close()


async def reboot(kernel: Kernel, port_ids: list[str], network_id: str) -> None:
    """Take away what a reboot takes, behind the service's back."""
    for port_id in port_ids:
        await kernel.unplug(port_id, f"vm{port_ids.index(port_id) + 1}")
    await kernel.remove_gateway(network_id)
    await kernel.delete_bridge(network_id)
    assert network_id not in await kernel.bridges()


if __name__ == "__main__":
    asyncio.run(check(Path(sys.argv[1])))
    print("done")
