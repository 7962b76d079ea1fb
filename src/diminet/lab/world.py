"""A running lab as its users see it: the REST of each site, instances, pings, and what is there at all."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from diminet.client import NorthClient
from diminet.errors import BadSurroundings
from diminet.lab import shell
from diminet.lab.client import Lab

BETWEEN_PINGS = 0.2  # seconds
AT_ONCE = 8  # instances looked into at the same time


@dataclass(frozen=True)
class Instance:
    """A booted instance. ip: the address that it was given."""

    site: str
    name: str
    ip: str
    mac: str

    @property
    def path(self) -> str:
        return f"{self.site}/{self.name}"


@dataclass(frozen=True)
class Addresses:
    """What an instance really has: read inside its network namespace. ips: without link-local ones."""

    mac: str
    ips: tuple[str, ...]


class World:
    """The sites of `lab`, which is up. Errors: what the lab and the sites raise."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._sites = {site["name"]: site for site in lab.content()["sites"]}
        self._north = {
            name: NorthClient(site["north"], site["token"], proxies=False)
            for name, site in self._sites.items()
        }
        self._vims = {name: lab.vim(name, token=site["admin_token"]) for name, site in self._sites.items()}

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self._sites)

    def north(self, site: str) -> NorthClient:
        """As the lab's tenant."""
        return self._north[site]

    # -- networks and instances --------------------------------------------------------------------

    def network(self, site: str, name: str, cidr: str) -> str:
        """A new network with one subnet; returns its id."""
        return str(self.lab.network_create(site, name, [cidr])["network_id"])

    def boot(self, site: str, network_id: str, name: str) -> Instance:
        made = self.lab.boot(site, network_id, name)
        return Instance(site, made["name"], made["ip"], made["mac"])

    def remove(self, instance: Instance) -> None:
        """Delete its port, and the instance with it."""
        for port in self._found(instance.site, "ports", mac_address=instance.mac):
            self._vims[instance.site].delete("ports", port["id"])

    def ping(self, source: Instance, target: Instance, *, count: int) -> int:
        """How many of `count` pings were answered."""
        answer = self.lab.ping(source.path, target.path, count=count, interval=BETWEEN_PINGS)
        return int(answer["received"])

    def has_network(self, site: str, network_id: str) -> bool:
        return bool(self._found(site, "networks", id=network_id))

    def pools(self, site: str, network_id: str) -> list[tuple[str, str]]:
        """Allocation pools of the network at its site, over all its subnets."""
        subnets = self._found(site, "subnets", network_id=network_id)
        return [(pool["start"], pool["end"]) for one in subnets for pool in one["allocation_pools"]]

    def addresses(self, instances: Sequence[Instance]) -> list[Addresses]:
        """Read inside each instance, so that a doubled address is seen whoever doubled it."""
        pids = self._pids()

        def read(instance: Instance) -> Addresses:
            inside = self._namespace(instance)
            text = self._in(
                pids[instance.site], instance.site, *inside, "ip", "-j", "addr", "show", "scope", "global"
            )
            links = [link for link in json.loads(text) if link.get("link_type") == "ether"]
            ips = tuple(info["local"] for link in links for info in link["addr_info"] if info)  # {}: filtered
            return Addresses(links[0]["address"] if links else "", ips)

        with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            return list(pool.map(read, instances))

    def inside_instance(self, instance: Instance, *command: str) -> str:
        """Run a command in the instance's network namespace; returns its output."""
        return self.on_site(instance.site, *self._namespace(instance), *command)

    def _namespace(self, instance: Instance) -> tuple[str, ...]:
        """Prefix of a command that is to run in it, on its site's machine."""
        ports = self._found(instance.site, "ports", mac_address=instance.mac)
        namespace = ports[0]["binding:vif_details"].get("namespace") if ports else None
        if not namespace:
            raise BadSurroundings(f"{instance.path} is not plugged in any more")
        return ("nsenter", f"--net={namespace}", "--")

    # -- what is there at all ----------------------------------------------------------------------

    def everything(self, sites: Sequence[str]) -> dict[str, frozenset[str]]:
        """Per site, all services, networks, subnets with their pools, ports, devices and namespaces."""
        pids = self._pids()
        with ThreadPoolExecutor(max_workers=len(sites)) as pool:
            found = pool.map(lambda site: self._everything_at(site, pids[site]), sites)
            return dict(zip(sites, found, strict=True))

    def _everything_at(self, site: str, pid: int) -> frozenset[str]:
        found = {f"service {service['id']}" for service in self.north(site).services()}
        found |= {f"network {network['id']}" for network in self._found(site, "networks")}
        for subnet in self._found(site, "subnets"):
            pools = ", ".join(f"{pool['start']}-{pool['end']}" for pool in subnet["allocation_pools"])
            found.add(f"subnet {subnet['cidr']} of {subnet['network_id']} with pools {pools or 'none'}")
        found |= {f"port {port['id']}" for port in self._found(site, "ports")}
        links = json.loads(self._in(pid, site, "ip", "-j", "link"))
        found |= {f"device {link['ifname']}" for link in links}
        found |= {f"namespace {name}" for name in self._in(pid, site, "ls", "/run/netns").split()}
        return frozenset(found)

    # -- the ways there ------------------------------------------------------------------------------

    def _found(self, site: str, collection: str, **filters: str) -> list[dict[str, Any]]:
        """Of the site's networking service, as its administrator."""
        return self._vims[site].found(collection, **filters)

    def on_site(self, site: str, *command: str) -> str:
        """Run a command on the site's machine, in its network and mount namespaces."""
        return self._in(self._pids()[site], site, *command)

    def _in(self, pid: int, site: str, *command: str) -> str:
        return shell.run_now(
            ("nsenter", f"--target={pid}", "--net", "--mount", "--", *command), doing=f"look at site {site}"
        )

    def _pids(self) -> dict[str, int]:
        """A process of each site, by its id on the host: FRR's, for the instance may have crashed."""
        return {site["name"]: int(site["pids"]["zebra"]) for site in self.lab.status()["sites"]}
