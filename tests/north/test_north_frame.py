"""What surrounds every operation: ids, versions, methods, public paths, metrics; and events."""

import http.client
import json
import re
import socket
import time

import pytest
from north_double import ADMIN, MEMBER, OTHER
from north_world import l3

from diminet.errors import SiteUnreachable

ROOT = "/intersite-vertical"
PUBLIC = ["/", "/openapi.json", "/docs", "/healthcheck", "/readyz", "/metrics"]
ONE = f"{ROOT}/00000000-0000-0000-0000-000000000000"
ALLOWED = {
    **{where: {"GET"} for where in [*PUBLIC, "/events", "/sites", ONE + "/events"]},
    ROOT: {"GET", "POST"},
    ONE: {"GET", "PUT", "DELETE"},
    ONE + "/resources": {"POST"},
    ONE + "/pools": {"POST"},
    ONE + "/resources/lyon": {"DELETE"},
    ONE + "/resources/lyon/n1": {"DELETE"},
}


@pytest.mark.parametrize("given", ["req-0b3e8a5e-8f4c-4c8e-9d9a-000000000001", "x" * 64, "a.B_c:d-1"])
def test_a_safe_request_id_is_taken(north, given):
    reply = north.ask("GET", "/nope", headers={"X-OpenStack-Request-ID": given})
    assert reply.headers["X-OpenStack-Request-ID"] == given
    assert reply.json["error"]["request_id"] == given


@pytest.mark.parametrize("given", [None, "", "x" * 65, "a b", "-x", "a;b", "é".encode("latin-1"), '"'])
def test_any_other_is_replaced(north, given):
    headers = {"X-OpenStack-Request-ID": given}
    made = north.ask("GET", ROOT, headers=headers).headers["X-OpenStack-Request-ID"]
    assert re.fullmatch(r"req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", made)


@pytest.mark.parametrize("where", [*PUBLIC, ROOT, "/nope", ONE])
def test_every_answer_carries_id_version_and_vary(north, where):
    headers = north.ask("GET", where).headers
    assert headers["X-OpenStack-Request-ID"].startswith("req-")
    assert headers["OpenStack-API-Version"] == "intersite 1.0"
    assert "OpenStack-API-Version" in headers["Vary"]


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("intersite 1.0", 200), ("intersite latest", 200), ("compute 2.90", 200), ("", 200),
        ("compute 2.1, intersite 1.0", 200), ("intersite 1.1", 406), ("intersite 2.0", 406),
        ("intersite 0.9", 406), ("intersite one", 400), ("intersite 1", 400), ("intersite", 400),
    ],
)  # fmt: skip
def test_versions(north, version, status):
    reply = north.ask("GET", ROOT, headers={"OpenStack-API-Version": version})
    assert reply.status == status
    assert status == 200 or reply.code == {406: "not-acceptable", 400: "invalid-request"}[status]
    assert north.ask("GET", "/", headers={"OpenStack-API-Version": version}).status == 200


@pytest.mark.parametrize("where", sorted(ALLOWED))
def test_allow_is_complete_and_everything_else_is_405(north, where):
    allow = ALLOWED[where] | {"OPTIONS"} | ({"HEAD"} if "GET" in ALLOWED[where] else set())
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"} - allow:
        reply = north.ask(method, where)
        assert (reply.status, reply.code) == (405, "method-not-allowed")
        assert set(reply.headers["Allow"].split(", ")) == allow
    options = north.ask("OPTIONS", where)
    assert (options.status, set(options.headers["Allow"].split(", "))) == (204, allow)


@pytest.mark.parametrize("where", [*PUBLIC, ROOT, "/sites"])
def test_head_is_get_without_its_body(north, where):
    get, head = north.ask("GET", where), north.ask("HEAD", where)
    assert (head.status, head.text) == (get.status, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]


@pytest.mark.parametrize("where", PUBLIC)
def test_public_paths_need_no_token(north, where):
    assert north.ask("GET", where, token=None).status == 200


@pytest.mark.parametrize("where", ["/nope", "//", ROOT + "/", "/sites/", "/%00", "/../etc/passwd"])
def test_other_paths_are_404(north, where):
    assert north.ask("GET", where).code in ("path-not-found", "service-not-found")


def test_the_version_document(north):
    (version,) = north.ask("GET", "/").json["versions"]
    assert (version["id"], version["status"], version["min_version"]) == ("v1.0", "CURRENT", "1.0")
    assert version["links"] == [{"rel": "self", "href": f"http://127.0.0.1:{north.port}/"}]


def test_readyz_names_what_fails(north):
    assert north.ask("GET", "/readyz").json == {"ready": True, "failing": []}
    north.failing.append("frr: bgpd does not answer")
    reply = north.ask("GET", "/readyz")
    assert (reply.status, reply.json) == (503, {"ready": False, "failing": ["frr: bgpd does not answer"]})
    assert north.ask("GET", "/healthcheck").status == 200


def test_readyz_waits_for_no_check_for_ever(serve_north):
    import asyncio

    async def stuck():
        await asyncio.sleep(60)

    north = serve_north(readiness=stuck, readiness_timeout=0.2)
    reply = north.ask("GET", "/readyz")
    assert (reply.status, reply.json["failing"]) == (503, ["the checks took longer than 0.2 s"])


def test_docs_have_every_path_and_code_and_nothing_from_elsewhere(north):
    text = north.ask("GET", "/docs").text.decode()
    assert "POST /intersite-vertical/{service_id}/pools" in text
    assert "cidr-overlap" in text
    assert "http://" not in text
    assert "https://" not in text
    assert "<script" not in text


def test_metrics_count_by_route_method_and_code(north):
    service = north.create()
    north.ask("GET", f"{ROOT}/{service['id']}")
    north.ask("GET", "/secret-path")
    text = north.ask("GET", "/metrics").text.decode()
    one = ROOT + "/{service_id}"
    assert f'diminet_north_requests_total{{code="200",method="GET",route="{one}"}} 1.0' in text
    assert f'diminet_north_requests_total{{code="201",method="POST",route="{ROOT}"}} 1.0' in text
    assert f'diminet_north_request_seconds_count{{route="{one}"}} 1.0' in text
    assert 'route="unmatched"' in text
    assert "secret-path" not in text
    assert service["id"] not in text


def logged(north, request_id):
    """Its lines; the line is written when the answer is on its way already."""
    deadline = time.monotonic() + 10
    found = []
    while not found and time.monotonic() < deadline:
        time.sleep(0.02)
        lines = [json.loads(line) for line in north.log.getvalue().splitlines()]
        found = [line for line in lines if line.get("request_id") == request_id]
    return found


def test_every_request_is_one_log_line_with_its_id(north):
    north.ask("GET", ROOT, headers={"X-OpenStack-Request-ID": "req-log"})
    (line,) = logged(north, "req-log")
    assert (line["event"], line["method"], line["route"], line["status"]) == ("request", "GET", ROOT, 200)


# -- events ----------------------------------------------------------------------------------------


def test_events_are_paged_and_ones_own(north):
    service = north.create()
    north.ask("PUT", f"{ROOT}/{service['id']}", {"service": {"name": "n"}})
    north.ask("POST", ROOT, {"service": l3()}, token=OTHER)
    body = north.ask("GET", f"{ROOT}/{service['id']}/events?limit=1").json
    assert [e["kind"] for e in body["events"]] == ["created"]
    assert body["events"][0]["detail"] == {"text": "asked [address]", "nested": [{}]}
    following = body["events_links"][0]["href"].split(str(north.port))[1]
    body = north.ask("GET", following).json
    assert ([e["kind"] for e in body["events"]], body["events_links"]) == (["modify"], [])
    assert len(north.ask("GET", "/events").json["events"]) == 2
    assert len(north.ask("GET", "/events", token=ADMIN).json["events"]) == 3
    assert north.ask("GET", "/events", token=ADMIN).json["events"][0]["detail"]["vni"] == 4097
    assert north.ask("GET", f"{ROOT}/{service['id']}/events", token=OTHER).status == 404


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "marker=-1", "marker=x", "marker=" + "9" * 30, "a=b"]
)
def test_bad_event_queries_are_400(north, query):
    assert north.ask("GET", f"/events?{query}").status == 400


class Stream:
    """A Server-Sent Events client."""

    def __init__(self, north, where="/events", *, token=MEMBER, after=None):
        self.connection = http.client.HTTPConnection("127.0.0.1", north.port, timeout=10)
        headers = {"X-Auth-Token": token, "Accept": "text/event-stream"}
        if after is not None:
            headers["Last-Event-ID"] = after
        self.connection.request("GET", where, headers=headers)
        self.answer = self.connection.getresponse()

    def events(self, most):
        """(id, kind, data) of that many; fewer if the stream ends."""
        found, fields = [], {}
        while len(found) < most:
            line = self.answer.fp.readline() if not self.answer.chunked else self.answer.readline()
            if not line:
                break
            text = line.decode().rstrip("\n")
            if not text and "data" in fields:
                found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
                fields = {}
            elif text and not text.startswith(":"):
                name, _, value = text.partition(": ")
                fields[name] = value
        return found

    def lines(self, most):
        return [self.answer.readline() for _ in range(most)]

    def close(self):
        # getresponse() hands the socket over when the server says Connection: close, so both are closed.
        if self.connection.sock is not None:
            self.connection.sock.shutdown(socket.SHUT_RDWR)
        self.answer.close()
        self.connection.close()


@pytest.fixture
def stream():
    opened = []

    def start(*args, **more):
        opened.append(Stream(*args, **more))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_a_stream_tells_the_past_then_what_happens(north, stream):
    service = north.create()
    live = stream(north, f"{ROOT}/{service['id']}/events")
    assert live.answer.status == 200
    assert live.answer.headers["Content-Type"].startswith("text/event-stream")
    assert live.events(1)[0][:2] == (1, "created")
    north.ask("PUT", f"{ROOT}/{service['id']}", {"service": {"name": "n"}})
    ((number, kind, data),) = live.events(1)
    assert (number, kind, data["user_id"], data["project_id"]) == (2, "modify", "ann", "p1")
    assert "vni" not in data["detail"]


def test_a_stream_goes_on_after_the_last_event_id(north, stream):
    for _ in range(3):
        north.create()
    assert [e[0] for e in stream(north, after="2").events(1)] == [3]
    assert [e[0] for e in stream(north, "/events?marker=1").events(2)] == [2, 3]
    assert [e[0] for e in stream(north, "/events?marker=0", after="1").events(1)] == [2]


@pytest.mark.parametrize("after", ["", "x", "-1", "1.0", "9" * 20, "²"])
def test_a_bad_last_event_id_is_400(north, stream, after):
    assert stream(north, after=after.encode("latin-1")).answer.status == 400


def test_a_stream_ends_when_the_service_is_gone(serve_north, stream):
    north = serve_north(stream_poll=0.1)
    service = north.create()
    live = stream(north, f"{ROOT}/{service['id']}/events")
    north.ask("DELETE", f"{ROOT}/{service['id']}")
    assert [e[1] for e in live.events(10)][:1] == ["created"]


def test_a_stream_ends_when_the_token_does(serve_north, stream):
    north = serve_north(stream_poll=0.1)
    north.create()
    live = stream(north)
    assert len(live.events(1)) == 1
    del north.identity.callers[MEMBER]
    assert live.events(1) == []


def test_a_silent_stream_says_so(serve_north, stream):
    north = serve_north(stream_poll=0.05, stream_keepalive=0.1)
    comments = [line for line in stream(north).lines(6) if line.startswith(b":")]
    assert len(comments) == 3


def test_streams_are_bounded_and_give_their_place_back(serve_north, stream):
    north = serve_north(streams=2, stream_poll=0.1)
    one, _two = stream(north), stream(north)
    third = stream(north)
    assert (third.answer.status, third.answer.headers["Retry-After"]) == (429, "15")
    one.close()
    for _ in range(100):
        again = stream(north)
        if again.answer.status == 200:
            break
        time.sleep(0.05)
    assert again.answer.status == 200


def test_a_stream_of_what_may_not_be_seen_is_refused_before_it_begins(serve_north, stream):
    north = serve_north(streams=1)
    for _ in range(3):
        assert stream(north, ONE + "/events").answer.status == 404
    north.requests.fails["events"] = SiteUnreachable("no")
    assert stream(north).answer.status == 503
    assert stream(north).answer.status == 200


def test_head_of_a_stream_ends(north):
    assert north.ask("HEAD", "/events", headers={"Accept": "text/event-stream"}).status == 200
