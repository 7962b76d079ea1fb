"""The example files of packaging/ are read by the code that reads the real ones."""

import os
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from diminet import config
from diminet.cloud import Entry, configured
from diminet.directory import file as directory
from diminet.identity import file as identity
from diminet.south.linux.frr_daemons import FrrSettings

PACKAGING = Path(__file__).parents[2] / "packaging"
ETC = PACKAGING / "etc"
NEUTRON = PACKAGING / "etc-neutron"
UNITS = sorted((PACKAGING / "systemd").glob("*.service"))


def test_the_configuration_and_frr_agree() -> None:
    settings = config.load(ETC / "diminet.toml")
    frr = FrrSettings.model_validate_json((ETC / "frr.json").read_bytes())
    assert (settings.south.frr_pathspace, settings.south.bgp_asn) == (frr.pathspace, frr.asn)
    assert settings.south.vtep_ip == frr.address
    assert frr.asn in settings.identifiers.bgp_asns


def test_the_files_of_an_openstack_site_are_read_as_they_are() -> None:
    settings = config.load(NEUTRON / "diminet.toml")
    kinds = (settings.south.kind, settings.identity.kind, settings.directory.kind)
    assert kinds == ("neutron", "keystone", "keystone")
    assert settings.openstack.peers_cloud is not None
    for name in (settings.openstack.cloud, settings.openstack.peers_cloud):
        region = configured(Entry(name, NEUTRON / "clouds.yaml", settings.region()), timeout=1.0)
        assert (region.region_name, region.config["auth"]["username"]) == ("paris", name)


def test_the_guide_shows_the_example_configuration() -> None:
    guide = (PACKAGING.parent / "docs" / "openstack.md").read_text()
    shown = guide.split("```toml\n")[1].split("```")[0]
    assert tomllib.loads(shown) == tomllib.loads((NEUTRON / "diminet.toml").read_text())


def test_the_directory_has_this_site() -> None:
    settings = config.load(ETC / "diminet.toml")
    sites = directory.load(ETC / "sites.toml", settings.site.name, settings.site.number)
    assert list(sites) == ["paris", "lyon"]


def test_the_identity_file_is_read() -> None:
    assert identity.load(ETC / "identity.toml").vouch[0].covers("lyon", "demo")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_name_what_is_there(unit: Path) -> None:
    for line in unit.read_text().splitlines():
        for word in line.split() if line.startswith("Exec") else ():
            if "/opt/diminet/packaging/" in word:
                assert (PACKAGING / word.split("/packaging/")[1]).exists()


def test_only_the_supervisor_of_frr_is_asked_to_stop() -> None:
    """systemd's default asks every process, and zebra answers with a crash."""
    assert "KillMode=mixed" in (PACKAGING / "systemd/diminet-frr.service").read_text().splitlines()


@pytest.fixture
def namespace_script() -> Iterator[tuple[Path, Path]]:
    """The script under another directory, so that an installed instance is left alone; and the directory."""
    script = (PACKAGING / "diminet-namespace").read_text()
    run = Path("/run/diminet-ns-test")
    copy = Path("/run/diminet-namespace-test")
    copy.write_text(script.replace("DIRECTORY=/run/diminet-ns", f"DIRECTORY={run}"))
    copy.chmod(0o755)
    yield copy, run
    subprocess.run([copy, "down"], check=False, timeout=20)
    copy.unlink()
    assert not run.exists()


@pytest.mark.lab
def test_the_mount_namespace_hides_the_hosts_netns_and_goes_away(namespace_script: tuple[Path, Path]) -> None:
    script, run = namespace_script
    subprocess.run([script, "up"], check=True, timeout=20)
    subprocess.run([script, "up"], check=True, timeout=20)  # a second time is the same
    inside = ["nsenter", f"--mount={run}/mnt"]
    subprocess.run([*inside, "ip", "netns", "add", "only-inside"], check=True, timeout=20)
    seen = subprocess.run(
        [*inside, "ls", "/run/netns"], check=True, timeout=20, capture_output=True, text=True
    )
    assert seen.stdout.split() == ["only-inside"]
    assert not Path("/run/netns/only-inside").exists()


@pytest.mark.lab
def test_the_mount_namespace_is_kept_whatever_cpu_it_was_made_on(namespace_script: tuple[Path, Path]) -> None:
    """Inside a container's mount namespace, Linux 6.18 refuses those that some of the CPUs make."""
    script, run = namespace_script
    cpus = sorted(os.sched_getaffinity(0))
    tries = " && ".join(
        f"taskset -c {cpu} {script} up && mountpoint -q {run}/mnt && {script} down" for cpu in cpus
    )
    for cpu in cpus:
        container = ["taskset", "-c", str(cpu), "unshare", "--mount", "--propagation", "private"]
        everywhere = f"taskset -p -c {cpus[0]}-{cpus[-1]} $$ >/dev/null && {tries}"
        done = subprocess.run(
            [*container, "sh", "-c", everywhere], check=False, timeout=60, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
