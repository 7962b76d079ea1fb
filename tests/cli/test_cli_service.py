"""`diminet service …` against a server double: what it sends, prints and exits with."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from diminet.cli import progress
from diminet.cli.main import main
from diminet.cli.service import entry_of
from diminet.client import ApiError, NorthClient
from diminet.errors import DiminetError

ID = "0f0e0d0c-0b0a-4908-8706-050403020100"
SERVICE = {
    "id": ID,
    "name": "web [x]",  # must not be taken as rich markup
    "type": "l3",
    "description": "",
    "project_id": "p1",
    "master": "A",
    "on_unreachable": "revoke",
    "provisioning_status": "ACTIVE",
    "operating_status": "ONLINE",
    "created_at": "2026-11-23T12:00:00Z",
    "updated_at": "2026-11-23T12:00:00Z",
    "tags": ["t"],
    "params": {},
    "warnings": ["no-data-plane"],
    "fault": None,
    "resources": [
        {
            "site": site,
            "resource_id": f"net-{site}",
            "provisioning_status": "ACTIVE",
            "operating_status": "ONLINE",
            "subnets": [
                {"cidr": "10.1.0.0/24", "allocation_pools": [{"start": "10.1.0.2", "end": "10.1.0.9"}]}
            ],
        }
        for site in ("A", "B")
    ],
}
OVERLAP = {
    "code": "cidr-overlap",
    "status": 409,
    "title": "Conflict",
    "message": "network net-A (10.1.0.0/24) at A and net-B (10.1.0.0/16) at B overlap in 10.1.0.0/24",
    "request_id": "req-1",
    "sites": ["A", "B"],
}


@dataclass
class NorthDouble:
    """Answers what a test tells it, and remembers what it was asked. Not an instance."""

    url: str
    answers: list[tuple[int, Any]] = field(default_factory=list)
    asked: list[tuple[str, str, Any, dict[str, str]]] = field(default_factory=list)

    def will_answer(self, status: int, body: Any = None) -> None:
        self.answers.append((status, body))


@pytest.fixture
def north() -> Iterator[NorthDouble]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            double.asked.append((self.command, self.path, body, dict(self.headers)))
            status, answer = double.answers.pop(0)
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", "0" if status == 204 else str(len(data)))
            self.end_headers()
            if status != 204:
                self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - http.server's names

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    double = NorthDouble(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield double
    server.shutdown()
    thread.join()
    server.server_close()


def run(north: NorthDouble, *words: str) -> int:
    return main([*words, "--url", north.url, "--token", "secret"])


def test_create_sends_the_request_and_prints_the_service(
    north: NorthDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    north.will_answer(201, {"service": SERVICE})
    words = ["--type", "l2", "--name", "web", "A:net-A", "B", "--param", "gateway=shared"]
    words += ["--param", "block_size=16", "--defer", "--description", "d", "--tag", "a", "--tag", "b"]
    assert run(north, "service", "create", *words) == 0
    method, path, body, headers = north.asked[0]
    assert (method, path) == ("POST", "/intersite-vertical")
    assert headers["X-Auth-Token"] == "secret"
    assert body == {
        "service": {
            "type": "l2",
            "name": "web",
            "description": "d",
            "tags": ["a", "b"],
            "on_unreachable": "defer",
            "params": {"gateway": "shared", "block_size": 16},
            "resources": [{"site": "A", "resource_id": "net-A"}, {"site": "B"}],
        }
    }
    out = capsys.readouterr().out
    assert ID in out
    assert "web [x]" in out
    assert "10.1.0.2-10.1.0.9" in out
    assert "warning: no-data-plane" in out


def test_json_is_one_document(north: NorthDouble, capsys: pytest.CaptureFixture[str]) -> None:
    north.will_answer(201, {"service": SERVICE})
    assert run(north, "service", "create", "--type", "l3", "A:net-A", "B:net-B", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"service": SERVICE}
    assert captured.err == ""


def test_a_refusal_is_its_sentence_and_exit_1(north: NorthDouble, capsys: pytest.CaptureFixture[str]) -> None:
    north.will_answer(409, {"error": OVERLAP})
    assert run(north, "service", "create", "--type", "l3", "A:net-A", "B:net-B") == 1
    captured = capsys.readouterr()
    assert captured.err == f"diminet: {OVERLAP['message']}\n"
    assert captured.out == ""


def test_a_refusal_as_json_is_the_error_document(
    north: NorthDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    north.will_answer(409, {"error": OVERLAP})
    assert run(north, "service", "create", "--type", "l3", "A:net-A", "B:net-B", "--json") == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"error": OVERLAP}
    assert captured.err == ""


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["show", ID], ("GET", f"/intersite-vertical/{ID}", None)),
        (["set", ID, "--name", "n"], ("PUT", f"/intersite-vertical/{ID}", {"service": {"name": "n"}})),
        (["set", ID, "--no-tags"], ("PUT", f"/intersite-vertical/{ID}", {"service": {"tags": []}})),
        (
            ["add", ID, "C:net-C", "--via", "A"],
            (
                "POST",
                f"/intersite-vertical/{ID}/resources",
                {"resource": {"site": "C", "resource_id": "net-C"}, "via": "A"},
            ),
        ),
        (["remove", ID, "B"], ("DELETE", f"/intersite-vertical/{ID}/resources/B", None)),
        (["remove", ID, "B:n/1"], ("DELETE", f"/intersite-vertical/{ID}/resources/B/n%2F1", None)),
        (
            ["forget", ID, "B"],
            ("POST", f"/intersite-vertical/{ID}/forget", {"forget": {"site": "B"}}),
        ),
        (
            ["takeover", ID, "--gone", "B"],
            ("POST", f"/intersite-vertical/{ID}/takeover", {"takeover": {"gone": ["B"]}}),
        ),
    ],
)
def test_what_each_command_asks(north: NorthDouble, words: list[str], asked: tuple[str, str, Any]) -> None:
    north.will_answer(200, {"service": SERVICE})
    assert run(north, "service", *words) == 0
    assert north.asked[0][:3] == asked


def test_list_follows_its_pages(north: NorthDouble, capsys: pytest.CaptureFixture[str]) -> None:
    following = {"rel": "next", "href": f"http://elsewhere/intersite-vertical?type=l3&marker={ID}"}
    north.will_answer(200, {"services": [SERVICE], "services_links": [following]})
    north.will_answer(200, {"services": [SERVICE | {"name": "two"}], "services_links": []})
    assert run(north, "service", "list", "--type", "l3", "--json") == 0
    assert [call[1] for call in north.asked] == [
        "/intersite-vertical?type=l3",
        f"/intersite-vertical?type=l3&marker={ID}",
    ]
    assert [service["name"] for service in json.loads(capsys.readouterr().out)["services"]] == [
        "web [x]",
        "two",
    ]


@pytest.mark.parametrize(
    ("status", "body", "deleted"),
    [(204, None, True), (202, {"service": SERVICE | {"provisioning_status": "PENDING_DELETE"}}, False)],
)
def test_delete_says_whether_all_is_gone(
    north: NorthDouble, capsys: pytest.CaptureFixture[str], status: int, body: Any, deleted: bool
) -> None:
    north.will_answer(status, body)
    assert run(north, "service", "delete", ID, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["id"], document["deleted"]) == (ID, deleted)


def test_events_and_sites(north: NorthDouble, capsys: pytest.CaptureFixture[str]) -> None:
    event = {"seq": 1, "at": "2026-11-23T12:00:00Z", "kind": "created", "detail": {"name": "web"}}
    north.will_answer(200, {"events": [event]})
    assert run(north, "service", "events", ID) == 0
    assert "name=web" in capsys.readouterr().out
    north.will_answer(200, {"sites": [{"name": "B", "reachable": None, "last_seen": None}]})
    assert run(north, "site", "list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["sites"][0]["name"] == "B"


def test_watch_prints_the_stream(north: NorthDouble, capsys: pytest.CaptureFixture[str]) -> None:
    stream = b': hello\n\nid: 7\nevent: created\ndata: {"kind": "created",\ndata:  "at": "now"}\n\n'
    north.will_answer(200, {"service": SERVICE})
    north.will_answer(200, stream)
    assert run(north, "service", "watch", ID) == 0
    assert "now  created" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["service", "create", "--type", "l3", "A:"],
        ["service", "create", "--type", "l3", "A", "B", "--param", "x"],
        ["service", "create"],
        ["service", "set", ID],
        ["service", "set", ID, "--tag", "a", "--no-tags"],
        ["service", "nonsense"],
        ["service", "show", ID, "--state", "/nowhere"],
    ],
)
def test_misuse_is_2_and_asks_nothing(north: NorthDouble, words: list[str]) -> None:
    assert run(north, *words) == 2
    assert north.asked == []


def test_misuse_as_json(north: NorthDouble, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(north, "service", "set", ID, "--json") == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "misuse"


def test_without_url_or_token_it_is_misuse(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DIMINET_URL", raising=False)
    monkeypatch.delenv("DIMINET_TOKEN", raising=False)
    assert main(["service", "list"]) == 2
    assert "--url" in capsys.readouterr().err


def test_the_environment_names_the_instance(north: NorthDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIMINET_URL", north.url)
    monkeypatch.setenv("DIMINET_TOKEN", "other")
    north.will_answer(200, {"services": [], "services_links": []})
    assert main(["service", "list"]) == 0
    assert north.asked[0][3]["X-Auth-Token"] == "other"


def test_a_lab_site_by_name(north: NorthDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sites = [{"name": "A", "north": "http://127.0.0.1:1", "token": "a"}]
    sites.append({"name": "B", "north": north.url, "token": "b"})
    (tmp_path / "lab.json").write_text(json.dumps({"sites": sites}))
    north.will_answer(200, {"services": [], "services_links": []})
    assert main(["service", "list", "--state", str(tmp_path), "--site", "B"]) == 0
    assert north.asked[0][3]["X-Auth-Token"] == "b"
    assert main(["service", "list", "--state", str(tmp_path), "--site", "Z"]) == 1
    assert "it has A, B" in capsys.readouterr().err
    assert main(["service", "list", "--state", str(tmp_path / "no")]) == 1
    assert "diminet lab up" in capsys.readouterr().err


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["service", "list", "--url", "http://127.0.0.1:1", "--token", "t", "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "site-unreachable"
    assert "nothing listens at http://127.0.0.1:1" in error["message"]


@pytest.mark.parametrize("body", [b"<html>", b'{"error": "text"}', b"[]", b""])
def test_an_answer_that_is_no_api(
    north: NorthDouble, body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    north.will_answer(502, body)
    assert run(north, "service", "show", ID) == 1
    assert "check the URL" in capsys.readouterr().err


def test_the_live_create_waits_until_settled(north: NorthDouble) -> None:
    pending = SERVICE | {"provisioning_status": "PENDING_CREATE"}
    north.will_answer(404, {"error": {"code": "service-not-found", "message": "no", "sites": []}})
    north.will_answer(200, {"service": pending})
    north.will_answer(200, {"service": SERVICE})
    client = NorthClient(north.url, "t")
    seen = list(progress.looks(client, ID, sleep=lambda _: None))
    assert [view["provisioning_status"] for view in seen] == ["PENDING_CREATE", "ACTIVE"]


def test_a_service_that_vanishes_while_waiting_is_an_error(north: NorthDouble) -> None:
    north.will_answer(200, {"service": SERVICE | {"provisioning_status": "PENDING_CREATE"}})
    north.will_answer(404, {"error": {"code": "service-not-found", "message": "no", "sites": []}})
    with pytest.raises(ApiError, match="no"):
        list(progress.looks(NorthClient(north.url, "t"), ID, sleep=lambda _: None))


def test_a_revoked_create_on_a_terminal_tells_its_fault(
    north: NorthDouble, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "shows_progress", lambda: True)
    fault = {"code": "site-unreachable", "message": "site C cannot be reached", "sites": ["C"]}
    north.will_answer(202, {"service": SERVICE | {"provisioning_status": "PENDING_CREATE"}})
    north.will_answer(200, {"service": SERVICE | {"provisioning_status": "REVOKED", "fault": fault}})
    assert run(north, "service", "create", "--type", "l3", "A:n", "C:m") == 1
    assert north.asked[0][3]["Prefer"] == "respond-async"
    assert "site C cannot be reached" in capsys.readouterr().err


def test_entries() -> None:
    assert entry_of("paris") == {"site": "paris"}
    assert entry_of("paris:8f") == {"site": "paris", "resource_id": "8f"}


def test_a_url_that_is_none() -> None:
    with pytest.raises(DiminetError, match="http"):
        NorthClient("ftp://x", "t")
