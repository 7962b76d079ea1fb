"""Every operation on services: statuses, headers, what the engine is asked, what users see."""

import re
import uuid

import pytest
from north_double import ADMIN, MEMBER, OTHER, PEER_URL, READER
from north_world import l3

from diminet.errors import SiteUnreachable
from diminet.messages import Change
from diminet.model import Entry, Member

ROOT = "/intersite-vertical"
FIELDS = {
    "id", "name", "description", "type", "project_id", "tags", "on_unreachable", "params", "master", "epoch",
    "revision", "provisioning_status", "operating_status", "created_at", "updated_at", "synced_at",
    "warnings", "fault", "waiting", "resources",
}  # fmt: skip
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def path(service, *more):
    return "/".join((ROOT, service["id"], *more))


# -- create ----------------------------------------------------------------------------------------


def test_create_answers_201_with_location_etag_and_all_fields(north):
    reply = north.ask("POST", ROOT, {"service": l3(name="web", tags=["a"], params={})})
    assert reply.status == 201
    service = reply.service
    assert set(service) == FIELDS
    assert reply.headers["Location"] == f"http://127.0.0.1:{north.port}{path(service)}"
    assert reply.headers["ETag"] == '"1.1-1"'
    assert service["epoch"] == [1, 1]
    assert service["master"] == "lyon"
    assert all(RFC3339.fullmatch(service[key]) for key in ("created_at", "updated_at", "synced_at"))
    entry = service["resources"][0]
    assert (entry["site"], entry["resource_id"], entry["resource_type"]) == ("paris", "n1", "network")
    assert entry["status_age"] >= 1
    assert entry["subnets"] == [
        {
            "cidr": "10.1.0.0/24",
            "gateway_ip": "10.1.0.1",
            "allocation_pools": [{"start": "10.1.0.2", "end": "10.1.0.63"}],
            "used": 3,
            "blocks": {"pooled": 1, "spare": 1},
        }
    ]


def test_the_engine_gets_what_was_asked_and_who_asked(north):
    body = {"type": "l2", "resources": [{"site": "paris", "resource_id": "n1"}, {"site": "lyon"}]}
    reply = north.ask("POST", ROOT, {"service": body}, headers={"X-OpenStack-Request-ID": "req-mine"})
    assert reply.status == 201
    _, user, ctx, request, wait, idempotency = north.requests.calls[0]
    assert (user, wait, idempotency) == ("ann", True, None)
    assert request.resources == (Entry(site="paris", resource_id="n1"), Entry(site="lyon"))
    assert (request.type, request.name, request.on_unreachable) == ("l2", "", "revoke")
    assert ctx.request_id == "req-mine"
    assert (ctx.initiator.user_id, ctx.initiator.project_id, ctx.initiator.site) == ("ann", "p1", "paris")
    assert ctx.token.get_secret_value() == MEMBER
    assert ctx.sender is None


def test_prefer_respond_async_is_202_with_location(north):
    reply = north.ask("POST", ROOT, {"service": l3()}, headers={"Prefer": "wait=5, Respond-Async"})
    assert (reply.status, reply.headers["Preference-Applied"]) == (202, "respond-async")
    assert reply.headers["Location"].endswith(path(reply.service))
    assert north.requests.calls[0][4] is False


def test_a_deferred_member_is_202_with_location(north):
    north.requests.waiting = ("lyon",)
    reply = north.ask("POST", ROOT, {"service": l3(on_unreachable="defer")})
    assert reply.status == 202
    assert reply.headers["Location"]


def test_links_use_the_public_url_and_never_a_forged_host(serve_north):
    public = serve_north(public_url="https://api.example/diminet/")
    reply = public.ask("POST", ROOT, {"service": l3()})
    assert reply.headers["Location"].startswith("https://api.example/diminet/intersite-vertical/")
    plain = serve_north()
    reply = plain.ask("POST", ROOT, {"service": l3()}, headers={"Host": "evil/@x"})
    assert reply.headers["Location"].startswith("/intersite-vertical/")


def test_idempotency_key_same_body_same_service_other_body_conflict(north):
    headers = {"Idempotency-Key": "k-1"}
    one = north.ask("POST", ROOT, {"service": l3(name="a")}, headers=headers)
    two = north.ask("POST", ROOT, {"service": {"name": "a", "tags": [], **l3()}}, headers=headers)
    assert one.service["id"] == two.service["id"]
    other = north.ask("POST", ROOT, {"service": l3(name="b")}, headers=headers)
    assert (other.status, other.code) == (409, "idempotency-conflict")
    mine = north.ask("POST", ROOT, {"service": l3(name="b")}, token=OTHER, headers=headers)
    assert mine.status == 201


def test_every_post_hands_its_key_on_with_what_it_asks(north):
    service, keys = north.create(), []
    asked = (
        ("resources", {"resource": {"site": "nice", "resource_id": "n3"}}),
        ("resources", {"resource": {"resource_id": "n3", "site": "nice"}}),
        ("resources", {"resource": {"site": "nice", "resource_id": "n4"}}),
        ("pools", {"pool": {}}),
    )
    for where, body in asked:
        headers = {"Idempotency-Key": "k-1"}
        assert north.ask("POST", path(service, where), body, headers=headers).status == 200
        keys.append(north.requests.key)
    assert {key for key, _ in keys} == {"k-1"}
    assert keys[0] == keys[1]
    assert len({body_hash for _, body_hash in keys}) == 3
    north.ask("POST", path(north.create(), "pools"), {"pool": {}}, headers={"Idempotency-Key": "k-1"})
    assert north.requests.key != keys[3]
    bad = north.ask("POST", path(service, "pools"), {"pool": {}}, headers={"Idempotency-Key": "a b"})
    assert (bad.status, bad.code) == (400, "invalid-request")


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é"])
def test_a_bad_idempotency_key_is_400(north, key):
    reply = north.ask("POST", ROOT, {"service": l3()}, headers={"Idempotency-Key": key.encode("latin-1")})
    assert (reply.status, reply.code) == (400, "invalid-request")
    assert north.requests.services == {}


# -- show and list ---------------------------------------------------------------------------------


def test_show_has_the_etag_and_another_projects_is_404(north):
    service = north.create()
    reply = north.ask("GET", path(service))
    assert (reply.status, reply.headers["ETag"]) == (200, '"1.1-1"')
    hidden = north.ask("GET", path(service), token=OTHER)
    assert (hidden.status, hidden.code) == (404, "service-not-found")


def test_tenants_never_see_identifiers_connections_or_addresses_and_admins_do(north):
    service = north.create()
    text = (
        north.ask("GET", path(service)).text.decode()
        + north.ask("GET", path(service, "events")).text.decode()
    )
    text += north.ask("GET", "/sites").text.decode() + north.ask("GET", ROOT).text.decode()
    for secret in ("4097", "64999", "10.9.8.7", "connections", "identifiers", "9791"):
        assert secret not in text
    seen = north.ask("GET", path(service), token=ADMIN).service
    assert seen["identifiers"] == {
        "vni": 4097,
        "route_targets": {"lyon": "64999:1048833", "paris": "64999:1048834"},
    }
    assert seen["connections"] == [{"resource_id": "n", "state": "ACTIVE"}]
    assert PEER_URL in str(seen["warnings"])


def test_an_error_of_a_peer_tells_a_tenant_no_address_but_an_admin(north):
    says = f"site lyon cannot be reached at {PEER_URL}, 10.9.8.7:9791: VNI 4097, target 64999:1048833"
    for token, shown in ((MEMBER, False), (ADMIN, True)):
        north.requests.fails["create"] = SiteUnreachable(says, sites=["lyon"])
        reply = north.ask("POST", ROOT, {"service": l3()}, token=token)
        assert (reply.status, reply.code, reply.json["error"]["sites"]) == (503, "site-unreachable", ["lyon"])
        assert reply.headers["Retry-After"] == "10"
        assert ("10.9.8.7" in reply.json["error"]["message"]) is shown
        assert ("64999" in reply.json["error"]["message"]) is shown


def test_a_list_is_paged_by_links(north):
    made = {north.create(name=f"s{n}")["id"] for n in range(5)}
    north.ask("POST", ROOT, {"service": l3()}, token=OTHER)
    found, where, pages = [], f"{ROOT}?limit=2&sort_key=id", 0
    while where and pages < 10:
        body = north.ask("GET", where).json
        assert len(body["services"]) <= 2
        found += [s["id"] for s in body["services"]]
        links = body["services_links"]
        where, pages = links[0]["href"].split(str(north.port))[1] if links else None, pages + 1
    assert pages == 3
    assert len(found) == 5
    assert set(found) == made


def test_list_filters_reach_the_engine(north):
    marker = str(uuid.uuid4())
    query = (
        "?type=l2&name=a%20b&status=ACTIVE&site=lyon&tags=x,y,x&sort_key=name&sort_dir=desc&limit=7"
        f"&marker={marker}&project_id=p1"
    )
    assert north.ask("GET", ROOT + query).status == 200
    where = north.requests.calls[0][2]
    assert where.model_dump() == {
        "project_id": "p1", "type": "l2", "name": "a b", "status": "ACTIVE", "site": "lyon",
        "tags": ("x", "y"), "sort_key": "name", "sort_dir": "desc", "limit": 8, "marker": marker,
    }  # fmt: skip


def test_a_tenant_that_asks_for_another_project_gets_nothing(north):
    north.create()
    assert north.ask("GET", f"{ROOT}?project_id=p2").json["services"] == []
    assert north.ask("GET", f"{ROOT}?project_id=p1", token=OTHER).json["services"] == []
    assert len(north.ask("GET", f"{ROOT}?project_id=p1", token=ADMIN).json["services"]) == 1


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=-1", "limit=x", "limit=1001", "limit=", "limit=1.5", "limit=99999999999999999999",
        "marker=x", "sort_key=vni", "sort_dir=up", "type=l9", "status=BROKEN", "nonsense=1",
        "limit=1&limit=2", "site=a/b", "name=%00", "name=" + "x" * 256,
    ],
)  # fmt: skip
def test_a_bad_query_is_400_with_a_sentence(north, query):
    reply = north.ask("GET", f"{ROOT}?{query}")
    assert (reply.status, reply.code) == (400, "invalid-request")
    assert len(reply.json["error"]["message"]) > 10


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_no_operation_ignores_an_unknown_query_parameter(north, method):
    service = north.create()
    body = {"service": {}} if method == "PUT" else None
    assert north.ask(method, path(service) + "?force=1", body).status == 400
    assert north.ask("GET", path(service)).status == 200


@pytest.mark.parametrize("bad", ["x", "123", "00000000-0000-0000-0000-00000000000g", "..", "%2e%2e", "a%2Fb"])
@pytest.mark.parametrize(("method", "tail"), [("GET", ""), ("DELETE", ""), ("GET", "/events")])
def test_a_malformed_id_is_404(north, bad, method, tail):
    reply = north.ask(method, f"{ROOT}/{bad}{tail}")
    assert (reply.status, reply.json["error"]["status"]) == (404, 404)


def test_an_upper_case_id_is_the_same_service(north):
    service = north.create()
    assert north.ask("GET", f"{ROOT}/{service['id'].upper()}").service["id"] == service["id"]


# -- modify ----------------------------------------------------------------------------------------


def test_modify_changes_what_is_there_and_leaves_the_rest(north):
    service = north.create(description="old", tags=["t"])
    reply = north.ask("PUT", path(service), {"service": {"name": "new"}})
    assert reply.status == 200
    assert (reply.service["name"], reply.service["description"], reply.service["tags"]) == (
        "new",
        "old",
        ["t"],
    )
    assert reply.headers["ETag"] == '"1.1-2"'
    assert north.requests.calls[-1][4] == Change(operation="modify", name="new")


def test_resources_need_if_match(north):
    service = north.create()
    body = {"service": {"resources": l3()["resources"]}}
    without = north.ask("PUT", path(service), body)
    assert (without.status, without.code) == (428, "precondition-required")
    stale = north.ask("PUT", path(service), body, headers={"If-Match": '"1.1-9"'})
    assert (stale.status, stale.code) == (412, "revision-conflict")
    right = north.ask("PUT", path(service), body, headers={"If-Match": '"1.1-1"'})
    assert right.status == 200
    assert len(north.requests.calls[-1][4].resources) == 2


ANY_OF = [
    ('"1.1-1"', True), ("*", True), ('"1.1-0", "1.1-1"', True), ('"1.1-0"', False), ('W/"1.1-1"', False),
    ('"1.1-0","1.1-2"', False),
]  # fmt: skip


@pytest.mark.parametrize(("etags", "matches"), ANY_OF)
@pytest.mark.parametrize("operation", ["GET", "PUT", "DELETE", "join", "leave", "pools"])
def test_if_match_is_honoured_wherever_it_is_sent(north, etags, matches, operation):
    service = north.create()
    asked = {
        "GET": ("GET", (), None),
        "PUT": ("PUT", (), {"service": {"name": "n"}}),
        "DELETE": ("DELETE", (), None),
        "join": ("POST", ("resources",), {"resource": {"site": "nice", "resource_id": "n3"}}),
        "leave": ("DELETE", ("resources", "lyon"), None),
        "pools": ("POST", ("pools",), {"pool": {}}),
    }
    method, tail, body = asked[operation]
    reply = north.ask(method, path(service, *tail), body, headers={"If-Match": etags})
    assert (reply.status < 300) is matches
    assert matches or (reply.status, reply.code) == (412, "revision-conflict")


@pytest.mark.parametrize("etags", ["1.1-1", '"', "", '"a" "b"', ",".join(['"x"'] * 17), '"é"'])
def test_a_malformed_if_match_is_400(north, etags):
    service = north.create()
    reply = north.ask("DELETE", path(service), headers={"If-Match": etags.encode("latin-1")})
    assert (reply.status, reply.code) == (400, "invalid-request")
    assert service["id"] in north.requests.services


@pytest.mark.parametrize(
    "fixed", [{"type": "l2"}, {"params": {}}, {"type": "l3", "params": {}}, {"name": None}]
)
def test_what_cannot_be_changed_is_400(north, fixed):
    service = north.create()
    reply = north.ask("PUT", path(service), {"service": fixed})
    assert (reply.status, reply.code) == (400, "invalid-request")
    assert "leave it out" in reply.json["error"]["message"]


# -- one entry, pools, delete ----------------------------------------------------------------------


def test_join_with_and_without_via(north):
    service = north.create()
    reply = north.ask("POST", path(service, "resources"), {"resource": {"site": "nice", "resource_id": "n3"}})
    assert reply.status == 200
    assert [r["site"] for r in reply.service["resources"]] == ["paris", "lyon", "nice"]
    body = {"resource": {"site": "paris"}, "via": "lyon"}
    assert north.ask("POST", path(service, "resources"), body).status == 200
    change = north.requests.calls[-1][4]
    assert (change.operation, change.via, change.entry) == ("join", "lyon", Entry(site="paris"))


def test_leave_of_one_network_and_of_a_site(north):
    service = north.create()
    assert north.ask("DELETE", path(service, "resources", "lyon", "n2")).status == 200
    assert north.requests.calls[-1][4].entry == Entry(site="lyon", resource_id="n2")
    reply = north.ask("DELETE", path(service, "resources", "paris"))
    assert (reply.status, reply.service["resources"]) == (200, [])
    assert north.requests.calls[-1][4].entry == Entry(site="paris")


def test_removing_a_site_that_cannot_be_reached_is_202_and_names_it(north):
    service = north.create()
    north.requests.waiting = ("lyon",)
    reply = north.ask("DELETE", path(service, "resources", "lyon"))
    assert (reply.status, reply.service["waiting"]) == (202, ["lyon"])


@pytest.mark.parametrize("site", ["-x", "a" * 64, "%20", "a%00"])
def test_a_site_that_cannot_be_one_is_404(north, site):
    reply = north.ask("DELETE", path(north.create(), "resources", site))
    assert (reply.status, reply.code) == (404, "site-unknown")


def test_more_room(north):
    service = north.create()
    assert north.ask("POST", path(service, "pools"), {"pool": {}}).status == 200
    assert north.ask("POST", path(service, "pools"), {"pool": {"size": 3}}).status == 400
    assert north.ask("POST", path(service, "pools"), {}).status == 400


def test_delete_is_204_then_404(north):
    service = north.create()
    reply = north.ask("DELETE", path(service))
    assert (reply.status, reply.text) == (204, b"")
    assert north.ask("DELETE", path(service)).code == "service-not-found"


def test_delete_is_202_while_a_site_is_waited_for_and_can_be_repeated(north):
    service = north.create()
    north.requests.waiting = ("lyon",)
    for _ in range(2):
        reply = north.ask("DELETE", path(service))
        assert (reply.status, reply.service["waiting"]) == (202, ["lyon"])
        assert reply.service["provisioning_status"] == "PENDING_DELETE"
    north.requests.waiting = ()
    assert north.ask("DELETE", path(service)).status == 204


def test_a_document_whose_master_is_no_member_can_be_shown(north):
    service = north.create()
    view = north.requests.services[service["id"]]
    document = view.document.model_copy(update={"members": (Member(site="x", number=9, slot=1),)})
    north.requests.services[service["id"]] = view.model_copy(update={"document": document})
    assert north.ask("GET", path(service)).service["master"] is None


def test_sites_are_names_for_tenants_and_all_for_admins(north):
    lyon, nice = north.ask("GET", "/sites", token=READER).json["sites"]
    assert lyon == {"name": "lyon", "reachable": True, "last_seen": "1970-01-01T00:00:01.000Z"}
    assert (nice["reachable"], nice["last_seen"]) == (None, None)
    lyon = north.ask("GET", "/sites", token=ADMIN).json["sites"][0]
    assert (lyon["number"], lyon["protocol"], lyon["east_west_url"]) == (2, "1.0", PEER_URL)


# -- takeover --------------------------------------------------------------------------------------


def test_takeover_is_for_operators_and_names_who_is_gone(north):
    service = north.create()
    wish = {"takeover": {"gone": ["lyon"]}}
    assert north.ask("POST", path(service, "takeover"), wish).status == 403
    reply = north.ask("POST", path(service, "takeover"), wish, token=ADMIN)
    assert (reply.status, reply.service["id"]) == (200, service["id"])
    assert north.requests.calls[-1][-2:] == (service["id"], frozenset({"lyon"}))
    assert north.ask("POST", path(service, "takeover"), {"takeover": {}}, token=ADMIN).status == 200
    for bad in (
        {},
        {"takeover": {"gone": ["-"]}},
        {"takeover": {"gone": ["a", "a"]}},
        {"takeover": {"x": 1}},
    ):
        assert north.ask("POST", path(service, "takeover"), bad, token=ADMIN).status == 400


def test_forgetting_a_lost_site_is_for_operators(north):
    service = north.create()
    wish = {"forget": {"site": "lyon"}}
    assert north.ask("POST", path(service, "forget"), wish).status == 403
    assert north.ask("POST", path(service, "forget"), wish, token=ADMIN).status == 200
    assert north.requests.calls[-1][-2:] == (service["id"], "lyon")
    assert north.ask("POST", path(service, "forget"), {"forget": {}}, token=ADMIN).status == 400
    north.requests.waiting = ("lyon",)  # and nothing else is left of it
    assert north.ask("POST", path(service, "forget"), wish, token=ADMIN).status == 204
