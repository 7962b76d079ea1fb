"""What must be seen: fourteen sites, the paper's testbed, in one service."""

import uuid

import pytest
from seen import BACK, Scene, every_direction, fixtures

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]
SITES = 14
scene, clean = fixtures(SITES)


@pytest.mark.parametrize("kind", ["l3", "l2"])
def test_all_182_directed_pings(scene: Scene, kind: str) -> None:
    assert len(scene.sites) == SITES
    wanted: dict[str, str | None] = {
        site: scene.network(site, f"10.{n}.0.0/24") if kind == "l3" or n == 1 else None
        for n, site in enumerate(scene.sites, 1)
    }
    request_id = f"req-{uuid.uuid4()}"
    made = scene.create(kind, wanted, request_id=request_id)
    assert (made.status, made.service["provisioning_status"]) == (201, "ACTIVE")
    received = [sum(scene.messages(site, request_id).values()) for site in scene.sites]
    assert received == [0, *[2] * (SITES - 1)]
    ends = scene.boot_each(scene.networks_of(made.service))
    assert len({one.ip for one in ends}) == len({one.mac for one in ends}) == SITES
    directed = every_direction(ends)
    assert len(directed) == 182
    assert scene.silent(directed, within=BACK) == []
    assert scene.delete(made.service["id"], at=scene.sites[-1]) in (202, 204)
