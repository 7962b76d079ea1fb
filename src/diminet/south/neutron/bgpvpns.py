"""BGP VPNs of networking-bgpvpn: one for each service of this site, associated with its networks.

They are the tenant's project's, made by the service user (route targets are an administrator's matter, and
Neutron hides them from the tenant). Neutron guarantees no unique names: if two of ours exist for one
service, the lower id stays.
"""

import math
from collections.abc import Sequence
from time import monotonic

from diminet.errors import NetworkNotFound, SiteRefused
from diminet.model import Target
from diminet.south.neutron import marks
from diminet.south.neutron.neutron import Json, Neutron, Refused

PATH = "/bgpvpn/bgpvpns"
LISTED_S = 15.0  # seconds for which the list of all is good enough to make one more


class BgpVpns:
    def __init__(self, neutron: Neutron) -> None:
        self._neutron = neutron
        self._listed: tuple[list[Json], float] = ([], -math.inf)  # all, and when
        self._tried: dict[str, str | None] = {}  # name -> id of the one made since our start; None: unknown

    async def all(self) -> list[Json]:
        """Of the whole Neutron, each with `networks`, the ids of its associations' networks."""
        asked = monotonic()
        try:
            found = await self._neutron.list("list BGP VPNs", PATH, "bgpvpns")
            self._listed = (found, asked)
            return found
        except Refused as refusal:
            if refusal.status != 404:
                raise
            raise SiteRefused(
                f"Neutron of site {self._neutron.site} has no BGP VPNs: its operator must enable the service "
                "plug-in `bgpvpn` of networking-bgpvpn",
                sites=[self._neutron.site],
            ) from refusal

    async def connect(self, target: Target) -> None:
        """The caller sees to it that no two run at once for one service."""
        name = marks.vpn_name(target.service_id)
        known = await self._as_known(name)
        self._require_free(target, known)
        mine = sorted((v for v in known if v["name"] == name), key=_id)
        fit = [v for v in mine if (v["type"], v["project_id"]) == (target.layer, target.project_id)]
        for vpn in mine:
            if vpn not in fit[:1]:
                await self._delete(vpn)
        vpn = await self._retarget(fit[0], target) if fit else await self._make(target)
        await self._associate(vpn, target)

    async def _as_known(self, name: str) -> list[Json]:
        """All, as they were when last looked at: good enough for one that was not there then and that we
        have not tried to make since. The list is long in a large cloud, and read at every round of the
        reconciler anyway."""
        found, at = self._listed
        if name in self._tried or monotonic() > at + LISTED_S or any(v["name"] == name for v in found):
            return await self.all()
        return found

    async def disconnect(self, service_id: str) -> None:
        """Its associations go with it."""
        name = marks.vpn_name(service_id)
        vpn_id = self._tried.get(name)
        if vpn_id is not None:
            await self._delete({"id": vpn_id})
        else:
            for vpn in await self.all():
                if vpn["name"] == name:
                    await self._delete(vpn)
        self._tried.pop(name, None)

    def _require_free(self, target: Target, known: Sequence[Json]) -> None:
        """No other BGP VPN may have our route targets: it would be joined to the service."""
        wanted = {target.export_target, *target.import_targets}
        for vpn in known:
            shared = sorted(wanted & targets_of(vpn))
            if shared and not marks.is_ours(vpn["name"]):
                raise SiteRefused(
                    f"BGP VPN {vpn['id']} ({vpn['name'] or 'no name'}) of site {self._neutron.site}, which "
                    f"DIMINET did not make, has route target {shared[0]}: its operator must give it another, "
                    "or all sites another identifiers.target_asn",
                    sites=[self._neutron.site],
                )

    async def _make(self, target: Target) -> Json:
        name = marks.vpn_name(target.service_id)
        body = {"name": name, "type": target.layer, **_targets(target)}
        body["project_id"] = target.project_id
        what = f"create a BGP VPN for service {target.service_id}"
        first = name not in self._tried
        self._tried[name] = None
        vpn: Json = (await self._neutron.post(what, PATH, {"bgpvpn": body}))["bgpvpn"]
        if first:  # else there may be two, one of whose making we heard nothing
            self._tried[name] = vpn["id"]
        return vpn

    async def _retarget(self, vpn: Json, target: Target) -> Json:
        if differs(vpn, target):
            what = f"set the route targets of BGP VPN {vpn['id']}"
            await self._neutron.put(what, f"{PATH}/{vpn['id']}", {"bgpvpn": _targets(target)})
        return vpn

    async def _associate(self, vpn: Json, target: Target) -> None:
        path = f"{PATH}/{vpn['id']}/network_associations"
        associated = set(vpn.get("networks") or ())
        for network_id in target.networks:
            if network_id not in associated:
                await self._associate_one(path, network_id, target)
        extra = associated - set(target.networks)
        if not extra:
            return
        what = f"list the networks of BGP VPN {vpn['id']}"
        for row in await self._neutron.list(what, path, "network_associations"):
            if row["network_id"] in extra:
                what = f"take network {row['network_id']} out of BGP VPN {vpn['id']}"
                await self._neutron.delete(what, f"{path}/{row['id']}")

    async def _associate_one(self, path: str, network_id: str, target: Target) -> None:
        """The project must be given: Neutron compares it with the network's."""
        body = {"network_id": network_id, "project_id": target.project_id}
        what = f"join network {network_id} to the BGP VPN of service {target.service_id}"
        try:
            await self._neutron.post(what, path, {"network_association": body})
        except Refused as refusal:
            if refusal.kind == "NetworkNotFound":
                raise NetworkNotFound(refusal.message, sites=refusal.sites) from refusal
            if refusal.kind != "BGPVPNNetAssocAlreadyExists":
                raise

    async def _delete(self, vpn: Json) -> None:
        await self._neutron.delete(f"delete BGP VPN {vpn['id']}", f"{PATH}/{vpn['id']}")

    # -- marks ---------------------------------------------------------------------------------------

    async def mark(self, name: str) -> str | None:
        found = [marks.mark_of(vpn["name"], name) for vpn in await self.all()]
        return next((value for value in found if value is not None), None)

    async def set_mark(self, name: str, value: str) -> None:
        """A BGP VPN without route targets or networks moves nothing; its name carries the mark."""
        body = {"name": marks.mark_name(name, value)}
        what = f"write DIMINET's mark {name}"
        for vpn in await self.all():
            if marks.mark_of(vpn["name"], name) is not None:
                await self._neutron.put(what, f"{PATH}/{vpn['id']}", {"bgpvpn": body})
                return
        await self._neutron.post(what, PATH, {"bgpvpn": body | {"type": "l3"}})


def _id(vpn: Json) -> str:
    return str(vpn["id"])


def _targets(target: Target) -> Json:
    return {
        "route_targets": [],
        "import_targets": sorted(target.import_targets),
        "export_targets": [target.export_target],
    }


def targets_of(vpn: Json) -> set[str]:
    return {t for key in ("route_targets", "import_targets", "export_targets") for t in vpn.get(key) or ()}


def differs(vpn: Json, target: Target) -> bool:
    """Are its route targets other than those of the target?"""
    return any(set(vpn[key]) != set(wanted) for key, wanted in _targets(target).items())
