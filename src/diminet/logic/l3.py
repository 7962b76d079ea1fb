"""L3: routing between networks whose CIDRs, and those of all that each reaches, are pairwise disjoint.

A network may be in several services; its partners in one do not thereby reach those in another. So
what has to be disjoint is, for each network: itself, its partners here, and its partners elsewhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diminet.errors import InvalidRequest, ResourceBusy, ResourceNotClean
from diminet.logic.addressing import normal
from diminet.logic.entries import check_entries, check_sites, facts_of, named
from diminet.logic.overlaps import Disjoint, Part, overlap_within
from diminet.logic.service_type import Decision, Draft
from diminet.messages import ReserveRequest, ResourceFacts
from diminet.model import (
    Block,
    Document,
    Entry,
    NetworkFacts,
    PortFacts,
    Resource,
    Subnet,
    SubnetShape,
    Target,
)


class L3:
    name = "l3"
    makes_networks = False
    uses_blocks = False

    def check(self, entries: Sequence[Entry], params: Mapping[str, Any], receiver: str) -> dict[str, Any]:
        check_entries(entries, receiver)
        if params:
            raise InvalidRequest(f"an l3 service has no params, but {named(params)} was given")
        self.check_change(entries)
        return {}

    def check_change(self, entries: Sequence[Entry]) -> None:
        without = [entry.site for entry in entries if not entry.resource_id]
        if without:
            raise InvalidRequest(
                f"an l3 service joins existing networks: give the resource_id of one of {named(without)}",
                sites=without,
            )

    def wanted(
        self, own: Sequence[NetworkFacts], params: Mapping[str, Any], before: Document | None
    ) -> dict[str, Any]:
        return {}

    def narrow(
        self, network: NetworkFacts, ports: Sequence[PortFacts], request: ReserveRequest, site: str
    ) -> tuple[SubnetShape, ...]:
        return ()

    def fit(
        self, facts: ResourceFacts, request: ReserveRequest, site: str, committed: Sequence[Document]
    ) -> None:
        network = facts.network
        self._require_routed(network.network_id, site, committed)
        if not network.subnets:
            raise ResourceNotClean(
                f"network {network.network_id} of site {site} has no subnet to route to: create one first",
                sites=[site],
            )

    def decide(self, draft: Draft) -> Decision:
        self.check_change(draft.entries)
        before = {(r.site, r.resource_id): r for r in draft.before.resources} if draft.before else {}
        live = {member.site for member in draft.members if not member.deferred}
        entries = [entry for entry in draft.entries if entry.site in live]
        facts = {
            e.key: facts_of(draft.reservations.get(e.site), e)
            for e in entries
            if e.key not in before or _answered(draft, e)
        }
        resources = tuple(before.get(e.key) or _resource(e.site, facts[e.key]) for e in entries)
        check_sites(
            {site: r for site, r in draft.reservations.items() if site in live},
            {s.ip_version: s.cidr for r in resources for s in r.subnets},
        )
        names = {key: known.network.name for key, known in facts.items()}
        parts = _parts(resources, names)
        found = overlap_within(parts)
        if found:
            raise found.refusal()
        _require_apart(Disjoint(parts), facts.values())
        return Decision(resources=resources, params={})

    def recheck(self, document: Document, site: str, committed: Sequence[Document]) -> None:
        for own in document.resources_of(site):
            sharing = [d for d in committed if _has(d, site, own.resource_id)]
            self._require_routed(own.resource_id, site, sharing)
            found = overlap_within(p for d in (document, *sharing) for p in _parts(d.resources))
            if found:
                raise found.refusal(own.resource_id)

    def _require_routed(self, network_id: str, site: str, committed: Sequence[Document]) -> None:
        for other in committed:
            if other.type != self.name:
                raise ResourceBusy(
                    f"network {network_id} of site {site} is in {other.type} service {other.service_id}, and "
                    "cannot be in an l3 service at once: remove it there first",
                    sites=[site],
                    networks=[network_id],
                )

    def shapes(
        self, document: Document, resource: Resource, pooled: Sequence[Block]
    ) -> tuple[SubnetShape, ...]:
        return ()

    def target(self, document: Document, site: str, committed: Sequence[Document]) -> Target | None:
        me, own = document.member(site), document.resources_of(site)
        if me is None or me.deferred or not own:
            return None
        theirs = [r for r in document.resources if r.site != site]
        there = {r.site for r in theirs}
        others = [m for m in document.members if m.site in there and not m.deferred]
        live = {m.site for m in others}
        identifiers = document.identifiers
        return Target(
            service_id=document.service_id,
            project_id=document.project_id,
            layer=self.name,
            vni=identifiers.vni,
            export_target=identifiers.target(me.slot),
            import_targets=tuple(identifiers.target(m.slot) for m in others),
            networks=tuple(r.resource_id for r in own),
            local_cidrs=tuple(s.cidr for r in own for s in r.subnets),
            remote_cidrs=tuple(s.cidr for r in theirs if r.site in live for s in r.subnets),
            mtu=min((r.mtu for r in document.resources if r.mtu is not None), default=None),
            peers=tuple(m.number for m in others),
            vteps={m.number: m.vtep for m in others if m.vtep},
        )

    def block_size(self, document: Document, cidr: str) -> int:
        return 0

    def appeared(
        self, document: Document, site: str, networks: Sequence[NetworkFacts], committed: Sequence[Document]
    ) -> tuple[str, ...]:
        """Subnets that came after the document and overlap what their network reaches: they are not in
        the document, so not routed, but the tenant may think so."""
        problems = []
        for network in networks:
            sharing = [document, *(d for d in committed if _has(d, site, network.network_id))]
            reached = {p for d in sharing for p in _parts(d.resources)}
            known = {normal(p.cidr) for p in reached if (p.site, p.network_id) == (site, network.network_id)}
            for subnet in network.subnets:
                new = Part(normal(subnet.cidr), site, network.network_id, network.name)
                overlap = None if new.cidr in known else Disjoint(reached).overlap(new)
                if overlap:
                    problems.append(
                        f"{new.told()} appeared after the service was made and overlaps "
                        f"{overlap.other.told()} in {overlap.cidr}: it is not routed; delete it or give it "
                        "another CIDR"
                    )
        return tuple(problems)


def _answered(draft: Draft, entry: Entry) -> bool:
    """Was a member that is in already asked again about this network?"""
    reservation = draft.reservations.get(entry.site)
    ids = {f.network.network_id for f in reservation.resources} if reservation else set()
    return entry.resource_id in ids


def _resource(site: str, facts: ResourceFacts) -> Resource:
    network = facts.network
    return Resource(
        site=site,
        resource_id=network.network_id,
        mtu=network.mtu,
        subnets=tuple(
            Subnet(cidr=normal(s.cidr), ip_version=s.ip_version, gateway_ip=s.gateway_ip)
            for s in network.subnets
        ),
    )


def _parts(resources: Iterable[Resource], names: Mapping[tuple[str, str], str] | None = None) -> set[Part]:
    return {
        Part(normal(s.cidr), r.site, r.resource_id, (names or {}).get((r.site, r.resource_id), ""))
        for r in resources
        for s in r.subnets
    }


def _has(document: Document, site: str, network_id: str) -> bool:
    return any(r.resource_id == network_id for r in document.resources_of(site))


def _require_apart(here: Disjoint, facts: Iterable[ResourceFacts]) -> None:
    """What a network reaches through other services overlaps none of its partners here."""
    reached = {Part(normal(r.cidr), r.site, r.network_id) for known in facts for r in known.reaches}
    for part in sorted(reached):
        found = here.overlap(part)
        if found:
            raise found.refusal()
