"""Bodies, headers and answers from an authenticated peer that means no good, or that is broken."""

import asyncio
import json
import re
import time
import uuid

import aiohttp
import pytest
from east_west_world import INITIATOR, SERVICE, context, document, run
from pydantic import SecretStr

from diminet import errors
from diminet.listener import MAX_HEADER_BYTES, Listener
from diminet.messages import Change, DocumentPut

HEADERS = {
    "X-OpenStack-Request-ID": "req-1",
    "DIMINET-Initiator": json.dumps(INITIATOR.model_dump()),
    "DIMINET-Incarnation": "inc-B",
    "DIMINET-Protocol": "1.0",
}
PATH = f"/intersite-horizontal/{SERVICE}"
RESERVE = {
    "service_id": SERVICE,
    "type": "l3",
    "project_id": "demo",
    "ticket": [1, 2, 3],
    "lifetime": 30.0,
    "entries": [],
    "members": ["A", "B"],
}


async def ask(world, method, path, *, headers=None, without=(), data=None, limits=None):
    """One request with B's certificate; (status, body as JSON, headers)."""
    sent = [(k, v) for k, v in HEADERS.items() if k not in without] + list((headers or {}).items())
    async with world.serving(**(limits or {})) as listener, aiohttp.ClientSession() as session:
        url = aiohttp.client.URL(f"https://127.0.0.1:{listener.port}{path}", encoded=True)
        trust = world.credentials("B").client("A")
        async with session.request(method, url, headers=sent, data=data, ssl=trust) as answer:
            return answer.status, json.loads(await answer.read() or b"null"), answer.headers


def asked(world, *args, **kwargs):
    return run(ask(world, *args, **kwargs))


def test_the_answer_to_a_good_message(world):
    status, body, headers = asked(world, "GET", PATH)
    assert status == 200
    assert body["document"]["service_id"] == SERVICE
    assert headers["DIMINET-Protocol"] == "1.0"
    assert headers["DIMINET-Incarnation"] == "inc-A"
    assert headers["X-OpenStack-Request-ID"] == "req-1"
    assert "Server" not in headers


def test_a_tombstone_without_a_body(world):
    assert asked(world, "DELETE", PATH)[0] == 200
    assert world.horizontal.calls[0][3].document is None


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("2.0", "speaks protocol 2.0, this site 1.0"),
        ("0.9", "speaks"),
        ("x", "no protocol"),
        ("1", "no prot"),
    ],
)
def test_another_major_version_is_refused_clearly(world, version, says):
    status, body, headers = asked(
        world, "GET", "/", headers={"DIMINET-Protocol": version}, without={"DIMINET-Protocol"}
    )
    assert (status, body["code"]) == (409, "incompatible-sites")
    assert says in body["message"]
    assert headers["DIMINET-Protocol"] == "1.0"
    assert world.received == [("B", "hello", "-", "incompatible-sites")]


def test_a_newer_minor_version_is_welcome(world):
    assert (
        asked(world, "GET", "/", headers={"DIMINET-Protocol": "1.99"}, without={"DIMINET-Protocol"})[0] == 200
    )


@pytest.mark.parametrize("name", sorted(set(HEADERS) - {"DIMINET-Protocol"}))
def test_a_message_without_its_envelope_is_refused(world, name):
    status, body, _ = asked(world, "GET", "/", without={name})
    assert (status, body["code"]) == (400, "invalid-request")
    assert name in body["message"]


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("DIMINET-Initiator", "{}", "invalid-request"),
        ("DIMINET-Initiator", "[" * 7000, "invalid-request"),
        ("DIMINET-Initiator", "x" * 9000, "invalid-request"),
        ("X-OpenStack-Request-ID", "a b", "invalid-request"),
        ("X-OpenStack-Request-ID", "r" * 129, "invalid-request"),
        ("X-OpenStack-Request-ID", "../../etc", "invalid-request"),
        ("DIMINET-Incarnation", "ü", "invalid-request"),
        ("DIMINET-Deadline", "-1", "invalid-request"),
        ("DIMINET-Deadline", "inf", "invalid-request"),
        ("DIMINET-Deadline", "1e9", "invalid-request"),
        ("X-Auth-Token", "two words", "not-authenticated"),
        ("X-Auth-Token", "x" * 20_000, "not-authenticated"),
        ("X-Service-Token", "two words", "not-authenticated"),
    ],
)
def test_malformed_headers(world, name, value, code):
    _, body, _ = asked(world, "GET", "/", headers={name: value}, without={name})
    assert body["code"] == code
    assert world.horizontal.calls == []


def test_a_doubled_header_is_refused(world):
    _, body, _ = asked(world, "GET", "/", headers={"DIMINET-Initiator": HEADERS["DIMINET-Initiator"]})
    assert "2 times" in body["message"]


def test_no_header_makes_another_sender(world):
    forged = {
        "X-Forwarded-For": "10.0.0.1",
        "X-SSL-Client-S-DN": "CN=A",
        "X-Forwarded-Client-Cert": "URI=diminet://site/A",
        "DIMINET-Sender": "A",
        "Forwarded": "by=A",
    }
    asked(world, "GET", "/", headers=forged)
    assert world.horizontal.calls[0][1].sender == "B"


def test_the_longest_deadline_is_bounded(world):
    asked(world, "GET", "/", headers={"DIMINET-Deadline": "999999999"})
    assert world.horizontal.calls[0][1].deadline < time.time() + 3601


def test_a_peer_may_ask_for_its_own_part_only(world):
    status, body, _ = asked(world, "GET", "/intersite-horizontal?member=C")
    assert (status, body["code"]) == (403, "not-authorised")
    assert asked(world, "GET", "/intersite-horizontal")[0] == 400
    for lie in ({"site": "C", "number": 2}, {"site": "B", "number": 3}):
        told = json.dumps(lie | {"incarnation": "i", "services": []}).encode()
        status, _, _ = asked(world, "GET", "/intersite-horizontal?member=B", data=told)
        assert status in (403, 409)
    assert world.horizontal.calls == []


@pytest.mark.parametrize(
    "path",
    [
        "/intersite-horizontal/not-a-uuid",
        "/intersite-horizontal/" + SERVICE.replace("-", ""),
        "/intersite-horizontal/" + str(uuid.UUID(int=2**128 - 1)).upper(),
        "/intersite-horizontal/%2e%2e",
        "/intersite-horizontal/..%2f..%2fetc",
        "/intersite-horizontal/%00",
        "/intersite-horizontal/%0d%0aSet-Cookie:x",
        "/intersite-horizontal/" + "a" * 5000,
        PATH + "?x=1",
        PATH + "/",
        PATH + "/nonsense",
        "/intersite-vertical",
        "//evil.example/",
        "/docs",
    ],
)
def test_odd_paths(world, path):
    status, body, headers = asked(world, "GET", path)
    assert (status, body["code"]) == (400, "invalid-request")
    assert "Set-Cookie" not in headers
    assert world.horizontal.calls == []


@pytest.mark.parametrize("query", ["?reservation=", "?reservation=a&reservation=b", "?reservation=a/b"])
def test_odd_reservations_abort_nothing(world, query):
    assert asked(world, "DELETE", PATH + query)[0] == 400
    assert world.horizontal.calls == []


def test_methods_and_allow(world):
    for method, path, allow in [
        ("PATCH", PATH, "PUT, DELETE, GET"),
        ("DELETE", "/intersite-horizontal", "POST, GET"),
        ("GET", PATH + "/blocks", "POST"),
        ("POST", "/", "GET"),
    ]:
        status, body, headers = asked(world, method, path)
        assert (status, body["code"], headers["Allow"]) == (405, "method-not-allowed", allow)


DEEP = b'{"document": ' + b'{"a": [' * 100 + b"1" + b"]}" * 100 + b"}"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (DEEP, "not JSON: recursion|nests deeper"),
        (b"[]", "not understood"),
        (b"{}", "lifetime: Field required"),
        (json.dumps(RESERVE | {"lifetime": 1}).replace("1,", "NaN,", 1).encode(), ""),
        (json.dumps(RESERVE).replace("30.0", "1e999").encode(), "not finite"),
        (json.dumps(RESERVE).replace("30.0", "Infinity").encode(), "not JSON"),
        (json.dumps(RESERVE | {"ticket": [10**30, 2, 3]}).encode(), "64 bits"),
        (json.dumps(RESERVE | {"future": 10**30}).encode(), "64 bits"),
        (json.dumps(RESERVE | {"ticket": [1]}).encode(), "ticket"),
        (json.dumps(RESERVE | {"service_id": "../x"}).encode(), "not a service id"),
        (json.dumps(RESERVE | {"entries": [{"site": "a b"}]}).encode(), "entries.0.site"),
    ],
)
def test_bad_bodies(world, data, says):
    status, body, _ = asked(world, "POST", "/intersite-horizontal", data=data)
    assert (status, body["code"]) == (400, "invalid-request")
    assert re.search(says, body["message"])
    assert len(body["message"]) < 1500
    assert world.horizontal.calls == []


def test_a_body_of_another_service_is_refused(world):
    other = document(service_id=str(uuid.UUID(int=8)))
    data = DocumentPut(document=other).model_dump_json()
    assert asked(world, "PUT", PATH, data=data)[0] == 400
    tombstone = {"service_id": SERVICE, "document": json.loads(other.model_dump_json())}
    assert asked(world, "DELETE", PATH, data=json.dumps(tombstone))[0] == 400
    assert world.horizontal.calls == []


def test_a_document_of_the_largest_service_fits(world):
    blocks = [
        {
            "cidr": "2001:db8:ffff:ffff:ffff:ffff:ffff::/112",
            "index": n,
            "owner": "s" * 63,
            "version": 1,
            "giver": "s" * 63,
            "exclusions": [f"2001:db8:ffff:ffff:ffff:ffff:ffff:{m:x}" for m in range(8)],
        }
        for n in range(1024)
    ]
    put = {"document": json.loads(document().model_dump_json()), "blocks": blocks}
    assert asked(world, "PUT", PATH, data=json.dumps(put))[0] == 200
    assert len(world.horizontal.calls[0][3].blocks) == 1024


def test_a_huge_body_is_refused_when_the_bound_is_reached(world):
    status, body, headers = asked(
        world, "PUT", PATH, data=b'"' + b"x" * 100_000 + b'"', limits={"max_body_bytes": 50_000}
    )
    assert (status, body["code"]) == (413, "too-large")
    assert headers["Connection"] == "close"


def test_ten_megabytes_do_no_harm(world):
    """It is told so, or cut off while it still sends; nothing else."""

    async def go():
        try:
            return (await ask(world, "PUT", PATH, data=b"x" * 10_000_000))[0]
        except aiohttp.ClientError:
            return 413

    assert run(go()) == 413
    assert [code for *_, code in world.received] == ["too-large"]


def test_a_slow_body_is_not_waited_for(world):
    async def drip():
        for _ in range(50):
            yield b" "
            await asyncio.sleep(0.1)

    status, body, _ = asked(world, "PUT", PATH, data=drip(), limits={"body_timeout_s": 0.4})
    assert (status, body["code"]) == (400, "invalid-request")
    assert "did not arrive within 0.4 s" in body["message"]


def test_endless_and_slow_headers_end_the_connection(world, monkeypatch):
    monkeypatch.setattr("diminet.listener.HEADER_TIMEOUT_S", 0.3)

    async def go():
        async with world.serving() as listener:
            trust = world.credentials("B").client("A")

            async def connect():
                return await asyncio.open_connection("127.0.0.1", listener.port, ssl=trust)

            reader, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * (MAX_HEADER_BYTES + 10))
            assert b"400" in await reader.read()
            writer.close()
            for start in (b"", b"GET / HT"):
                reader, writer = await connect()
                writer.write(start)
                async with asyncio.timeout(5):
                    with pytest.raises((ConnectionError, AssertionError)):
                        assert await reader.read() != b""
                writer.close()

    run(go())
    assert world.received == []


# -- what the client does with odd answers ---------------------------------------------------------


class OddServer:
    """Answers every request with the same bytes, over A's good certificate."""

    def __init__(self, status, body, headers=(), chunks=1):
        self.answer = (status, body, headers, chunks)

    async def __call__(self, scope, receive, send):
        status, body, headers, chunks = self.answer
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        for _ in range(chunks):
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def answered(world, server):
    async def go():
        listener = Listener(server, "127.0.0.1", 0, world.credentials("A").server(), grace_s=1)
        await listener.start()
        world.directory.point("A", listener.port)
        try:
            async with world.peers(max_answer_bytes=100_000) as peers:
                await peers.at("A").hello(context())
        finally:
            await listener.stop()

    run(go())


@pytest.mark.parametrize(
    ("server", "error", "says"),
    [
        (OddServer(200, b"not json"), errors.IncompatibleSites, "compare the versions"),
        (OddServer(200, b"{}"), errors.IncompatibleSites, "name: Field required"),
        (OddServer(200, b"[" * 90_000), errors.IncompatibleSites, "not JSON"),
        (OddServer(200, b"x" * 10_000, chunks=50), errors.IncompatibleSites, "more than 100000 bytes"),
        (OddServer(404, b"<html>"), errors.IncompatibleSites, "HTTP 404 without a reason"),
        (OddServer(302, b"", [(b"location", b"https://169.254.169.254/")]), errors.IncompatibleSites, "302"),
        (OddServer(502, b"<html>"), errors.SiteUnreachable, "HTTP 502"),
        (OddServer(503, b'{"code": 7}'), errors.SiteUnreachable, "HTTP 503"),
        (OddServer(409, b'{"code": "from-the-future", "message": "m"}'), errors.SiteRefused, "^m$"),
        (OddServer(409, b'{"code": "resource-busy", "ticket": [1]}'), errors.IncompatibleSites, "409"),
        (OddServer(409, b'{"code": "resource-busy", "retry_after": -5}'), errors.IncompatibleSites, "409"),
        (OddServer(503, b'{"code": "fenced"}'), errors.Fenced, "gave no reason"),
    ],
)
def test_odd_answers(world, server, error, says):
    with pytest.raises(error, match=says) as caught:
        answered(world, server)
    assert caught.value.sites == ("A",)


@pytest.mark.parametrize(
    "service", ["../../x", "a/b", "", "x?y=1", "x#y", SERVICE + "\r\nX: y", SERVICE.upper() + "A"]
)
def test_the_client_sends_no_odd_paths(world, service):
    async def go():
        async with world.peers() as peers:
            await peers.at("A").snapshot(context(), service)

    with pytest.raises(errors.InvalidRequest):
        run(go())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"request_id": "x\r\nInjected: yes"}, errors.InvalidRequest),
        ({"request_id": ""}, errors.InvalidRequest),
        ({"token": SecretStr("t\r\nInjected: yes")}, errors.NotAuthenticated),
        ({"token": SecretStr("")}, errors.NotAuthenticated),
        ({"service_token": SecretStr("t\r\nInjected: yes")}, errors.NotAuthenticated),
        ({"initiator": INITIATOR.model_copy(update={"user_id": "u" * 9000})}, errors.InvalidRequest),
    ],
)
def test_the_client_injects_no_headers(world, changes, error):
    async def go():
        async with world.serving(), world.peers() as peers:
            await peers.at("A").hand_in(context(**changes), SERVICE, Change(operation="delete"))

    with pytest.raises(error):
        run(go())
    assert world.received == []


def test_control_characters_of_names_stay_inside_their_header(world):
    odd = INITIATOR.model_copy(update={"user_id": 'a\r\nX-Auth-Token: t\x00\u2028"\\ é 😀'})

    async def go():
        async with world.serving(), world.peers() as peers:
            await peers.at("A").hello(context(initiator=odd))

    run(go())
    got = world.horizontal.calls[0][1]
    assert got.initiator == odd
    assert got.token is None


def test_too_large_a_message_is_not_sent(world):
    async def go():
        async with world.peers(max_body_bytes=1000) as peers:
            await peers.at("A").put(
                context(), SERVICE, DocumentPut(document=document(description="x" * 2000))
            )

    with pytest.raises(errors.TooLarge):
        run(go())
