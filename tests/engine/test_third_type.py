"""A third service type, made only here: the engine serves it without knowing it by name."""

import asyncio

from diminet.logic.service_type import Decision
from diminet.messages import Change
from diminet.model import Resource, Target
from simulated_cloud import Cloud


class Mirror:
    """Sends a copy of what its networks carry to the others: no CIDRs, no pools, one target each."""

    name = "mirror"
    makes_networks = False
    uses_blocks = False

    def check(self, entries, params, receiver):
        return dict(params)

    def check_change(self, entries):
        return None

    def wanted(self, own, params, before):
        return {}

    def narrow(self, network, ports, request, site):
        return ()

    def fit(self, facts, request, site, committed):
        return None

    def decide(self, draft):
        found = {(r.site, f.network.network_id): f for r in draft.reservations.values() for f in r.resources}
        kept = draft.before.resources if draft.before else ()
        known = {(r.site, r.resource_id): r for r in kept}
        resources = [
            known.get(e.key) or Resource(site=e.site, resource_id=e.resource_id)
            for e in draft.entries
            if e.key in found or e.key in known
        ]
        return Decision(resources=tuple(resources), params=draft.params)

    def recheck(self, document, site, committed):
        return None

    def shapes(self, document, resource, pooled):
        return ()

    def target(self, document, site, committed):
        me = document.member(site)
        return Target(
            service_id=document.service_id,
            project_id=document.project_id,
            layer="mirror",
            vni=document.identifiers.vni,
            export_target=document.identifiers.target(me.slot),
            import_targets=tuple(
                document.identifiers.target(m.slot) for m in document.members if m.site != site
            ),
            networks=tuple(r.resource_id for r in document.resources_of(site)),
        )

    def block_size(self, document, cidr):
        return 0

    def appeared(self, document, site, networks, committed):
        return ()


def test_a_type_that_the_engine_never_heard_of_is_served():
    async def main():
        cloud = Cloud("A", "B")
        for engine in cloud.wire.engines.values():
            engine.here.types = {"mirror": Mirror()}
        a, b = cloud.vims["A"].add_network("10.0.0.0/24"), cloud.vims["B"].add_network("10.0.0.0/24")
        view = await cloud.create("A", "mirror", f"A:{a}", f"B:{b}")
        service_id = view.document.service_id
        assert view.provisioning_status == "ACTIVE"
        assert cloud.vims["B"].targets[service_id].layer == "mirror"
        await cloud["B"].requests.change(
            cloud.caller(), cloud.ctx("B"), service_id, Change(operation="delete")
        )
        assert not cloud.vims["A"].targets
        assert not cloud.vims["B"].targets
        await cloud.close()

    asyncio.run(asyncio.wait_for(main(), 30))
