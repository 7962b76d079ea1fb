"""Networks of a Neutron: those of tenants, and those that DIMINET makes for them."""

from time import monotonic

from pydantic import SecretStr

from diminet.errors import NetworkNotFound, SiteUnreachable
from diminet.south.neutron import marks
from diminet.south.neutron.neutron import Json, Neutron, Refused
from diminet.south.neutron.recent import Recent
from diminet.south.neutron.subnets import Subnets

GONE_WITH_THE_NETWORK = {"network:dhcp", "network:distributed", "network:floatingip_agent_gateway"}
LATE_S = 600.0  # seconds in which a network whose POST had no answer may still appear


class Networks:
    def __init__(self, neutron: Neutron, subnets: Subnets) -> None:
        self._neutron = neutron
        self._subnets = subnets
        self._late: dict[marks.Made, float] = {}  # POST without an answer -> when
        self._recent = Recent[Json]()

    async def show(self, network_id: str, as_user: SecretStr | None = None) -> Json:
        """Raises NetworkNotFound."""
        try:
            what = f"show network {network_id}"
            answer = await self._neutron.get(what, f"/networks/{network_id}", as_user=as_user)
        except Refused as refusal:
            if refusal.status not in (403, 404):
                raise
            raise NetworkNotFound(
                f"site {self._neutron.site} has no network {network_id}", sites=[self._neutron.site]
            ) from refusal
        network: Json = answer["network"]
        self._recent.note(network["id"], network)
        return network

    async def recent(self, network_id: str) -> Json:
        """As `show`, for what hardly changes: whose it is, whether it is ours, its MTU. What we change
        ourselves is forgotten."""
        return self._recent.get(network_id) or await self.show(network_id)

    async def ports(self, network_id: str) -> list[Json]:
        what = f"list the ports of network {network_id}"
        return await self._neutron.list(what, "/ports", "ports", network_id=network_id)

    async def ours(self) -> list[Json]:
        await self._tag_late()
        what = "look for networks that DIMINET made"
        found = await self._neutron.list(what, "/networks", "networks", tags=marks.OURS)
        return [network for network in found if marks.made_of(network["tags"])]

    # -- making ------------------------------------------------------------------------------------

    async def make(self, made: marks.Made, project_id: str, name: str, *, first: bool) -> str:
        """The caller sees to it that no two run at once for one service and key. first: there is none yet."""
        for network in () if first else await self._with_description(made):
            await self._tag(network, made)
            return str(network["id"])
        body = {"name": name, "project_id": project_id, "description": marks.description(made)}
        what = f"create a network for service {made.service_id}"
        try:
            network = (await self._neutron.post(what, "/networks", {"network": body}))["network"]
        except SiteUnreachable:
            self._late[made] = monotonic()
            raise
        await self._tag(network, made)
        self._recent.note(network["id"], network | {"tags": marks.tags(made)})
        self._subnets.none_yet(network["id"])
        return str(network["id"])

    async def _with_description(self, made: marks.Made) -> list[Json]:
        what = f"look for the network of service {made.service_id}"
        found = await self._neutron.list(what, "/networks", "networks", description=marks.description(made))
        return sorted(found, key=lambda network: str(network["id"]))

    async def _tag(self, network: Json, made: marks.Made) -> None:
        missing = [tag for tag in marks.tags(made) if tag not in network["tags"]]
        if missing:
            self._recent.forget(network["id"])
            path = f"/networks/{network['id']}/tags"
            await self._neutron.post(f"tag network {network['id']}", path, {"tags": missing})

    async def _tag_late(self) -> None:
        """Networks that Neutron made after all, though it had not answered: now they are found."""
        for made, since in list(self._late.items()):
            for network in await self._with_description(made):
                await self._tag(network, made)
            if monotonic() - since > LATE_S:
                self._late.pop(made, None)

    async def set_mtu(self, network_id: str, service_id: str, mtu: int) -> None:
        """Of a network that we made for that service only: a tenant's is as the tenant wants it."""
        network = await self.recent(network_id)
        made = marks.made_of(network["tags"])
        if made is not None and made.service_id == service_id and network["mtu"] != mtu:
            self._recent.forget(network_id)
            what = f"set the MTU of network {network_id} to {mtu}"
            await self._neutron.put(what, f"/networks/{network_id}", {"network": {"mtu": mtu}})

    # -- dropping ----------------------------------------------------------------------------------

    async def drop(self, network_id: str) -> bool:
        """A network that has no mark of ours (any longer) is the tenant's and stays."""
        try:
            network = await self.show(network_id)
        except NetworkNotFound:
            return True
        if _made(network) is None:
            return False
        self._recent.forget(network_id)
        if await self._has_ports(network_id):
            await self._leave_to_tenant(network)
            return False
        try:
            await self._neutron.delete(f"delete network {network_id}", f"/networks/{network_id}")
        except Refused as refusal:
            if refusal.status != 409 or not await self._has_ports(network_id):
                raise
            await self._leave_to_tenant(network)  # a port has just been made
            return False
        return True

    async def _has_ports(self, network_id: str) -> bool:
        """Of a tenant."""
        return any(p["device_owner"] not in GONE_WITH_THE_NETWORK for p in await self.ports(network_id))

    async def _leave_to_tenant(self, network: Json) -> None:
        """Its subnets' marks first: what is not finished is found by the network's."""
        for subnet in await self._subnets.of(network["id"]):
            await self._unmark("subnet", subnet)
        await self._unmark("network", network)

    async def _unmark(self, kind: str, row: Json) -> None:
        """The description goes last: by it the rest is found when one of the calls fails."""
        path = f"/{kind}s/{row['id']}"
        for tag in set(row["tags"]) - set(marks.without_ours(row["tags"])):
            what = f"take a tag of {kind} {row['id']} off"
            await self._neutron.delete(what, f"{path}/tags/{tag}")
        if marks.made_of_description(row.get("description")) is not None:
            body = {kind: {"description": ""}}
            await self._neutron.put(f"change the description of {kind} {row['id']}", path, body)


def _made(network: Json) -> marks.Made | None:
    return marks.made_of(network["tags"]) or marks.made_of_description(network.get("description"))
