"""What DIMINET changed it puts back; what the tenant has done meanwhile it leaves alone."""

import asyncio
import dataclasses

import pytest

from diminet.engine.ports import ReservationRow
from diminet.engine.reservations import as_shapes
from diminet.messages import Change
from diminet.model import Entry, Ticket
from simulated_cloud import LIMITS, Cloud


def run(work):
    return asyncio.run(asyncio.wait_for(work, 60))


def delete_subnets(vim, network_id):
    vim.networks[network_id] = vim.networks[network_id].model_copy(update={"subnets": ()})


@pytest.mark.parametrize("operation", ["delete", "leave"])
def test_a_subnet_that_its_tenant_has_deleted_does_not_come_back(operation):
    async def main():
        cloud = Cloud("A", "B", limits=dataclasses.replace(LIMITS, reconcile_interval=60.0))
        ids = {s: cloud.vims[s].add_network("10.7.0.0/24") for s in "AB"}
        view = await cloud.create("A", "l2", f"A:{ids['A']}", f"B:{ids['B']}")
        delete_subnets(cloud.vims["B"], ids["B"])
        change = Change(operation=operation, entry=Entry(site="B") if operation == "leave" else None)
        await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), view.document.service_id, change)
        assert cloud.vims["B"].networks[ids["B"]].subnets == ()
        assert view.document.service_id not in cloud.vims["B"].targets
        await cloud.close()

    run(main())


def test_nor_does_it_when_a_promise_runs_out():
    async def main():
        cloud = Cloud("A", "B")
        network = cloud.vims["B"].add_network("10.7.0.0/24")
        row = ReservationRow(
            rid="r",
            service_id="s",
            network_id=network,
            project_id="demo",
            sender="A",
            ticket=Ticket(1, 1, 1),
            expires_at=1.0,
            original=as_shapes(cloud.vims["B"].networks[network]),
        )
        await cloud.stores["B"].write(lambda tx: tx.add_reservation(row))
        delete_subnets(cloud.vims["B"], network)
        await cloud["B"].reservations.release_expired()
        assert cloud.vims["B"].networks[network].subnets == ()
        assert await cloud.stores["B"].read(lambda tx: tx.reservation("r")) == []
        await cloud.close()

    run(main())
