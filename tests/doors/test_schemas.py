"""Both APIs of a production instance, asked by their own descriptions with good and with bad requests
(schemathesis over HTTP on loopback, always the same examples): never a 5xx, and as described."""

import asyncio
import importlib.util
import io
import json
import logging
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import structlog
from doors_world import (
    NAMES,
    World,
    block_request,
    certificates,
    entry_of,
    opened,
    report_of,
    reserve_request,
)
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from diminet.config import Settings
from diminet.config_limits import LimitSettings
from diminet.identity.file import FileIdentity, TokenEntry, hash_token, write
from diminet.listener import Listener
from diminet.model import Initiator, Ticket
from diminet.north.app import make_north_app
from diminet.telemetry import Metrics, configure_logging
from openapi_examples import each

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = ROOT / "docs" / "east-west-openapi.json"
EXAMPLES = 8
TOKEN = "a-token-of-the-project-demo"
WAIT_S = 60.0
PLAIN = {"/", "/openapi.json", "/docs", "/healthcheck", "/readyz", "/metrics"}
MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
PEERS = [("A", "B"), ("B", "A"), ("C", "B")]  # the master and a member, a member and the master, a stranger
ENDINGS = {"bury", "hand_in"}
ENVELOPE = {
    "X-OpenStack-Request-ID": "req-schemathesis",
    "DIMINET-Initiator": Initiator(user_id="u", project_id="demo", site="C").model_dump_json(),
    "DIMINET-Incarnation": "inc",
    "DIMINET-Protocol": "1.0",
}


def described() -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("described", ROOT / "scripts" / "east_west_openapi.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.document())


def test_the_description_between_instances_is_that_of_the_code():
    assert json.loads(WRITTEN.read_text()) == described(), (
        "run: .venv/bin/python scripts/east_west_openapi.py > docs/east-west-openapi.json"
    )


class Running:
    """Four sites in a thread of their own; A's north API, and east-west APIs as each of PEERS reaches them,
    on free ports of loopback. log: what the instances say."""

    def __init__(self, home: Path) -> None:
        self.log = io.StringIO()
        configure_logging("info", self.log)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.listeners: list[Listener] = []
        self.world: World = self.run(opened())
        write(
            home / "identity.toml",
            [TokenEntry(sha256=hash_token(TOKEN), user="u", project="demo", role="admin")],
        )
        limits = LimitSettings(rate_per_second=1e6, rate_burst=1_000_000)
        configured = Settings(site={"name": "A", "number": 1}, south={"vtep_ip": "10.0.0.1"}, limits=limits)
        identity = FileIdentity(home / "identity.toml", "A")
        requests = self.world.cloud["A"].requests
        self.north = self.serve(make_north_app(requests, identity, Metrics(), _ready, configured))
        self.doors = {
            (peer, to): self.serve(_as_if(self.world.app(to, rate_per_second=1e6), certificates()[peer]))
            for peer, to in PEERS
        }

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT_S)

    def serve(self, app: Any) -> str:
        listener = Listener(app, "127.0.0.1", 0, grace_s=1)
        self.run(listener.start())
        self.listeners.append(listener)
        return f"http://127.0.0.1:{listener.port}"

    def stop(self) -> None:
        for listener in self.listeners:
            self.run(listener.stop())
        self.run(self.world.settled())
        self.run(self.world.cloud.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(WAIT_S)
        self.loop.close()


async def _ready() -> list[str]:
    return []


def _as_if(app: Any, certificate: bytes) -> Any:
    """The app as that site reaches it: TLS would have proven the certificate."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "peer_certificate": certificate}, receive, send)

    return call


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    made = Running(tmp_path_factory.mktemp("schemas"))
    yield made
    made.stop()
    structlog.reset_defaults()
    root.setLevel(before[0])
    root.handlers[:] = before[1]


@pytest.fixture(autouse=True)
def no_bugs(request):
    """Nor has anything failed behind the answers."""
    yield
    if "running" in request.fixturenames:
        made = request.getfixturevalue("running")
        made.run(made.world.settled())
        assert [line for line in made.log.getvalue().splitlines() if '"bug' in line] == []


def checks(*names: str) -> list[Any]:
    found = [check for check in CHECKS.get_all() if check.__name__ in names]
    assert len(found) == len(names)
    return found


NORTH_CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance")
PEER_CHECKS = (*NORTH_CHECKS, "response_schema_conformance")


@pytest.mark.parametrize("mode", MODES)
def test_users_never_see_a_5xx(running, mode):
    schema = schemathesis.openapi.from_url(f"{running.north}/openapi.json")
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert len(operations) > 15
    services, turn = [running.world.x.service_id, running.world.y.service_id], count()

    for operation in operations:
        if mode == GenerationMode.NEGATIVE and operation.path in PLAIN:
            continue  # they read nothing, so nothing can be wrong

        def ask(case: Any) -> None:
            if "service_id" in case.path_parameters and mode == GenerationMode.POSITIVE:
                case.path_parameters["service_id"] = services[next(turn) % 2]
            case.headers = {**(case.headers or {}), "X-Auth-Token": TOKEN}
            response = case.call(timeout=WAIT_S)
            case.validate_response(response, checks=checks(*NORTH_CHECKS))

        each(operation, mode, ask, examples=EXAMPLES)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("peer", "to"), PEERS)
def test_peers_never_see_a_5xx(running, mode, peer, to):
    schema = schemathesis.openapi.from_dict(json.loads(WRITTEN.read_text()))
    operations = [operation.ok() for operation in schema.get_all_operations()]
    true, turn = true_bodies(running.world, peer), count()

    def ask(case: Any) -> None:
        number, kind = next(turn), case.operation.definition.raw["operationId"]
        if mode == GenerationMode.POSITIVE or number % 2:
            case.headers = ENVELOPE
        if mode == GenerationMode.POSITIVE:
            _aim(case, running.world.x.service_id, true.get(kind), peer, number)
        response = case.call(base_url=running.doors[peer, to], timeout=WAIT_S)
        case.validate_response(response, checks=checks(*PEER_CHECKS))

    for operation in sorted(operations, key=lambda o: o.definition.raw["operationId"] in ENDINGS):
        each(operation, mode, ask, examples=EXAMPLES)


def true_bodies(world: World, peer: str) -> dict[str, dict[str, Any]]:
    """Kind -> a body that is no nonsense, as that peer sends it."""
    number = NAMES.index(peer) + 1
    document = json.loads(world.x.model_dump_json()) | {"revision": 2}
    promise = reserve_request(world, world.networks["B"], ticket=Ticket(1, number, 1))
    return {
        "reserve": json.loads(promise.model_dump_json()),
        "put": {"document": document, "blocks": [json.loads(b.model_dump_json()) for b in world.blocks]},
        "bury": {"service_id": world.x.service_id, "document": document},
        "give": json.loads(block_request().model_dump_json()),
        "sync": json.loads(report_of(peer, entry_of(world.x)).model_dump_json()),
    }


def _aim(case: Any, service_id: str, true: dict[str, Any] | None, peer: str, number: int) -> None:
    """At a service that there is; of the true body one part is as it was generated, so that it is not
    refused at the first look."""
    if "service_id" in case.path_parameters:
        case.path_parameters["service_id"] = service_id
    if "member" in case.query:
        case.query["member"] = peer
    if true is None or not isinstance(case.body, dict):
        return
    inner = case.body.get("document")
    if isinstance(inner, dict) and number % 4:
        key = sorted(inner)[number // 4 % len(inner)]
        case.body = {**true, "document": {**true["document"], "revision": 2 + number, key: inner[key]}}
    elif case.body:
        key = sorted(case.body)[number // 4 % len(case.body)]
        case.body = {**true, key: case.body[key]}
