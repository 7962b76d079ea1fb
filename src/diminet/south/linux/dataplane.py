"""The data plane of a linux site: makes the kernel and FRR as a `Target` says, and reads them back.

L2: a vxlan device in the network's bridge; FRR advertises what is behind it. L3: a VRF, which is a network
namespace, with one L3 VNI, joined by a veth to the gateway of each network. Stateless: everything is found
again from the kernel and FRR, so that a killed process goes on where it was.
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

import structlog

from diminet.errors import SiteRefused
from diminet.model import Health, Target
from diminet.south.linux import names, overlay, readback
from diminet.south.linux.frr import Frr
from diminet.south.linux.frr_config import Running, Vni, Vrf
from diminet.south.linux.kernel import Kernel
from diminet.south.linux.probe import Prober

TUNNEL_MTU = 1450  # bytes: 1500 of the WAN less the 50 of VXLAN over IPv4
VRF_DIRECTORY = Path("/run/netns")  # where zebra looks for namespaces
UP_TIMEOUT = 2.0  # seconds for an L3 VNI to come up before its router is taken down and up
DOWN_TIMEOUT = 3.0  # seconds for FRR to take back the routes of a router that is down
UP_ATTEMPTS = 3
UP_POLL = 0.05  # seconds

log = structlog.get_logger(__name__)


class NetworkInfo(NamedTuple):
    """What the VIM knows of a network that takes part. mtu: bytes; cidrs: of all its subnets."""

    network_id: str
    mtu: int
    cidrs: tuple[str, ...]


class DataPlane:
    """site_number: 1..4095. vtep: this site's tunnel address (IPv4). vteps: site number -> VTEP of the
    other sites; a service with a peer that is not in it admits every sender. mtu: inner, bytes."""

    def __init__(
        self,
        kernel: Kernel,
        frr: Frr,
        *,
        site_number: int,
        vtep: str,
        vteps: Mapping[int, str],
        mtu: int = TUNNEL_MTU,
        vrf_directory: Path = VRF_DIRECTORY,
    ) -> None:
        self._kernel = kernel
        self._frr = frr
        self._number = site_number
        self._vtep = vtep
        self._vteps = vteps
        self._mtu = mtu
        self._vrfs = vrf_directory
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._prober = Prober(kernel, vtep=vtep, path=kernel.probe_path, mtu=mtu)
        self._unheard: frozenset[tuple[str, str]] = frozenset()
        self._swept = ""
        self._admits: dict[str, frozenset[str] | None] = {}  # service -> as last told; None: everybody

    async def start(self) -> None:
        """The site's own packet filters, and what answers the others' probes; repeatable, harmless to
        services that are there."""
        await self._kernel.run("prepare the site", partial(overlay.prepare_site, self._vrfs))
        await self._kernel.run("remove tunnels that are half made", overlay.drop_unnamed)
        known = {each.vni for each in await self._found()}
        for vni in (await self._admitted()).keys() - known:  # of tunnels at whose removal we were killed
            await self._kernel.run("forget whom a tunnel admits", partial(overlay.close, vni))
        try:
            await self._prober.start()
        except SiteRefused as error:  # services work without; each of them will say it
            log.warning("no-probes", why=error.message)

    def close(self) -> None:
        """What was made stays."""
        self._prober.close()

    async def connect(self, target: Target, networks: Mapping[str, NetworkInfo]) -> None:
        """Make the service's data plane as the target says. networks: by id, all of `target.networks`.

        Called again, it changes what differs and leaves the rest alone. Raises SiteRefused.
        """
        missing = [network for network in target.networks if network not in networks]
        if missing:
            raise SiteRefused(f"the site does not know the network {missing[0]}")
        async with self._lock(target.service_id):
            if target.layer == "l2":
                await self._connect_l2(target)
            elif target.layer == "l3":
                await self._connect_l3(target, networks)
            else:
                raise SiteRefused(f"a linux site has no data plane for a service of type {target.layer!r}")

    async def disconnect(self, service_id: str) -> None:
        """Take the service off; nothing if it is not there. Raises SiteRefused if FRR could not be told:
        the devices are gone then, and repeating finishes it."""
        async with self._lock(service_id):
            await self._disconnect_l2(service_id)
            await self._disconnect_l3(service_id)
            self._admits.pop(service_id, None)

    def _lock(self, service_id: str) -> asyncio.Lock:
        return self._locks.setdefault(service_id, asyncio.Lock())

    def _rd(self, target: Target) -> str:
        """Unique over all sites and services; FRR's automatic ones come from tenants' addresses."""
        return f"{self._number}:{target.vni}"

    def _tunnel(self, target: Target, digest: str) -> overlay.Tunnel:
        mtu = min(target.mtu or self._mtu, self._mtu)
        return overlay.Tunnel(target.service_id, target.vni, self._vtep, mtu, digest)

    async def _admit(self, target: Target) -> None:
        doing = f"filter the tunnel of service {target.service_id}"
        if all(number in self._vteps for number in target.peers):
            vteps = {self._vteps[number] for number in target.peers}
            await self._kernel.run(doing, partial(overlay.admit, target.vni, vteps))
            self._admits[target.service_id] = frozenset(vteps)
            await self._prober.aim(vteps)
        else:
            await self._kernel.run(doing, partial(overlay.close, target.vni))
            self._admits[target.service_id] = None

    async def _filters_stand(self) -> None:
        """The site's own filters are there, or are made again."""
        doing = "look at the site's filters"
        if not await self._kernel.run(doing, overlay.filters_stand):
            log.warning("drift", what="the site's packet filters were gone and are made again")
            await self._kernel.run("prepare the site", partial(overlay.prepare_site, self._vrfs))

    def _misadmits(self, found: readback.Found, admitted: Mapping[int, frozenset[str]]) -> list[str]:
        """Who may send into its tunnel is another than was told; before we told it, at least somebody."""
        if found.vni == 0:
            return []
        now, service_id = admitted.get(found.vni), found.service_id
        right = now == self._admits[service_id] if service_id in self._admits else now is not None
        return [] if right else [f"somebody has changed who may send into its tunnel (VNI {found.vni})"]

    # -- L2 ----------------------------------------------------------------------------------------

    async def _connect_l2(self, target: Target) -> None:
        if len(target.networks) != 1:
            raise SiteRefused(f"an l2 service stretches one network here, not {len(target.networks)}")
        network_id = target.networks[0]
        section = Vni(self._rd(target), frozenset({target.export_target}), _imports(target))
        tunnel = self._tunnel(target, section.digest())
        await self._frr.set_vni(target.vni, section)
        await self._admit(target)
        await self._set_anycast(network_id, anycast=target.anycast_gateway)
        doing = f"make the tunnel of service {target.service_id}"
        await self._kernel.run(doing, partial(overlay.make_tunnel, tunnel, network_id))

    async def _set_anycast(self, network_id: str, *, anycast: bool) -> None:
        mac = names.ANYCAST_MAC if anycast else names.gateway_mac(self._number, network_id)
        await self._kernel.set_gateway_mac(network_id, mac, anycast=anycast)

    async def _disconnect_l2(self, service_id: str) -> None:
        doing = f"take down the tunnel of service {service_id}"
        tunnels = await self._kernel.run(doing, partial(overlay.tunnels_of, service_id))
        for vni, network_id in tunnels:
            if network_id is not None:
                await self._set_anycast(network_id, anycast=False)
            await self._kernel.run(doing, partial(overlay.drop_tunnel, service_id, vni))
            await self._frr.drop_vni(vni)

    # -- L3 ----------------------------------------------------------------------------------------

    async def _connect_l3(self, target: Target, networks: Mapping[str, NetworkInfo]) -> None:
        name = names.vrf(target.service_id)
        path = self._vrfs / name
        vrf = Vrf(
            target.vni,
            self._vtep,
            self._rd(target),
            frozenset({target.export_target}),
            frozenset(target.import_targets) - {target.export_target},
            frozenset(target.local_cidrs),
        )
        router = overlay.Router(
            path,
            self._tunnel(target, vrf.digest()),
            names.router_mac(self._number, target.vni),
            target.remote_cidrs,
        )
        branches = [self._branch(target, networks[network]) for network in target.networks]
        doing = f"make the router of service {target.service_id}"
        await self._kernel.run(doing, partial(overlay.make_vrf, path))
        await self._admit(target)
        await self._frr.vrf_known(name)
        await self._kernel.run(doing, partial(overlay.make_router, router))
        await self._kernel.run(doing, partial(overlay.set_branches, router, branches))
        if await self._frr.lacks_room(name, vrf):
            await self._take_down(router)
            await self._frr.set_vrf(name, vrf)
            await self._kernel.run(doing, partial(overlay.make_router, router))
        else:
            await self._frr.set_vrf(name, vrf)
        await self._wait_until_up(router)

    def _branch(self, target: Target, network: NetworkInfo) -> overlay.Branch:
        local = tuple(cidr for cidr in network.cidrs if cidr in target.local_cidrs)
        far = {*target.local_cidrs, *target.remote_cidrs} - set(local)
        path = self._kernel.gateway_path(network.network_id)
        return overlay.Branch(path, network.network_id, local, tuple(sorted(far)), network.mtu)

    async def _take_down(self, router: overlay.Router) -> None:
        """Until FRR has forgotten its routes: taken up at once, it would lose their neighbours."""
        doing = f"take down the router of service {router.tunnel.service_id}"
        await self._kernel.run(doing, partial(overlay.take_down, router))
        for _ in range(int(DOWN_TIMEOUT / UP_POLL)):
            await asyncio.sleep(UP_POLL)
            if not await self._kernel.run(doing, partial(overlay.learnt, router)):
                return

    async def _wait_until_up(self, router: overlay.Router) -> None:
        """Down and up again makes zebra look again; it may have missed something."""
        doing = f"bring up the router of service {router.tunnel.service_id}"
        for _ in range(UP_ATTEMPTS):
            for _ in range(int(UP_TIMEOUT / UP_POLL)):
                if await self._works(router):
                    return
                await asyncio.sleep(UP_POLL)
            await self._take_down(router)
            await self._kernel.run(doing, partial(overlay.make_router, router))
        raise SiteRefused(f"FRR does not bring up the L3 VNI {router.tunnel.vni}: restart FRR")

    async def _works(self, router: overlay.Router) -> bool:
        look = partial(readback.unresolved, router.path, router.tunnel.vni)
        return await self._frr.l3_vni_up(router.tunnel.vni) and not await self._kernel.run(
            "look at the router's neighbours", look
        )

    async def _disconnect_l3(self, service_id: str) -> None:
        name = names.vrf(service_id)
        try:
            await self._frr.drop_vrf(name)
        finally:
            await self._kernel.run(
                f"take down the router of service {service_id}", partial(overlay.drop_vrf, self._vrfs / name)
            )
        await self._frr.forget_vrf(name)

    # -- reading back ------------------------------------------------------------------------------

    async def _found(self) -> list[readback.Found]:
        doing = "read back the services"
        tunnels = await self._kernel.run(doing, readback.find_tunnels)
        return tunnels + await self._kernel.run(doing, partial(readback.find_vrfs, self._vrfs))

    async def realised(self) -> dict[str, Health]:
        """Every service that the kernel or FRR has something of, and what is wrong with it."""
        found = await self._found()
        try:
            running = await self._frr.running()
            up = await self._frr.l3_vnis_up()
        except SiteRefused as error:
            return {
                each.service_id: Health(service_id=each.service_id, problems=(error.message,))
                for each in found
            }
        await self._filters_stand()
        admitted = await self._admitted() if found else {}
        health: dict[str, list[str]] = {each.service_id: [] for each in found}
        for each in found:
            said = [*each.problems, *_differences(each, running, up), *self._misadmits(each, admitted)]
            health[each.service_id] += said
        for name in running.named:
            service_id = names.service_of_vrf(name)
            if service_id is not None and service_id not in health:
                health[service_id] = ["FRR has a VRF for it, but its namespace is gone"]
        await self._tidy(found, running)
        silent = await self._silent(found, admitted)
        return {
            service: Health(service_id=service, problems=tuple(said), silent=silent.get(service, ()))
            for service, said in health.items()
        }

    async def _admitted(self) -> dict[int, frozenset[str]]:
        return await self._kernel.run("read back whom the tunnels admit", readback.admitted)

    async def _silent(
        self, found: list[readback.Found], admitted: Mapping[int, frozenset[str]]
    ) -> dict[str, tuple[str, ...]]:
        """Of each service, sentences on its other sites that were not heard of at two looks in a row: BGP
        needs a moment for a new one."""
        if not found:
            return {}
        others = {each.service_id: admitted.get(each.vni, frozenset()) for each in found}
        unanswered = await self._unanswered(frozenset().union(*others.values()))
        unheard = set[tuple[str, str]]()
        for each in found:
            for vtep in others[each.service_id]:
                if vtep not in each.heard:
                    said = f"{self._site(vtep)} is not announced by BGP: check the sessions of both sites"
                    unheard.add((each.service_id, said))
                if vtep in unanswered:
                    unheard.add((each.service_id, f"{self._site(vtep)} {unanswered[vtep]}"))
        again, self._unheard = sorted(unheard & self._unheard), frozenset(unheard)
        return {one: tuple(said for other, said in again if other == one) for one, _ in again}

    async def _unanswered(self, vteps: frozenset[str]) -> dict[str, str]:
        """What is to be said of those VTEPs that do not answer probes."""
        try:
            silent = await self._prober.silent(vteps)
        except SiteRefused as error:
            return dict.fromkeys(vteps, f"cannot be probed: {error.message}")
        return dict.fromkeys(silent, "does not answer through the tunnel: let UDP 4789 through the WAN")

    def _site(self, vtep: str) -> str:
        numbers = [number for number, known in self._vteps.items() if known == vtep]
        return f"site number {numbers[0]} ({vtep})" if numbers else f"the site at {vtep}"

    async def _tidy(self, found: list[readback.Found], running: Running) -> None:
        """Remove what a crash left: sections of FRR without a tunnel, entries of a killed FRR."""
        tunnels = {each.vni: each.service_id for each in found if each.layer == "l2"}
        if not any(lock.locked() for lock in self._locks.values()):
            for vni in running.vnis.keys() - tunnels.keys():
                await self._frr.drop_vni(vni)
            if stray := running.stray_members():
                await self._frr.drop_members(stray)
        generation = await self._frr.generation()
        if generation == self._swept or "Established" not in (await self._frr.sessions()).values():
            return
        for vni in tunnels:
            macs, vteps = await self._frr.remote(vni)
            sweep = partial(readback.sweep, vni, macs, vteps)
            await self._kernel.run("remove the entries of a killed FRR", sweep)
        self._swept = generation

    async def problems(self) -> tuple[str, ...]:
        """What of FRR does not work; empty when ready."""
        try:
            self._frr.require_vtysh()
            await self._frr.running()
            sessions = await self._frr.sessions()
        except SiteRefused as error:
            return (error.message,)
        if sessions and "Established" not in sessions.values():
            neighbors = ", ".join(sorted(sessions))
            return (f"FRR has no BGP session with any neighbor ({neighbors}): check the WAN and them",)
        return ()

    async def used_vnis(self) -> set[int]:
        """VNIs that the kernel or FRR holds."""
        found = {each.vni for each in await self._found() if each.vni}
        running = await self._frr.running()
        return found | set(running.vnis) | {vrf.vni for vrf in running.vrfs.values() if vrf.vni}


def _imports(target: Target) -> frozenset[str]:
    """The others' targets, and one that nobody exports: with none, FRR falls back to its automatic one."""
    asn = target.export_target.split(":")[0]
    return frozenset(target.import_targets) - {target.export_target} | {f"{asn}:{target.vni * 256}"}


def _differences(found: readback.Found, running: Running, up: frozenset[int]) -> list[str]:
    """What FRR has for the service, against the digest and routes in the kernel."""
    section: Vni | Vrf | None = running.vnis.get(found.vni)
    if found.layer == "l3":
        section = running.vrfs.get(names.vrf(found.service_id))
    if section is None:
        return [f"FRR has lost its configuration (VNI {found.vni})"]
    said = [] if section.digest() == found.digest else ["FRR's configuration of it was changed"]
    if isinstance(section, Vrf):
        said += [f"the local network {cidr} is cut off" for cidr in sorted(section.networks - found.local)]
        said += [f"the L3 VNI {found.vni} is down"] * (found.vni not in up)
    return said
