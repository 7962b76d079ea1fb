"""Bad surroundings when `diminet serve` starts: one clear sentence, exit status 1, nothing half made."""

import os
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from one_site import BESIDE, DIMINET, EAST_WEST, HOLDER, NORTH, SOUTH, OneSite, assert_refused

from diminet.directory import file as directory_file
from diminet.east_west import pki
from diminet.store import integrity

pytestmark = pytest.mark.lab

NOBODY = "65534"


def picture(site: OneSite) -> set[str]:
    return {str(path.relative_to(site.home)) for path in site.home.rglob("*")}


def assert_starts(site: OneSite) -> None:
    with site.serving() as serving:
        assert serving.fetch("/").status == 200
    site.assert_no_traces()


# -- rights and programs ---------------------------------------------------------------------------


def test_root_without_its_rights(site: OneSite) -> None:
    before = picture(site)
    ended = site.run(wrapper=("setpriv", "--bounding-set=-all", "--inh-caps=-all"))
    assert_refused(ended, "only root may", "CAP_NET_ADMIN", "CAP_SYS_ADMIN", "start it as root")
    assert picture(site) == before


def test_another_user(site: OneSite) -> None:
    nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    ended = site.run(wrapper=nobody)
    if ended.status in (126, 127):
        pytest.skip("another user cannot even read the checkout")
    assert_refused(ended, "only root may")
    site.config.chmod(0o600)
    ended = site.run(wrapper=nobody)
    assert (ended.status, "diminet.toml' is not readable" in ended.said) == (2, True), ended.said


def programs(directory: Path, *left_out: str) -> dict[str, str]:
    """A PATH that has what the machine has, but for these."""
    directory.mkdir()
    for place in reversed(os.environ["PATH"].split(":")):
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            (directory / program.name).unlink(missing_ok=True)
            (directory / program.name).symlink_to(program)
    for name in left_out:
        (directory / name).unlink()
    return {"PATH": str(directory)}


def test_no_frr(site: OneSite, tmp_path: Path) -> None:
    before = picture(site)
    ended = site.run(env=programs(tmp_path / "bin", "vtysh"))
    assert_refused(ended, "programs are missing", "apt-get install frr", "make setup")
    assert picture(site) == before


def test_no_nftables(site: OneSite, tmp_path: Path) -> None:
    assert_refused(site.run(env=programs(tmp_path / "bin", "nft", "vtysh")), "apt-get install frr nftables")


def test_namespaces_forbidden(site: OneSite) -> None:
    ended = site.run(
        wrapper=("unshare", "--user", "--map-root-user", "--net", "sh", "-c"),
        arguments=(
            f"""'echo 0 > /proc/sys/user/max_net_namespaces; exec {DIMINET} serve --config {site.config}'""",
        ),
    )
    assert_refused(ended, "does not let even root make network namespaces", "--privileged")


# -- ports and addresses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("port", "name"), [(NORTH, "north API"), (EAST_WEST, "east-west API"), (SOUTH, "networking service")]
)
def test_a_port_is_taken(site: OneSite, port: int, name: str) -> None:
    prepare = f"""{BESIDE} {sys.executable} -c "{HOLDER.format(port)}" </dev/null >/dev/null 2>&1 &
        until ss -ltn | grep -q :{port}; do sleep 0.05; done"""
    assert_refused(site.run(prepare), f"port {port} is taken", name, "ss -ltnp", "another port")
    assert integrity(f"sqlite:///{site.data}/diminet.db") == ()
    assert_starts(site)


def test_an_address_that_is_not_here(site: OneSite) -> None:
    site.configure(east_west={"host": "203.0.113.9"})
    assert_refused(site.run(), "203.0.113.9", "no interface of this machine has that address")


def test_the_tunnel_address_is_not_here(site: OneSite) -> None:
    site.configure(south={"vtep_ip": "203.0.113.9"})
    assert_refused(site.run(), "203.0.113.9", "south.vtep_ip")


# -- storage ---------------------------------------------------------------------------------------

LOCK = """{beside} {python} -c "
import sqlite3, sys, time
db = sqlite3.connect('{file}', isolation_level=None)
db.execute('PRAGMA journal_mode=WAL'); db.execute('BEGIN IMMEDIATE'); print('held', flush=True)
time.sleep(60)
" > {mark} 2>&1 </dev/null &
until grep -q held {mark}; do sleep 0.05; done"""


@pytest.mark.parametrize("name", ["diminet.db", "vim.db"])
def test_a_locked_database(site: OneSite, name: str) -> None:
    assert_starts(site)
    lock = LOCK.format(beside=BESIDE, python=sys.executable, file=site.data / name, mark=site.home / "mark")
    assert_refused(site.run(lock), str(site.data / name), "lock", "try again")
    assert_starts(site)


@pytest.mark.parametrize("made", [False, True], ids=["new", "used"])
def test_a_read_only_file_system(site: OneSite, made: bool) -> None:
    if made:
        assert_starts(site)
    prepare = f"mount --bind {site.data} {site.data}; mount -o remount,bind,ro {site.data}"
    assert_refused(site.run(prepare), str(site.data), "Read-only", "writable")
    assert_starts(site)


def test_a_read_only_networking_database(site: OneSite, tmp_path: Path) -> None:
    (tmp_path / "vim").mkdir()
    site.configure(south={"vim_database": str(tmp_path / "vim" / "vim.db")})
    prepare = f"mount --bind {tmp_path}/vim {tmp_path}/vim; mount -o remount,bind,ro {tmp_path}/vim"
    assert_refused(site.run(prepare), str(tmp_path / "vim" / "vim.db"))
    assert_starts(site)


def test_the_data_directory_cannot_be_made(site: OneSite) -> None:
    site.configure(site={"data_dir": "/proc/diminet"})
    assert_refused(site.run(), "/proc/diminet", "site.data_dir")


def test_a_full_disk(site: OneSite) -> None:
    prepare = f"mount -t tmpfs -o size=64k small {site.data}; head -c 60k /dev/zero > {site.data}/ballast"
    ended = site.run(prepare)
    assert_refused(ended, str(site.data), "no room left")


def test_damage(site: OneSite) -> None:
    (site.data / "diminet.db").write_bytes(b"nonsense" * 1000)
    assert_refused(site.run(), "diminet.db", "diminet db restore")


def test_damage_of_the_networking_database(site: OneSite) -> None:
    (site.data / "vim.db").write_bytes(b"nonsense" * 1000)
    assert_refused(site.run(), "vim.db", "from a backup", "are lost")


# -- certificates ----------------------------------------------------------------------------------


def now(**shift: float) -> datetime:
    return datetime.now(UTC) + timedelta(**shift)


def test_an_expired_certificate(site: OneSite) -> None:
    site.issue(days=1, now=now(days=-3))
    before = picture(site)
    assert_refused(site.run(), "expired on", "diminet pki renew", "set the clock")
    assert picture(site) == before


def test_a_certificate_of_the_future(site: OneSite) -> None:
    site.issue(now=now(hours=3))
    assert_refused(site.run(), "is valid from", "clock")


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_clock_ten_minutes_off_the_authoritys_starts(site: OneSite, minutes: int) -> None:
    site.issue(now=now(minutes=minutes))
    assert_starts(site)


def test_another_authority(site: OneSite, tmp_path: Path) -> None:
    pki.init_ca(tmp_path / "other", days=30)
    shutil.copy(tmp_path / "other" / "ca.pem", site.home / "pki" / "ca.pem")
    assert_refused(site.run(), "not signed by the CA", "one CA")


def test_another_sites_certificate(site: OneSite) -> None:
    site.issue(site="B")
    assert_refused(site.run(), "'B'", "'A'", "pki issue")


def test_another_key(site: OneSite) -> None:
    shutil.copy(site.home / "ca" / "ca.key", site.home / "pki" / "site.key")
    assert_refused(site.run(), "does not belong to the certificate")


def test_a_revoked_certificate(site: OneSite) -> None:
    crl = pki.revoke(site.home / "ca", "A")
    shutil.copy(crl, site.home / "pki" / "crl.pem")
    assert_refused(site.run(), "is revoked", "pki issue")


@pytest.mark.parametrize("name", ["site.pem", "site.key", "ca.pem", "crl.pem"])
def test_a_damaged_file(site: OneSite, name: str) -> None:
    (site.home / "pki" / name).write_text("-----BEGIN nonsense-----\n")
    assert_refused(site.run(), name)


@pytest.mark.parametrize("name", ["site.pem", "site.key", "ca.pem"])
def test_a_missing_file(site: OneSite, name: str) -> None:
    (site.home / "pki" / name).unlink()
    assert_refused(site.run(), name, "does not exist")


def test_no_revocation_list_is_fine(site: OneSite) -> None:
    (site.home / "pki" / "crl.pem").unlink()
    assert_starts(site)


def test_a_bad_certificate_of_the_users_port(site: OneSite) -> None:
    site.configure(north={"tls_cert": str(site.home / "none.pem"), "tls_key": str(site.home / "none.key")})
    before = picture(site)
    assert_refused(site.run(), "none.pem", "does not exist")
    assert picture(site) == before


# -- who is who ------------------------------------------------------------------------------------


def test_two_sites_with_one_number(site: OneSite) -> None:
    directory_file.write(site.home / "sites.toml", [site.entry("A", 1), site.entry("B", 1)])
    assert_refused(site.run(), "gives the number 1 to two sites", "'A'", "'B'")


def test_another_number_than_the_directorys(site: OneSite) -> None:
    site.configure(site={"number": 7})
    assert_refused(site.run(), "the number 1", "configuration says 7", "make both the same")


def test_a_bad_identity_file(site: OneSite) -> None:
    (site.home / "identity.toml").write_text("[[tokens]]\nsha256 = 'short'\n")
    assert_refused(site.run(), "identity file", "sha256")


def test_a_bad_configuration(site: OneSite) -> None:
    site.configure(limits={"request_timeot": 3})
    assert_refused(site.run(), "limits.request_timeot", "there is no such setting")


# -- two at once -----------------------------------------------------------------------------------


def test_a_second_instance_on_the_same_database_is_refused_and_the_first_goes_on(site: OneSite) -> None:
    with site.serving() as serving:
        assert_refused(site.run(), "diminet.db", "in use by a running DIMINET", "stop it first")
        assert serving.make_network("still").status == 201
    site.assert_no_traces()
