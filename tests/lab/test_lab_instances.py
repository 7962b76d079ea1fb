"""A lab of real instances: its tenants' commands, as scripts call them."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diminet.errors import InvalidRequest, SiteRefused
from diminet.lab.client import Lab

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab") / "state")
    try:
        made.up(2)
        yield made
    finally:
        made.down()


def diminet(lab: Lab, *words: str) -> tuple[int, Any]:
    """Exit status and the one JSON document."""
    done = subprocess.run(
        (
            str(Path(sys.executable).with_name("diminet")),
            "lab",
            *words,
            "--state",
            str(lab.state_dir),
            "--json",
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def test_network_boot_and_ping_by_the_command_line(lab: Lab) -> None:
    status, network = diminet(
        lab, "network", "create", "--site", "A", "--name", "web", "--cidr", "10.1.0.0/24"
    )
    assert (status, set(network), network["cidr"]) == (0, {"network_id", "subnet_id", "cidr"}, "10.1.0.0/24")
    booted = [diminet(lab, "boot", "--site", "A", "--network", network["network_id"])[1] for _ in range(2)]
    assert [set(one) for one in booted] == [{"name", "ip", "mac", "network_id"}] * 2
    assert len({one["name"] for one in booted}) == len({one["ip"] for one in booted}) == 2
    ends = [f"A/{one['name']}" for one in booted]
    status, seen = diminet(lab, "ping", *ends, "--count", "4", "--interval", "0.1")
    assert (status, seen["sent"], seen["received"]) == (0, 4, 4)
    assert seen["rtt_ms"] > 0
    status, now = diminet(lab, "status")
    assert (status, [site["ready"] for site in now["sites"]]) == (0, [True, True])


def test_no_answer_is_exit_status_1(lab: Lab) -> None:
    for site, cidr in (("A", "10.11.0.0/24"), ("B", "10.12.0.0/24")):
        network = lab.network_create(site, "apart", [cidr])
        lab.boot(site, network["network_id"], "apart")
    status, seen = diminet(lab, "ping", "A/apart", "B/apart", "--count", "1")
    assert (status, seen["received"], seen["rtt_ms"]) == (1, 0, None)


def test_refusals(lab: Lab) -> None:
    status, said = diminet(lab, "boot", "--site", "A", "--network", "00000000-0000-0000-0000-000000000000")
    assert status == 1
    assert "could not be found" in said["error"]["message"]
    assert diminet(lab, "network", "create", "--site", "Z", "--name", "x", "--cidr", "10.0.0.0/24")[0] == 1
    assert diminet(lab, "network", "create", "--site", "A", "--name", "x", "--cidr", "10.0.0.0/99")[0] == 1
    assert diminet(lab, "heal", "A")[0] == 2
    assert diminet(lab, "cut", "A", "A")[0] == 2


def test_dual_stack_network_and_the_other_project(lab: Lab) -> None:
    entry = lab.site("A")
    network = lab.network_create("A", "dual", ["10.20.0.0/24", "fd00:20::/64"], token=entry["other_token"])
    assert [subnet["cidr"] for subnet in network["subnets"]] == ["10.20.0.0/24", "fd00:20::/64"]
    one = lab.boot("A", network["network_id"], "o1", token=entry["other_token"])
    assert re.match(r"10\.20\.0\.", one["ip"])
    lab.boot("A", network["network_id"], "o2", token=entry["other_token"])
    assert lab.ping("A/o1", "A/o2")["received"] > 0
    with pytest.raises(SiteRefused):  # it is not our tenant's
        lab.boot("A", network["network_id"], "mine")


def test_a_failed_network_leaves_nothing(lab: Lab) -> None:
    before = lab.vim("B")._call("GET", "/v2.0/networks")["networks"]
    with pytest.raises(SiteRefused):
        lab.network_create("B", "bad", ["10.30.0.0/24", "10.30.0.0/24"])
    assert lab.vim("B")._call("GET", "/v2.0/networks")["networks"] == before


def test_a_name_is_given_once(lab: Lab) -> None:
    network = lab.network_create("B", "names", ["10.40.0.0/24"])
    lab.boot("B", network["network_id"], "once")
    with pytest.raises(InvalidRequest, match="already"):
        lab.boot("B", network["network_id"], "once")


def test_instances_survive_a_crash_of_diminet(lab: Lab) -> None:
    network = lab.network_create("A", "steady", ["10.50.0.0/24"])
    for name in ("s1", "s2"):
        lab.boot("A", network["network_id"], name)
    lab.crash("A")
    assert not lab.status()["sites"][0]["ready"]
    lab.restart("A")
    assert lab.ping("A/s1", "A/s2")["received"] > 0
