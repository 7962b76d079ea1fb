"""Who gets something made in a real Neutron, judged by a real Keystone; and a Neutron that is away."""

import asyncio
import uuid
from contextlib import ExitStack

import pytest
from pydantic import SecretStr

from diminet.errors import DiminetError, NotAuthorised, SiteUnreachable
from diminet.identity.keystone import KeystoneIdentity
from diminet.messages import Change, Context
from diminet.model import Initiator, OperatingStatus, ProvisioningStatus
from neutron_regions import Regions
from openstack_instance import site_cloud
from simulated_cloud import until

SITES = ("A", "B", "C")


def asked_by(cloud, user, project=None, token=None):
    """What the north API makes of a request of that user."""
    session = cloud.session(user)
    initiator = Initiator(
        user_id=session.get_user_id(), project_id=project or session.get_project_id(), site="A"
    )
    return Context(request_id=f"req-{uuid.uuid4()}", initiator=initiator, token=token)


@pytest.fixture
def judged(cloud, tmp_path):
    """Sites whose Keystone is asked who that is, and none of which takes a peer's word."""
    with ExitStack() as stack:
        identities = {}
        for site in SITES[:2]:
            (tmp_path / site).mkdir()
            asked = stack.enter_context(site_cloud(cloud, tmp_path / site, site=site))
            identities[site] = KeystoneIdentity(
                asked, site, cache_s=1.0, away_s=1.0, hand_on=True, vouch=lambda: ()
            )
        yield Regions(cloud, *SITES[:2], identities=identities)


def test_a_peer_without_the_users_valid_token_gets_nothing_made(judged, cloud):
    """Site A is a peer that lies: its own Keystone lets the request pass, B's is asked again."""
    regions = judged

    async def lie(ctx):
        """A's instance asks B for that user; what A itself would say is left out."""
        return await regions.create("A", "l2", f"A:{own}", "B", ctx=ctx)

    async def work():
        for user, token in (
            ("demo", None),
            ("demo", SecretStr("nobody")),
            ("demo", SecretStr(cloud.token("other"))),
            ("other", SecretStr(cloud.token("other"))),
        ):
            with pytest.raises(NotAuthorised) as refused:
                await lie(asked_by(cloud, user, regions.project, token))
            assert refused.value.sites == ("B",)
            assert await asyncio.to_thread(regions.dumps) == before
        view = await lie(asked_by(cloud, "demo", None, SecretStr(cloud.token("demo"))))
        assert [m.site for m in view.document.members] == ["A", "B"]
        change = Change(operation="delete")
        await regions["A"].requests.change(
            regions.caller(), regions.ctx("A"), view.document.service_id, change
        )

    async def main():
        try:
            await asyncio.wait_for(work(), 120)
        finally:
            await regions.close()

    own = regions.tenants["A"].network("10.8.0.0/24")
    regions["A"].here.identity = Believing()
    before = regions.dumps()
    asyncio.run(main())
    assert regions.dumps() == before
    regions.tenants["A"].clear(own)


class Believing:
    """Of the lying site itself: everything is allowed."""

    async def authenticate(self, token):
        raise NotImplementedError

    async def authorise(self, ctx, project_id):
        return None


def test_a_neutron_that_is_away_costs_only_its_own_site(cloud):
    async def work(regions):
        networks = {
            name: tenant.network(f"10.{n}.0.0/24") for n, (name, tenant) in enumerate(regions.tenants.items())
        }
        before = await asyncio.to_thread(regions.dumps)
        entries = [f"{name}:{network}" for name, network in networks.items()]
        await asyncio.to_thread(cloud.stop_neutron, "C")
        try:
            with pytest.raises(SiteUnreachable) as refused:
                await regions.create("A", "l3", *entries)
            assert refused.value.sites == ("C",)
            assert "Neutron of site C" in refused.value.message
            whole = await regions.create("B", "l3", *entries[:2])  # the others go on
            assert whole.operating_status == OperatingStatus.ONLINE
            view = await regions.create("A", "l3", *entries, on_unreachable="defer")
            assert view.operating_status == OperatingStatus.DEGRADED
        finally:
            await asyncio.to_thread(cloud.start_neutron, "C")
        service = view.document.service_id

        async def completed():
            shown = await regions["C"].requests.show(regions.caller(), service)
            return shown.provisioning_status == ProvisioningStatus.ACTIVE and all(
                not member.deferred for member in shown.document.members
            )

        async def known():
            try:
                return await completed()
            except DiminetError:  # C has not heard of it yet
                return False

        await until(known, 120)
        found = [v for v in regions.admins["C"].list("bgpvpn") if v["name"] == f"diminet-service-{service}"]
        assert [v["networks"] for v in found] == [[networks["C"]]]
        assert len(found[0]["import_targets"]) == 2
        for each in (service, whole.document.service_id):
            change = Change(operation="delete")
            await regions["A"].requests.change(regions.caller(), regions.ctx("A"), each, change)
        await until(lambda: regions.dumps() == before, 120)
        for name, network in networks.items():
            regions.tenants[name].clear(network)

    async def main():
        regions = Regions(cloud, *SITES, timeout=5.0)
        try:
            await regions.run()
            await asyncio.wait_for(work(regions), 280)
        finally:
            await regions.close()

    asyncio.run(main())
