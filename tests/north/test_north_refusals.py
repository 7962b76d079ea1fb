"""The table of errors, their two forms, and everything that strangers may send."""

import json
import socket
import time

import pytest
from north_double import MEMBER, NOBODY, OTHER, READER
from north_world import l3

from diminet import errors
from diminet.errors import BY_CODE, InternalError
from diminet.north.errors import STATUS

ROOT = "/intersite-vertical"
TABLE = {
    "invalid-request": 400, "not-authenticated": 401, "not-authorised": 403, "service-not-found": 404,
    "network-not-found": 404, "site-unknown": 404, "revision-conflict": 412, "precondition-required": 428,
    "too-large": 413, "too-many-requests": 429, "method-not-allowed": 405, "not-acceptable": 406,
    "cidr-overlap": 409, "resource-not-clean": 409, "resource-busy": 409, "pool-exhausted": 409,
    "incompatible-sites": 409, "quota-exceeded": 409, "site-refused": 409, "site-unreachable": 503,
    "storage-unavailable": 503, "fenced": 503, "internal-error": 500, "idempotency-conflict": 409,
}  # fmt: skip


def test_the_table_is_that_of_the_design_and_complete():
    assert {code: STATUS[code][0] for code in TABLE} == TABLE
    assert set(BY_CODE) - set(STATUS) == {"bad-surroundings"}


@pytest.mark.parametrize("code", sorted(TABLE))
def test_every_error_of_the_engine_has_its_status_and_both_forms(north, code):
    for accept in ("*/*", "text/html, application/problem+json;q=0.9"):
        north.requests.fails["show"] = BY_CODE.get(code, InternalError)("do this", sites=["lyon"])
        headers = {"Accept": accept, "X-OpenStack-Request-ID": "req-1"}
        reply = north.ask("GET", f"{ROOT}/{'0' * 8}-0000-0000-0000-{'0' * 12}", headers=headers)
        assert reply.status == TABLE[code]
        common = {
            "code": code, "status": TABLE[code], "title": STATUS[code][1], "request_id": "req-1",
            "sites": ["lyon"],
        }  # fmt: skip
        if accept == "*/*":
            assert reply.json == {"error": common | {"message": "do this"}}
            assert reply.headers["Content-Type"] == "application/json"
        else:
            assert reply.json == common | {"type": f"urn:diminet:error:{code}", "detail": "do this"}
            assert reply.headers["Content-Type"] == "application/problem+json"
        assert (reply.headers["Retry-After"] is not None) is (reply.status in (429, 503))
        assert (reply.headers["WWW-Authenticate"] is not None) is (reply.status == 401)


def test_too_few_entries_are_counted_in_words(north):
    entry = {"site": "paris"}
    reply = north.ask("POST", ROOT, {"service": {"name": "n", "type": "l2", "resources": [entry]}})
    assert (reply.status, reply.code) == (400, "invalid-request")
    assert reply.json["error"]["message"] == "service.resources: give at least 2 entries; it has 1"


@pytest.mark.parametrize("accept", ["application/problem+json;q=0", "application/json", ""])
def test_a_problem_is_not_sent_to_who_does_not_want_it(north, accept):
    reply = north.ask("GET", "/nope", headers={"Accept": accept})
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.code == "path-not-found"


def test_retry_after_is_what_the_error_says_rounded_up(north):
    north.requests.fails["sites"] = errors.SiteUnreachable("later", retry_after=2.2)
    assert north.ask("GET", "/sites").headers["Retry-After"] == "3"


def test_a_bug_is_500_with_the_request_id_and_its_traceback_only_in_the_log(north):
    north.requests.fails["sites"] = ZeroDivisionError("inner workings")
    reply = north.ask("GET", "/sites", headers={"X-OpenStack-Request-ID": "req-bug"})
    assert (reply.status, reply.code, reply.json["error"]["request_id"]) == (500, "internal-error", "req-bug")
    assert b"inner workings" not in reply.text
    assert b"Traceback" not in reply.text
    (line,) = [ln for ln in map(json.loads, north.log.getvalue().splitlines()) if "exception" in ln]
    assert line["request_id"] == "req-bug"
    assert "ZeroDivisionError: inner workings" in line["exception"]
    assert north.ask("GET", "/sites").status == 200


def test_an_error_without_a_row_becomes_internal_error(north):
    north.requests.fails["sites"] = errors.BadSurroundings("start-up only")
    assert (north.ask("GET", "/sites").status, north.ask("GET", "/sites").status) == (500, 200)


# -- bodies ----------------------------------------------------------------------------------------

BAD_BODIES = {
    "empty": b"",
    "no json": b"{",
    "a list": b"[]",
    "null": b"null",
    "a word": b'"x"',
    "not utf-8": b'{"service": {"name": "\xff"}}',
    "surrogate": b'{"service": {"name": "\\ud800"}}',
    "nan": b'{"service": {"params": {"a": NaN}}}',
    "infinity": b'{"service": {"params": {"a": -Infinity}}}',
    "beyond floats": b'{"service": {"params": {"a": 1e999}}}',
    "big integer": b'{"service": {"params": {"a": 99999999999999999999}}}',
    "huge integer": b'{"service": {"params": {"a": ' + b"9" * 10_000 + b"}}}",
    "doubled key": b'{"service": {}, "service": {}}',
    "doubled inner key": b'{"service": {"params": {"a": 1, "a": 2}}}',
    "nested arrays": b"[" * 100_000,
    "nested and closed": b"[" * 100_000 + b"]" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "nested within limits of the parser": b'{"service": {"params": {"a": ' + b"[" * 100 + b"]" * 100 + b"}}}",
    "comment": b'{"service": {} /* x */}',
    "trailing": b'{"service": {}} x',
    "bom": b"\xef\xbb\xbf{}",
}


@pytest.mark.parametrize("name", sorted(BAD_BODIES))
def test_a_bad_body_is_400_with_a_sentence_and_the_engine_hears_nothing(north, name):
    reply = north.ask("POST", ROOT, raw=BAD_BODIES[name])
    assert (reply.status, reply.code) == (400, "invalid-request")
    assert 10 < len(reply.json["error"]["message"]) < 1000
    assert not north.requests.calls
    assert north.requests.audit[0][2:] == (f"POST {ROOT}", "invalid-request")


ENTRY = {"site": "paris", "resource_id": "n"}
BAD_SERVICES = {
    "unknown field": l3(colour="red"),
    "server's field": l3(id="x"),
    "no type": {"resources": l3()["resources"]},
    "unknown type": l3(type="l9"),
    "type of another type": l3(type=3),
    "no resources": {"type": "l3"},
    "one entry": l3(resources=[ENTRY]),
    "two equal entries": l3(resources=[ENTRY, ENTRY]),
    "entry of unknown field": l3(resources=[ENTRY, {"site": "lyon", "resource_id": "n", "vni": 3}]),
    "entry of wrong kind": l3(
        resources=[ENTRY, {"site": "lyon", "resource_id": "n", "resource_type": "port"}]
    ),
    "entry without site": l3(resources=[ENTRY, {"resource_id": "n"}]),
    "bad site": l3(resources=[ENTRY, {"site": "a b", "resource_id": "n"}]),
    "site with line end": l3(resources=[ENTRY, {"site": "lyon\n", "resource_id": "n"}]),
    "bad network": l3(resources=[ENTRY, {"site": "lyon", "resource_id": "../x"}]),
    "empty network": l3(resources=[ENTRY, {"site": "lyon", "resource_id": ""}]),
    "too many entries": l3(resources=[{"site": f"s{n}", "resource_id": "n"} for n in range(1001)]),
    "long name": l3(name="x" * 256),
    "name with NUL": l3(name="a\x00b"),
    "name no text": l3(name=["x"]),
    "many tags": l3(tags=[f"t{n}" for n in range(51)]),
    "long tag": l3(tags=["x" * 61]),
    "empty tag": l3(tags=[""]),
    "doubled tag": l3(tags=["a", "a"]),
    "tag with comma": l3(tags=["a,b"]),
    "bad rule": l3(on_unreachable="ignore"),
    "params no object": l3(params=[1]),
    "many params": l3(params={f"p{n}": n for n in range(17)}),
}


@pytest.mark.parametrize("name", sorted(BAD_SERVICES))
def test_a_bad_service_is_400_and_names_the_field(north, name):
    reply = north.ask("POST", ROOT, {"service": BAD_SERVICES[name]})
    assert (reply.status, reply.code) == (400, "invalid-request")
    assert "service" in reply.json["error"]["message"]
    assert not north.requests.calls


def test_the_longest_that_is_allowed(north):
    service = north.create(name="é" * 255, tags=["x" * 60] + [f"t{n}" for n in range(49)], description="l\n2")
    assert len(service["name"]) == 255
    assert len(service["tags"]) == 50


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": None},
        {"Content-Encoding": "gzip"},
    ],
)
def test_a_body_of_another_kind_is_400(north, headers):
    reply = north.ask("POST", ROOT, {"service": l3()}, headers=headers)
    assert (reply.status, reply.code) == (400, "invalid-request")


def test_json_with_a_charset_is_json(north):
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert north.ask("POST", ROOT, {"service": l3()}, headers=headers).status == 201


def test_ten_megabytes_are_413_and_the_next_request_works(north):
    reply = north.ask("POST", ROOT, raw=b'{"service": "' + b"x" * 10_000_000 + b'"}')
    assert (reply.status, reply.code) == (413, "too-large")
    assert "1048576 bytes" in reply.json["error"]["message"]
    assert not north.requests.calls
    assert north.ask("GET", ROOT).status == 200


def _raw(north, head, *parts, pause=0.0):
    """The status line's number of what comes back for bytes on a socket; None if it hung up."""
    with socket.create_connection(("127.0.0.1", north.port), timeout=10) as connection:
        try:
            connection.sendall(head)
            for part in parts:
                time.sleep(pause)
                connection.sendall(part)
            answer = connection.recv(65536)
        except ConnectionError:  # hung up on what was being sent, or with it unread
            return None
        return int(answer.split()[1]) if answer else None


POST = (
    f"POST {ROOT} HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {MEMBER}\r\nContent-Type: application/json\r\n"
).encode()


def test_a_chunked_body_is_bounded_too(serve_north):
    north = serve_north(body_bytes=1024)
    chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
    head = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    assert _raw(north, head, chunk, chunk, b"0\r\n\r\n") == 413


def test_who_asks_before_sending_is_told_before_sending(north):
    assert _raw(north, POST + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n") == 413


def test_a_body_that_never_comes_is_given_up(serve_north):
    north = serve_north(body_timeout=0.3)
    assert _raw(north, POST + b"Content-Length: 100\r\n\r\n", b"{") == 400
    assert north.ask("GET", ROOT).status == 200


def test_a_client_that_hangs_up_in_the_middle_harms_nobody(north):
    with socket.create_connection(("127.0.0.1", north.port), timeout=10) as connection:
        connection.sendall(POST + b"Content-Length: 100\r\n\r\n{")
    for _ in range(100):
        if north.requests.audit:
            break
        time.sleep(0.05)
    assert not north.requests.calls
    assert north.ask("GET", ROOT).status == 200


def test_headers_beyond_the_bound_are_refused(north):
    head = f"GET {ROOT} HTTP/1.1\r\nHost: x\r\n".encode()
    assert _raw(north, head, b"X-Long: " + b"x" * 1_000_000) in (400, None)
    assert _raw(north, head, b"".join(b"X-%d: y\r\n" % n for n in range(200_000))) in (400, None)
    assert _raw(north, b"GET /" + b"x" * 1_000_000) in (400, None)
    assert north.ask("GET", ROOT).status == 200


@pytest.mark.parametrize("head", [b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"BREW / HTTP/1.1\r\n\r\n"])
def test_what_is_no_http_is_400(north, head):
    assert _raw(north, head) in (400, None)
    assert north.ask("GET", ROOT).status == 200


# -- who may ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "", "unknown", "x" * 5000, "é".encode("latin-1")])
def test_without_a_valid_token_it_is_401(north, token):
    headers = {"X-Auth-Token": token} if token is not None else {}
    for method, where in (("GET", ROOT), ("POST", ROOT), ("GET", "/sites"), ("GET", "/events?x=1")):
        reply = north.ask(method, where, token=None, headers=headers)
        assert (reply.status, reply.code) == (401, "not-authenticated")
        assert "X-Auth-Token" in reply.headers["WWW-Authenticate"]
    assert not north.requests.calls
    assert not north.requests.audit


def test_readers_read_only_and_refusals_are_audited(north):
    service = north.create()
    one = f"{ROOT}/{service['id']}"
    for method, where, body in (
        ("POST", ROOT, {"service": l3()}),
        ("PUT", one, {"service": {}}),
        ("DELETE", one, None),
        ("POST", one + "/resources", {"resource": ENTRY}),
        ("DELETE", one + "/resources/lyon", None),
        ("POST", one + "/pools", {"pool": {}}),
    ):
        reply = north.ask(method, where, body, token=READER, headers={"X-OpenStack-Request-ID": "req-r"})
        assert (reply.status, reply.code) == (403, "not-authorised")
        assert north.requests.audit.pop() == ("eve", "req-r", f"{method} {where}", "not-authorised")
    for where in (ROOT, one, one + "/events", "/events", "/sites"):
        assert north.ask("GET", where, token=READER).status == 200


def test_a_user_without_a_role_gets_nothing(north):
    assert north.ask("GET", ROOT, token=NOBODY).status == 403
    assert north.requests.audit == [("nil", north.requests.audit[0][1], f"GET {ROOT}", "not-authorised")]


def test_the_engine_audits_what_it_refuses_itself(north):
    north.requests.fails["create"] = errors.CidrOverlap("they overlap")
    assert north.ask("POST", ROOT, {"service": l3()}).status == 409
    assert north.requests.audit == []


def test_an_audit_that_fails_does_not_hide_the_refusal(north):
    north.requests.fails["refused"] = errors.StorageUnavailable("disk full")
    assert north.ask("POST", ROOT, raw=b"{").status == 400
    assert "disk full" in north.log.getvalue()


def test_a_secret_in_the_token_is_in_no_log_event_or_answer(north):
    planted = "s3cret-pl4nted"
    north.identity.callers[planted] = north.identity.callers[MEMBER]
    north.requests.fails["sites"] = ZeroDivisionError("bug")
    texts = [
        north.ask(method, where, body, token=planted).text
        for method, where, body in (
            ("POST", ROOT, {"service": l3()}),
            ("GET", "/sites", None),
            ("POST", ROOT, {"service": {}}),
            ("GET", "/events", None),
            ("GET", ROOT, None),
        )
    ]
    texts.append(north.ask("GET", ROOT, token=planted + "x").text)
    texts.append(north.ask("GET", "/metrics", token=planted).text)
    assert planted.encode() not in b"".join(texts)
    assert planted not in north.log.getvalue()
    assert planted not in str(north.requests.log) + str(north.requests.audit)


# -- how often -------------------------------------------------------------------------------------


def test_a_project_that_asks_too_often_gets_429_and_others_do_not(serve_north):
    north = serve_north(rate_per_second=0.01, rate_burst=5)
    answers = [north.ask("GET", ROOT) for _ in range(7)]
    assert [a.status for a in answers] == [200] * 5 + [429] * 2
    assert answers[-1].code == "too-many-requests"
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 100
    assert north.ask("GET", ROOT, token=READER).status == 429
    assert north.ask("GET", ROOT, token=OTHER).status == 200
    assert north.requests.audit == []


def test_a_flood_without_token_is_limited_and_does_not_shut_others_out(serve_north):
    north = serve_north(rate_per_second=0.01, rate_burst=5)
    assert [north.ask("GET", ROOT, token="bad").status for _ in range(6)] == [401] * 5 + [429]
    assert north.ask("GET", "/readyz").status == 429
    assert north.ask("GET", ROOT).status == 200
