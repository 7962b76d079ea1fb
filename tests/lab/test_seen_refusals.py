"""What must be seen: a refusal has the right code and a sentence, and leaves nothing anywhere."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from seen import ANSWERED, Scene, fixtures

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
scene, clean = fixtures()
PATH = "/intersite-vertical"


@contextmanager
def no_trace(scene: Scene) -> Iterator[None]:
    before = scene.state()
    yield
    left = scene.differences(before, within=ANSWERED)
    assert not left, "\n".join(left)


def body(*resources: dict[str, object], **fields: object) -> bytes:
    return json.dumps({"service": {"type": "l3", "name": "x", "resources": resources, **fields}}).encode()


@pytest.mark.parametrize("at", ["A", "B"])
def test_overlap_names_both_networks_and_the_overlap(scene: Scene, at: str) -> None:
    a, b = scene.network("A", "10.1.0.0/16"), scene.network("B", "10.1.2.0/24")
    with no_trace(scene):
        error = scene.refusal("l3", {"A": a, "B": b}, at=at)
    assert (error.status, error.word) == (409, "cidr-overlap")
    assert all(word in error.message for word in (a, b, "10.1.0.0/16", "10.1.2.0/24"))


def test_overlap_over_two_services(scene: Scene) -> None:
    """B's network would reach two networks that overlap."""
    a, b = scene.network("A", "10.1.0.0/24"), scene.network("B", "10.2.0.0/24")
    c = scene.network("C", "10.1.0.0/25")
    scene.made("l3", {"A": a, "B": b})
    with no_trace(scene):
        error = scene.refusal("l3", {"C": c, "B": b})
    assert (error.status, error.word) == (409, "cidr-overlap")
    assert "10.1.0.0/24" in error.message
    assert "10.1.0.0/25" in error.message


@pytest.mark.parametrize("kind", ["l2", "l3"])
def test_unknown_network(scene: Scene, kind: str) -> None:
    a, unknown = scene.network("A", "10.1.0.0/24"), str(uuid.uuid4())
    with no_trace(scene):
        there = scene.refusal(kind, {"A": a, "B": unknown})
        here = scene.refusal(kind, {"B": unknown, "A": a})
    for error in (there, here):
        assert (error.status, error.word) == (404, "network-not-found")
        assert unknown in error.message
        assert error.document["sites"] == ["B"]


@pytest.mark.parametrize("kind", ["l2", "l3"])
@pytest.mark.parametrize("where", ["A", "B"])
def test_network_of_another_project(scene: Scene, kind: str, where: str) -> None:
    """The same answer as for one that does not exist, wherever it is and whoever is asked."""
    cidrs = {"A": "10.1.0.0/24", "B": "10.1.0.0/24" if kind == "l2" else "10.2.0.0/24"}
    networks = {
        site: scene.network(site, cidr, who="other_token" if site == where else "token")
        for site, cidr in cidrs.items()
    }
    with no_trace(scene):
        error = scene.refusal(kind, networks)
        unknown = scene.refusal(kind, {**networks, where: str(uuid.uuid4())})
    assert (error.status, error.word) == (404, "network-not-found")
    assert networks[where] in error.message
    assert (unknown.status, unknown.word) == (error.status, error.word)
    assert len(unknown.message) == len(error.message)  # the same sentence but for the id


def test_service_of_another_project_is_not_there(scene: Scene) -> None:
    networks = {"A": scene.network("A", "10.1.0.0/24"), "B": scene.network("B", "10.2.0.0/24")}
    service = scene.made("l3", networks)
    theirs = scene.network("C", "10.3.0.0/24", who="other_token")
    other = scene.north("B", "other_token")
    with no_trace(scene):
        assert other.services() == []
        path = f"{PATH}/{service['id']}"
        for method, tail, sent in (
            ("GET", "", None),
            ("DELETE", "", None),
            ("GET", "/events", None),
            ("PUT", "", {"service": {"name": "mine"}}),
            ("POST", "/resources", {"resource": {"site": "C", "resource_id": theirs}}),
            ("DELETE", "/resources/A", None),
        ):
            assert refused(scene, "B", method, path + tail, sent) == (404, "service-not-found"), (
                method,
                tail,
            )
        join = {"resource": {"site": "C", "resource_id": theirs}, "via": "A"}
        assert refused(scene, "C", "POST", f"{path}/resources", join) == (404, "service-not-found")


def refused(scene: Scene, site: str, method: str, path: str, sent: object) -> tuple[int, str]:
    """Status and code, as the other project."""
    headers = {"X-Auth-Token": scene.token(site, "other_token")}
    text = None if sent is None else json.dumps(sent).encode()
    status, document = scene.raw(site, method, path, text, headers)
    return status, document["error"]["code"]


@pytest.mark.parametrize("what", ["instance", "second subnet", "other cidr"])
def test_remote_network_that_is_not_clean(scene: Scene, what: str) -> None:
    a = scene.network("A", "10.1.0.0/24")
    cidrs = {"second subnet": ("10.1.0.0/24", "fd00::/64"), "other cidr": ("10.2.0.0/24",)}
    b = scene.network("B", *cidrs.get(what, ("10.1.0.0/24",)))
    if what == "instance":
        scene.boot("B", b)
    with no_trace(scene):
        error = scene.refusal("l2", {"A": a, "B": b})
    assert (error.status, error.word) == (409, "resource-not-clean")
    assert b in error.message
    assert "B" in error.document["sites"]


def test_network_that_is_in_another_service(scene: Scene) -> None:
    a, b = scene.network("A", "10.1.0.0/24"), scene.network("B", "10.2.0.0/24")
    scene.made("l3", {"A": a, "B": b})
    with no_trace(scene):
        error = scene.refusal("l2", {"B": b, "C": None})
    assert (error.status, error.word) == (409, "resource-busy")


def test_site_that_is_not_in_the_directory(scene: Scene) -> None:
    a = scene.network("A", "10.1.0.0/24")
    with no_trace(scene):
        error = scene.refusal("l2", {"A": a, "nowhere": None})
    assert (error.status, error.word) == (404, "site-unknown")
    assert "nowhere" in error.message


def test_site_that_is_not_concerned(scene: Scene) -> None:
    a, b = scene.network("A", "10.1.0.0/24"), scene.network("B", "10.2.0.0/24")
    with no_trace(scene):
        error = scene.refusal("l3", {"A": a, "B": b}, at="C")
    assert (error.status, error.word) == (400, "invalid-request")
    assert "A, B" in error.message


ENTRY = {"site": "A", "resource_id": str(uuid.uuid4())}
OTHER = {"site": "B", "resource_id": str(uuid.uuid4())}
MALFORMED = {
    "empty": b"",
    "no JSON": b"{",
    "not UTF-8": b'{"service": "\xff\xfe"}',
    "a list": b"[]",
    "no service": b"{}",
    "null": b'{"service": null}',
    "unknown field": body(ENTRY, OTHER, colour="blue"),
    "unknown field beside": b'{"service": {}, "extra": 1}',
    "unknown field of an entry": body({**ENTRY, "subnet": "x"}, OTHER),
    "unknown type": body(ENTRY, OTHER, type="l4"),
    "one entry": body(ENTRY),
    "no entries": body(),
    "the same entry twice": body(ENTRY, ENTRY),
    "a site's name that cannot be": body({**ENTRY, "site": "../A"}, OTHER),
    "a network's id that cannot be": body({**ENTRY, "resource_id": "a b; rm"}, OTHER),
    "a number for a name": body(ENTRY, OTHER, name=7),
    "a name too long": body(ENTRY, OTHER, name="x" * 256),
    "a control character": body(ENTRY, OTHER, name="a\u0000b"),
    "a key twice": b'{"service": {"type": "l2", "type": "l3"}}',
    "unknown parameter": body(ENTRY, {"site": "B"}, type="l2", params={"speed": 9}),
    "block size that is no power of two": body(ENTRY, {"site": "B"}, type="l2", params={"block_size": 3}),
    "unknown gateway": body(ENTRY, {"site": "B"}, type="l2", params={"gateway": "mine"}),
    "l3 without a network": body(ENTRY, {"site": "B"}),
    "not a number": b'{"service": {"type": "l3", "name": NaN}}',
    "a huge number": b'{"service": {"type": "l3", "name": 1' + b"0" * 5000 + b"}}",
    "100,000 nested lists": b"[" * 100_000,
    "100,000 nested lists, closed": b"[" * 100_000 + b"]" * 100_000,
    "100,000 nested objects": b'{"a":' * 100_000 + b"{}" + b"}" * 100_000,
}


def test_malformed_bodies(scene: Scene) -> None:
    with no_trace(scene):
        for name, sent in MALFORMED.items():
            status, document = scene.raw("A", "POST", PATH, sent)
            assert (status, document["error"]["code"]) == (400, "invalid-request"), (name, document)
            assert 10 < len(document["error"]["message"]) <= 2000, (name, document)
            assert document["error"]["request_id"], name


def test_a_body_of_10_megabytes(scene: Scene) -> None:
    with no_trace(scene):
        status, document = scene.raw("A", "POST", PATH, body(ENTRY, OTHER, description="x" * 10_000_000))
    assert (status, document["error"]["code"]) == (413, "too-large")
    assert "1048576" in document["error"]["message"]


def test_headers_and_paths(scene: Scene) -> None:
    sent = body(ENTRY, OTHER)
    with no_trace(scene):
        for expected, code, method, path, headers in (
            (401, "not-authenticated", "POST", PATH, {"X-Auth-Token": "wrong"}),
            (401, "not-authenticated", "GET", PATH, {"X-Auth-Token": ""}),
            (400, "invalid-request", "POST", PATH, {"Content-Type": "text/plain"}),
            (406, "not-acceptable", "GET", PATH, {"OpenStack-API-Version": "intersite 1.999"}),
            (404, "path-not-found", "GET", "/nothing", {}),
            (404, "service-not-found", "GET", f"{PATH}/not-a-uuid", {}),
            (404, "service-not-found", "GET", f"{PATH}/{uuid.uuid4()}", {}),
            (404, "service-not-found", "DELETE", f"{PATH}/{uuid.uuid4()}", {}),
            (405, "method-not-allowed", "PATCH", PATH, {}),
            (400, "invalid-request", "GET", f"{PATH}?colour=blue", {}),
            (400, "invalid-request", "GET", f"{PATH}?limit=-1", {}),
            (400, "invalid-request", "GET", f"{PATH}?limit=many", {}),
        ):
            status, document = scene.raw("A", method, path, sent if method == "POST" else None, headers)
            assert (status, document["error"]["code"]) == (expected, code), (method, path, headers, document)


def test_a_change_that_is_refused_changes_nothing(scene: Scene) -> None:
    networks = {"A": scene.network("A", "10.1.0.0/24"), "B": scene.network("B", "10.2.0.0/24")}
    service = scene.made("l3", networks)
    clash, theirs = scene.network("C", "10.1.0.0/16"), scene.network("C", "10.9.0.0/24", who="other_token")
    path = f"{PATH}/{service['id']}"
    with no_trace(scene):
        for at, resource, status, code in (
            ("A", {"site": "C", "resource_id": clash}, 409, "cidr-overlap"),
            ("B", {"site": "C", "resource_id": clash}, 409, "cidr-overlap"),
            ("A", {"site": "C", "resource_id": theirs}, 404, "network-not-found"),
            ("A", {"site": "nowhere", "resource_id": clash}, 404, "site-unknown"),
        ):
            text = json.dumps({"resource": resource}).encode()
            answer = scene.raw(at, "POST", f"{path}/resources", text)
            assert (answer[0], answer[1]["error"]["code"]) == (status, code), answer
        whole = json.dumps({"service": {"resources": [ENTRY, OTHER]}}).encode()
        assert scene.raw("A", "PUT", path, whole)[0] == 428
        assert scene.raw("A", "PUT", path, whole, {"If-Match": '"9.9-9"'})[0] == 412
        assert scene.raw("A", "PUT", path, b'{"service": {"type": "l2"}}')[0] == 400
