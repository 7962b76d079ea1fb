"""What goes wrong while an instance serves: it says so, loses nothing, and goes on when it is mended."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from one_site import DIMINET, EAST_WEST, OneSite, Serving, assert_refused
from test_serve_refuses import programs

from diminet.store import integrity

pytestmark = pytest.mark.lab


# -- FRR -------------------------------------------------------------------------------------------


def test_frr_does_not_run(site: OneSite) -> None:
    with site.serving() as serving:
        assert "FRR" in serving.until_ready_says("FRR")
        assert serving.make_network("without").status == 201
        time.sleep(2)  # a round of repairs
    site.assert_no_traces()


def test_frr_is_uninstalled_meanwhile(site: OneSite, tmp_path: Path) -> None:
    path = programs(tmp_path / "bin")
    with site.serving(env=path) as serving:
        (tmp_path / "bin" / "vtysh").unlink()
        assert "install" in serving.until_ready_says("vtysh")
        time.sleep(2)
        assert serving.fetch("/healthcheck").status == 200
    site.assert_no_traces()


# -- storage ---------------------------------------------------------------------------------------


def test_a_lock_on_the_database(site: OneSite) -> None:
    with site.serving() as serving:
        with closing(sqlite3.connect(site.data / "diminet.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            answer = serving.create()
            assert (answer.status, answer.body["error"]["code"]) == (503, "storage-unavailable"), answer
            assert "try again" in answer.body["error"]["message"]
            assert serving.fetch("/intersite-vertical").status == 200
            other.execute("ROLLBACK")
        assert serving.create().status in (404, 409, 503)  # B is not there
        assert serving.fetch("/intersite-vertical").body["services"] == []
    site.assert_no_traces()


def test_a_lock_on_the_networking_database(site: OneSite) -> None:
    with site.serving() as serving:
        with closing(sqlite3.connect(site.data / "vim.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert serving.make_network("locked").status == 503
            other.execute("ROLLBACK")
        assert serving.make_network("free").status == 201
        assert serving.networks() == {"free"}
    site.assert_no_traces()


def test_a_full_disk(site: OneSite) -> None:
    prepare = f"mount -t tmpfs -o size=3m small {site.data}"
    with site.serving(prepare) as serving:
        assert serving.make_network("before").status == 201
        serving.inside("sh", "-c", f"head -c 4m /dev/zero > {site.data}/ballast || true")
        assert serving.fetch("/intersite-vertical").status == 200
        answer = until_full(serving)
        assert "free" in answer.body["NeutronError"]["message"]
        answer = until_refused(serving)
        assert "no room left" in answer.body["error"]["message"]
        assert serving.process.poll() is None
        before = serving.networks()
        serving.inside("rm", f"{site.data}/ballast")
        assert serving.make_network("after").status == 201
        assert serving.networks() == before | {"after"}
        assert serving.create().body["error"]["code"] != "storage-unavailable"
        for name in ("diminet.db", "vim.db"):
            serving.inside("cp", f"{site.data}/{name}", f"{site.data}/{name}-wal", str(site.home))
            assert integrity(f"sqlite:///{site.home}/{name}") == ()
    site.assert_no_traces()


def until_full(serving: Serving):  # type: ignore[no-untyped-def]
    """The logs of the databases have some room in themselves."""
    for number in range(200):
        answer = serving.make_network(f"n{number}")
        if answer.status != 201:
            assert answer.status == 503, answer
            return answer
    raise AssertionError("the disk was not full")


def until_refused(serving: Serving):  # type: ignore[no-untyped-def]
    for _ in range(200):
        answer = serving.create()
        if answer.body["error"]["code"] == "storage-unavailable":
            assert answer.status == 503
            return answer
    raise AssertionError("the disk was not full")


def test_a_log_that_cannot_be_written(site: OneSite) -> None:
    with site.serving(log=Path("/dev/full")) as serving:
        assert serving.make_network("unlogged").status == 201
        time.sleep(2)
        assert serving.fetch("/healthcheck").status == 200
        assert serving.end(signal.SIGTERM)[0] == 0


# -- certificates ----------------------------------------------------------------------------------


def serial(serving: Serving) -> str:
    """Of the certificate that peers are shown."""
    code = (
        "import hashlib, ssl, sys; "
        f"print(hashlib.sha256(ssl.get_server_certificate(('127.0.0.1', {EAST_WEST})).encode()).hexdigest())"
    )
    return serving.inside(sys.executable, "-c", code)


def until_other(serving: Serving, old: str, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while serial(serving) == old:
        assert time.monotonic() < deadline, "the new certificate was not taken up"
        time.sleep(0.2)


def pki(*words: str) -> None:
    subprocess.run((DIMINET, "pki", *words), check=True, capture_output=True, timeout=60)


def test_a_renewed_certificate_is_taken_up_and_a_bad_one_is_not(site: OneSite) -> None:
    with site.serving() as serving:
        first = serial(serving)
        pki("renew", "--dir", str(site.home / "ca"), "--out", str(site.home / "pki"))
        until_other(serving, first)
        second = serial(serving)
        good = (site.home / "pki" / "site.pem").read_bytes()
        (site.home / "pki" / "site.pem").write_text("nonsense")
        time.sleep(1)
        assert serial(serving) == second
        assert "the last good copy stays" in site.log.read_text()
        (site.home / "pki" / "site.pem").write_bytes(good)
        pki("revoke", "--dir", str(site.home / "ca"), "--site", "A")
        shutil.copy(site.home / "ca" / "crl.pem", site.home / "pki" / "crl.pem")
        time.sleep(1)
        assert serial(serving) == second
        assert "is revoked" in site.log.read_text()
    site.assert_no_traces()


def test_a_certificate_that_expires_is_told_and_can_be_renewed(site: OneSite) -> None:
    site.issue(days=1, now=datetime.now(UTC) - timedelta(days=1) + timedelta(seconds=30))
    with site.serving() as serving:
        assert "diminet pki renew" in serving.until_ready_says("certificate", 60.0)
        left = [line for line in serving.fetch("/metrics").text.splitlines() if "days_left{" in line]
        assert float(left[0].split()[-1]) < 0
        pki("renew", "--dir", str(site.home / "ca"), "--out", str(site.home / "pki"))
        deadline = time.monotonic() + 10
        while any("certificate" in said for said in serving.fetch("/readyz").body["failing"]):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    site.assert_no_traces()


# -- the end ---------------------------------------------------------------------------------------

STREAM = """
import urllib.request
request = urllib.request.Request("http://127.0.0.1:9790/events")
request.add_header("Accept", "text/event-stream"); request.add_header("X-Auth-Token", "{token}")
with urllib.request.urlopen(request) as answer:
    print("open", flush=True)
    answer.read()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_time_also_with_open_streams_and_half_requests(site: OneSite, number: int) -> None:
    with site.serving() as serving:
        inside = ("nsenter", f"--target={serving.process.pid}", "--net", "--")
        stream = subprocess.Popen(
            (*inside, sys.executable, "-c", STREAM.format(token=site.token)),
            stdout=subprocess.PIPE,
            text=True,
        )
        half = subprocess.Popen(
            (*inside, sys.executable, "-c", HALF), stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
        )
        try:
            assert stream.stdout is not None
            assert half.stdout is not None
            assert stream.stdout.readline() == "open\n"
            assert half.stdout.readline() == "open\n"
            status, took = serving.end(number)
        finally:
            for process in (stream, half):
                process.kill()
                process.wait()
    assert status == 0
    assert took < 5  # shutdown_timeout is 2
    site.assert_no_traces()


HALF = """
import socket, sys
s = socket.create_connection(("127.0.0.1", 9790))
s.sendall(b"POST /intersite-vertical HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 100\\r\\n\\r\\n{")
print("open", flush=True)
sys.stdin.read()
"""


def test_killed_and_started_again(site: OneSite) -> None:
    with site.serving() as serving:
        assert serving.make_network("kept").status == 201
        serving.end(signal.SIGKILL)
    with site.serving() as serving:
        assert serving.networks() == {"kept"}
    site.assert_no_traces()


# -- the database's commands -------------------------------------------------------------------------


def db(site: OneSite, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        (DIMINET, "db", *words, "--config", str(site.config)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ},
    )
    return done.returncode, done.stdout + done.stderr


def test_upgrade_backup_and_restore_beside_a_serving_instance(site: OneSite) -> None:
    copy = site.home / "copy.db"
    assert db(site, "upgrade")[0] == 0
    with site.serving() as serving:
        status, said = db(site, "upgrade")
        assert status == 1
        assert "in use by a running DIMINET" in said
        assert db(site, "backup", str(copy))[0] == 0
        assert integrity(f"sqlite:///{copy}") == ()
        assert copy.stat().st_mode & 0o077 == 0
        status, said = db(site, "restore", str(copy))
        assert status == 1
        assert "in use by a running DIMINET" in said
        assert serving.make_network("meanwhile").status == 201
        serving.end(signal.SIGTERM)
    assert db(site, "restore", str(copy))[0] == 0
    with site.serving() as serving:
        assert serving.fetch("/intersite-vertical").status == 200
        assert serving.networks() == {"meanwhile"}
    site.assert_no_traces()


def test_a_backup_that_does_not_fit_leaves_the_old_one(site: OneSite) -> None:
    assert db(site, "upgrade")[0] == 0
    copy = site.home / "small" / "copy.db"
    copy.parent.mkdir()
    script = f"""mount -t tmpfs -o size=16k small {copy.parent}; echo old > {copy}
        {DIMINET} db backup {copy} --config {site.config}; echo $? $(cat {copy}) $(ls {copy.parent})"""
    done = subprocess.run(
        ("unshare", "--mount", "sh", "-c", script), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.split() == ["1", "old", "copy.db"]
    assert "no room left" in done.stderr


def test_another_users_database_commands(site: OneSite) -> None:
    assert db(site, "upgrade")[0] == 0
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    ended = site.run(wrapper=nobody, arguments=(DIMINET, "db", "upgrade", "--config", str(site.config)))
    if ended.status in (126, 127):
        pytest.skip("another user cannot even read the checkout")
    assert_refused(ended, "diminet.db")
