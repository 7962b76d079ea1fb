"""The Neutron-shaped REST as its clients see it."""

import asyncio
import json
import socket
import threading
from typing import NamedTuple

import aiohttp
import pytest
import uvicorn
from yarl import URL

from diminet.errors import NotAuthenticated
from diminet.messages import Caller
from diminet.south.linux.rest import make_vim_app


def caller(project: str, role: str) -> Caller:
    return Caller(user_id=f"{project}-{role}", project_id=project, roles=frozenset({role}), token="x")


CALLERS = {
    "T": caller("blue", "member"),
    "O": caller("red", "member"),
    "R": caller("blue", "reader"),
    "A": caller("ops", "admin"),
}


async def authenticate(token: str) -> Caller:
    if token not in CALLERS:
        raise NotAuthenticated("That token is not known; ask for a new one.")
    return CALLERS[token]


class Answer(NamedTuple):
    status_code: int
    text: str

    def json(self):
        return json.loads(self.text)


class Served:
    """One networking service and its REST on real sockets, in a loop of its own thread."""

    def __init__(self, context) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.context = context
        self.vim = self.run(context.__aenter__())
        self.session = self.run(self._session())
        self.servers: dict[str, tuple[uvicorn.Server, asyncio.Task, str]] = {}

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    async def _session(self):
        return aiohttp.ClientSession(requote_redirect_url=False)

    def client(self, token="T", **options):
        key = repr(options)
        if key not in self.servers:
            self.servers[key] = self.run(self._serve(make_vim_app(self.vim, authenticate, **options)))
        return Client(self, self.servers[key][2], {"X-Auth-Token": token} if token else {})

    async def _serve(self, app):
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        for _ in range(1000):
            if server.started:
                break
            await asyncio.sleep(0.01)
        return server, task, f"http://127.0.0.1:{listener.getsockname()[1]}"

    def close(self):
        self.run(self.session.close())
        for server, task, _ in self.servers.values():
            server.should_exit = True
            self.run(asyncio.wait_for(task, 30))
        self.run(self.context.__aexit__(None, None, None))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(30)
        self.loop.close()


class Client(NamedTuple):
    served: Served
    base: str
    headers: dict[str, str]

    def request(self, method, path, **body):
        async def ask():
            url = URL(path if path.startswith("http") else self.base + path, encoded=True)
            async with self.served.session.request(method, url, headers=self.headers, **body) as answer:
                return Answer(answer.status, await answer.text())

        return self.served.run(ask())

    def get(self, path):
        return self.request("GET", path)

    def put(self, path, **body):
        return self.request("PUT", path, **body)

    def post(self, path, **body):
        return self.request("POST", path, **body)

    def delete(self, path):
        return self.request("DELETE", path)


@pytest.fixture
def serve(site):
    """`serve(token, **options)` is a client of the REST; all clients of a test share one service."""
    served = Served(site.vim())
    yield served.client
    served.close()


def made(client, noun, **fields):
    answer = client.post(f"/v2.0/{noun}s", json={noun: fields})
    assert answer.status_code == 201, answer.text
    return answer.json()[noun]


def error(answer, status, type_):
    assert answer.status_code == status, answer.text
    body = answer.json()["NeutronError"]
    assert set(body) == {"type", "message", "detail"}
    assert body["type"] == type_
    assert "Traceback" not in answer.text
    return body["message"]


def test_documents(serve):
    client = serve(None)
    root = client.get("/").json()
    assert root["versions"][0]["id"] == "v2.0"
    assert root["versions"][0]["links"][0]["href"] == f"{client.base}/v2.0/"
    assert client.get("/v2.0/").status_code == 401
    names = {r["collection"] for r in serve().get("/v2.0/").json()["resources"]}
    assert {"networks", "subnets", "ports"} <= names
    assert serve().get("/v2.0/extensions/net-mtu").json()["extension"]["alias"] == "net-mtu"
    error(serve().get("/v2.0/extensions/bgpvpn"), 404, "HTTPException")


def test_create_show_list_update_delete(serve):
    client = serve()
    network = made(client, "network", name="web", admin_state_up=True, description="d", tags=["a"])
    assert network | {"status": "ACTIVE", "mtu": 1450, "tenant_id": "blue", "tags": ["a"]} == network
    subnet = made(client, "subnet", network_id=network["id"], cidr="10.1.0.0/24", ip_version=4)
    assert subnet["allocation_pools"] == [{"start": "10.1.0.2", "end": "10.1.0.254"}]
    assert subnet["gateway_ip"] == "10.1.0.1"
    port = made(client, "port", network_id=network["id"], name="vm1")
    assert port["fixed_ips"] == [{"subnet_id": subnet["id"], "ip_address": "10.1.0.2"}]
    assert port["binding:vif_details"]["instance"] == "vm1"
    assert client.get(f"/v2.0/networks/{network['id']}").json()["network"]["subnets"] == [subnet["id"]]
    path = f"/v2.0/subnets/{subnet['id']}"
    pools = {"allocation_pools": [{"start": "10.1.0.8", "end": "10.1.0.9"}]}
    changed = client.put(path, json={"subnet": pools}).json()["subnet"]
    assert changed["allocation_pools"] == pools["allocation_pools"]
    assert changed["gateway_ip"] == "10.1.0.1"  # what is not sent stays
    assert client.put(f"{path}/tags", json={"tags": ["x", "x"]}).json() == {"tags": ["x"]}
    assert client.get(f"{path}/tags").json() == {"tags": ["x"]}
    error(client.delete(path), 409, "SubnetInUse")
    error(client.delete(f"/v2.0/networks/{network['id']}"), 409, "NetworkInUse")
    for gone in (f"ports/{port['id']}", f"subnets/{subnet['id']}", f"networks/{network['id']}"):
        assert client.delete(f"/v2.0/{gone}").status_code == 204
        assert client.get(f"/v2.0/{gone}").status_code == 404
    error(client.get(f"/v2.0/networks/{network['id']}"), 404, "NetworkNotFound")


def test_lists_filter_page_and_choose_fields(serve):
    client = serve()
    ids = [made(client, "network", name=f"n{i % 2}")["id"] for i in range(5)]
    made(client, "subnet", network_id=ids[0], cidr="10.1.0.0/24", name="s")
    port = made(client, "port", network_id=ids[0], device_id="d1", device_owner="compute:x")

    def got(path):
        answer = client.get(f"/v2.0/{path}")
        assert answer.status_code == 200, answer.text
        return [row["id"] for row in answer.json()[path.split("?")[0]]]

    assert got("networks") == ids
    assert got("networks?name=n1") == [ids[1], ids[3]]
    assert got(f"networks?id={ids[0]}&id={ids[4]}") == [ids[0], ids[4]]
    assert got("networks?shared=true") == []
    assert got("networks?sort_key=name&sort_dir=desc&sort_key=id&sort_dir=asc")[:2] == sorted(ids[1:4:2])
    assert got(f"ports?network_id={ids[0]}&device_id=d1") == [port["id"]]
    assert got("ports?fixed_ips=ip_address=10.1.0.2") == [port["id"]]
    assert got("ports?fixed_ips=ip_address%3D10.1.0.3") == []
    assert got("subnets?name=other") == []
    first = client.get("/v2.0/networks?limit=2&fields=id&fields=name").json()
    assert first["networks"] == [{"id": ids[0], "name": "n0"}, {"id": ids[1], "name": "n1"}]
    seen, pages, url = [], 0, "/v2.0/networks?limit=2"
    while url and pages < 10:
        answer = client.get(url).json()
        seen += [row["id"] for row in answer["networks"]]
        pages += 1
        url = answer.get("networks_links", [{"href": None}])[0]["href"]
    assert (seen, pages) == (ids, 3)
    for bad in ("colour=red", "limit=-1", "limit=x", "marker=nothing", "sort_key=colour"):
        error(client.get(f"/v2.0/networks?{bad}"), 400, "HTTPBadRequest")


def test_who_may_do_what(serve):
    network = made(serve(), "network", name="web")
    path = f"/v2.0/networks/{network['id']}"
    assert serve(None).get("/v2.0/networks").status_code == 401
    assert serve("wrong").get("/v2.0/networks").json()["error"]["code"] == 401
    error(serve("O").get(path), 404, "NetworkNotFound")
    error(serve("O").delete(path), 404, "NetworkNotFound")
    assert serve("O").get("/v2.0/networks").json() == {"networks": []}
    assert serve("R").get(path).status_code == 200
    error(serve("R").put(path, json={"network": {"name": "x"}}), 403, "PolicyNotAuthorized")
    error(serve("R").post("/v2.0/networks", json={"network": {}}), 403, "PolicyNotAuthorized")
    error(serve().post("/v2.0/networks", json={"network": {"tenant_id": "red"}}), 403, "PolicyNotAuthorized")
    assert made(serve("A"), "network", project_id="red")["project_id"] == "red"
    assert len(serve("A").get("/v2.0/networks").json()["networks"]) == 2


def test_without_a_token_only_where_that_is_set(serve):
    open_door = {"anonymous": CALLERS["A"]}
    assert made(serve(None, **open_door), "network")["project_id"] == "ops"
    assert serve("notused", **open_door).get("/v2.0/networks").status_code == 200  # --os-auth-type none
    assert serve("notused").get("/v2.0/networks").status_code == 401
    assert serve("wrong", **open_door).get("/v2.0/networks").status_code == 401


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"network": ' * 50_000, "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "one JSON object"),
        (b"{}", "one JSON object"),
        (b'{"subnet": {}}', "one JSON object"),
        (b'{"network": []}', "one JSON object"),
        (b'{"network": {"colour": "red"}}', "colour"),
        (b'{"network": {"name": 7}}', "name"),
        (b'{"network": {"name": "\\ud800"}}', "name"),
        (b'{"network": {"mtu": 1e400}}', "mtu"),
        (b'{"network": {"mtu": 60}}', "mtu"),
        (b'{"network": {"router:external": true}}', "router:external"),
        (b'{"network": {"provider:network_type": "vlan"}}', "provider"),
        (b'{"network": {"tags": ["' + b"x" * 61 + b'"]}}', "tags"),
        (b'{"network": {"name": "' + b"x" * 256 + b'"}}', "name"),
        (b'{"network": {"project_id": "a", "tenant_id": "b"}}', "differ"),
    ],
)
def test_bad_bodies(serve, body, words):
    answer = serve().post("/v2.0/networks", data=body)
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["NeutronError"]["message"]
    assert serve("A").get("/v2.0/networks").json() == {"networks": []}


def test_a_long_body_a_wrong_method_and_an_unknown_path(serve):
    error(serve().post("/v2.0/networks", data=b" " * 10_000_000), 413, "HTTPException")
    error(serve().request("PATCH", "/v2.0/networks"), 405, "HTTPException")
    error(serve().get("/v2.0/routers"), 404, "HTTPException")
    error(serve().get("/v2.0/networks/%00%ff"), 404, "NetworkNotFound")


@pytest.mark.parametrize(
    "fields",
    [
        {"cidr": "10.1.0.0"},
        {"cidr": "0.0.0.0/0"},
        {"cidr": "224.0.0.0/24"},
        {"cidr": "10.1.0.0/33"},
        {"cidr": ["10.1.0.0/24"]},
        {"cidr": "10.1.0.0/24", "ip_version": 5},
        {"cidr": "10.1.0.0/24", "gateway_ip": "fe80::1%eth0"},
        {"cidr": "10.1.0.0/24", "allocation_pools": [{"start": "10.1.0.4"}]},
        {"cidr": "10.1.0.0/24", "allocation_pools": [["10.1.0.4", "10.1.0.5"]]},
        {"cidr": "10.1.0.0/24", "host_routes": [{"destination": "x", "nexthop": "y"}]},
        {"cidr": "10.1.0.0/24", "ipv6_address_mode": "magic"},
    ],
)
def test_bad_subnets(serve, fields):
    network = made(serve(), "network")
    answer = serve().post("/v2.0/subnets", json={"subnet": {"network_id": network["id"], **fields}})
    assert answer.status_code == 400, answer.text
    assert answer.json()["NeutronError"]["message"]


def test_what_the_kernel_refuses_is_a_500_with_a_sentence(serve, site):
    client = serve()
    site.kernel.refuse = {"make_bridge"}
    message = error(client.post("/v2.0/networks", json={"network": {}}), 500, "SiteRefused")
    assert "told to refuse" in message
    assert client.get("/v2.0/networks").json() == {"networks": []}
