"""A secret is planted in every place where one enters: settings, environment, files of keys, tokens, clouds,
the tokens in headers at both doors, what Keystone answers. All logs (at `debug`), events, databases, metrics,
answers and what is printed are searched for it."""

import asyncio
import contextlib
import http.server
import io
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import sqlalchemy as sa
import structlog
from doors_world import NAMES, ROOT, Message, World, opened, reserve_request
from pydantic import SecretStr

from diminet.cli.main import main as diminet
from diminet.cloud import Cloud, Entry
from diminet.config import Settings
from diminet.config_limits import LimitSettings
from diminet.east_west import pki
from diminet.errors import BadSurroundings, DiminetError
from diminet.identity.file import FileIdentity, TokenEntry, hash_token, write
from diminet.identity.keystone import KeystoneIdentity
from diminet.lab.provision import toml
from diminet.listener import Listener
from diminet.messages import Context
from diminet.model import Initiator
from diminet.north.app import make_north_app
from diminet.store.tables import metadata
from diminet.telemetry import Metrics, configure_logging

PLANTED = "pl4nted-s3cret-0f-n0body"


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 120))


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that is logged, at `debug`, of every library."""
    root, text = logging.getLogger(), io.StringIO()
    before = (root.level, root.handlers[:])
    configure_logging("debug", text)
    yield text
    structlog.reset_defaults()
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def assert_nowhere(*texts: str | bytes) -> None:
    for text in texts:
        found = text if isinstance(text, str) else text.decode("latin-1")
        at = found.find(PLANTED)
        assert at < 0, f"…{found[max(0, at - 300) : at + 60]}…"


# -- settings, files, the environment ----------------------------------------------------------------

URLS = [
    f"postgresql//diminet:{PLANTED}@db/diminet",
    f"postgresql://diminet:{PLANTED}@db:port/diminet",
    f"postgresql://diminet:x/{PLANTED}@db/diminet",
    f"postgresql://diminet:8:{PLANTED}@db/diminet",
    f"postgresql+nosuch://diminet:{PLANTED}@db/diminet",
    f"mysql+pymysql://diminet:{PLANTED}@127.0.0.1:1/diminet",
    PLANTED,
]
CLOUDS = {
    "no YAML": f"clouds:\n  diminet:\n    auth: {{password: '{PLANTED}\n",
    "odd YAML": f"clouds: [diminet, {{password: {PLANTED}: x}}]\n",
    "no map": f"clouds: {PLANTED}\n",
    "no URL": f"clouds: {{diminet: {{auth: {{password: {PLANTED}}}}}}}\n",
    "no such type": f"clouds: {{diminet: {{auth_type: x, auth: {{password: {PLANTED}}}}}}}\n",
    "no such field": f"clouds: {{diminet: {{auth: {{auth_url: 'http://127.0.0.1:1', pass: {PLANTED}}}}}}}\n",
    "another entry": f"clouds: {{other: {{auth: {{password: {PLANTED}}}}}}}\n",
}
KEYS = {
    "no PEM": PLANTED,
    "half": f"-----BEGIN PRIVATE KEY-----\n{PLANTED}\n",
    "no base64": f"-----BEGIN PRIVATE KEY-----\n{PLANTED}\n-----END PRIVATE KEY-----\n",
}
TOKENS = {
    "no TOML": f'[[tokens]]\nsha256 = "{PLANTED}\n',
    "the token itself": f'[[tokens]]\nsha256 = "{PLANTED}"\nuser = "u"\nproject = "p"\nrole = "admin"\n',
    "a field too many": f'[[tokens]]\ntoken = "{PLANTED}"\n',
    "a value at the wrong place": f'tokens = ["{PLANTED}"]\n',
}
VALUES = {
    "limits": {"rate_burst": PLANTED},
    "site": {"name": f"a b {PLANTED}"},
    "north": {"public_url": f"{PLANTED}@x y"},
    "south": {"vtep_ip": PLANTED},
    "openstack": {"cloud": [PLANTED]},
}


def configured(home: Path, **changes: dict[str, Any]) -> Path:
    pki.init_ca(home / "ca")
    files = pki.issue(home / "ca", "A", ["127.0.0.1"], home / "pki")
    write(home / "identity.toml", [])
    (home / "sites.toml").write_text(
        '[[sites]]\nname = "A"\nnumber = 1\nnorth_url = "https://a:1"\neast_west_url = "https://a:2"\n'
    )
    sections: dict[str, dict[str, Any]] = {
        "site": {"name": "A", "number": 1, "data_dir": str(home)},
        "north": {"port": 0},
        "east_west": {name: str(getattr(files, name)) for name in ("ca", "cert", "key", "crl")},
        "identity": {"path": str(home / "identity.toml")},
        "directory": {"path": str(home / "sites.toml")},
        "south": {"kind": "neutron", "vtep_ip": "10.0.0.1"},
        "limits": {"storage_timeout": 0.2},
    }
    for name, settings in changes.items():
        sections.setdefault(name, {}).update(settings)
    path = home / "diminet.toml"
    path.write_text(toml(sections))
    return path


@pytest.fixture
def refuses(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """A function: files of the configuration (setting -> text), changes of it -> what `diminet serve` prints,
    which does not start; if it were to, it ends where it would listen."""
    root = logging.getLogger()
    before = (root.level, root.handlers[:])

    async def would_listen(*_: Any) -> None:
        raise BadSurroundings("it came as far as this")

    monkeypatch.setattr("diminet.app.listen", would_listen)
    monkeypatch.setenv("DIMINET_TRACEBACK", "1")

    def start(files: dict[tuple[str, str], str], **changes: dict[str, Any]) -> str:
        for (section, setting), text in files.items():
            path = tmp_path / f"{section}-{setting}"
            path.write_text(text)
            changes.setdefault(section, {})[setting] = str(path)
        path = configured(tmp_path, **changes)
        assert diminet(["serve", "--config", str(path)]) == 1
        told = capfd.readouterr()
        said = told.out + told.err
        assert_nowhere(said)
        assert "Traceback" not in said, said
        return said

    yield start
    structlog.reset_defaults()
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def test_an_instance_with_nothing_wrong_comes_as_far_as_listening(refuses):
    """So that what the others do not print is not for want of having been read."""
    auth = f"{{auth_url: 'http://127.0.0.1:1/v3', username: u, password: {PLANTED}, project_name: p}}"
    clouds = f"clouds: {{diminet: {{region_name: A, auth: {auth}}}}}"
    assert "as far as this" in refuses({("openstack", "file"): clouds}, log={"level": "debug"})


@pytest.mark.parametrize("url", URLS)
def test_a_password_in_a_database_url_that_is_wrong(refuses, url):
    assert "database" in refuses({}, database={"url": url})


@pytest.mark.parametrize("what", sorted(CLOUDS))
def test_a_password_in_clouds_yaml_that_is_wrong(refuses, what):
    refuses({("openstack", "file"): CLOUDS[what]})


@pytest.mark.parametrize("setting", ["key", "cert", "ca", "crl"])
@pytest.mark.parametrize("what", sorted(KEYS))
def test_a_private_key_that_is_wrong_or_at_the_wrong_place(refuses, what, setting):
    refuses({("east_west", setting): KEYS[what]})


@pytest.mark.parametrize("what", sorted(KEYS))
def test_a_private_key_of_the_north_door_that_is_wrong(refuses, what):
    refuses({("north", "tls_key"): KEYS[what], ("north", "tls_cert"): KEYS[what]})


@pytest.mark.parametrize("what", sorted(TOKENS))
def test_a_token_in_the_identity_file_that_is_wrong(refuses, what):
    refuses({("identity", "path"): TOKENS[what]})


@pytest.mark.parametrize("section", sorted(VALUES))
def test_a_secret_in_a_setting_where_none_belongs(refuses, section):
    refuses({}, **{section: VALUES[section]})


@pytest.mark.parametrize("variable", ["DIMINET_DATABASE__URL", "DIMINET_SOUTH", "DIMINET_LIMITS__RATE_BURST"])
def test_a_secret_in_the_environment(refuses, monkeypatch, variable):
    monkeypatch.setenv(variable, f"x//u:{PLANTED}@h")
    refuses({})


# -- both doors --------------------------------------------------------------------------------------


async def everything(world: World) -> str:
    """Every row of every database, events and all, every metric."""
    found = [world.metrics[name].text().decode() for name in NAMES]
    for name in NAMES:
        for table in metadata.sorted_tables:
            rows = await world.cloud.stores[name].read(
                lambda tx, t=table: [tuple(row) for row in tx._db.execute(sa.select(t))]
            )
            found.append(repr(rows))
    return "\n".join(found)


async def asked(url: str, headers: dict[str, str], service: str) -> list[str]:
    """Every operation of users, with a good and a bad body; headers and text of all answers."""
    entries = [{"site": "A", "resource_id": "none"}, {"site": "B", "resource_id": "none"}]
    good, bad = {"service": {"type": "l3", "resources": entries}}, {"service": {"name": 7}}
    one = f"/intersite-vertical/{service}"
    found = []
    async with aiohttp.ClientSession() as session:
        for method, path, body in (
            ("GET", "/", None),
            ("GET", "/metrics", None),
            ("GET", "/sites", None),
            ("GET", "/intersite-vertical", None),
            ("POST", "/intersite-vertical", good),
            ("POST", "/intersite-vertical", bad),
            ("GET", one, None),
            ("PUT", one, {"service": {"name": "renamed"}}),
            ("PUT", one, bad),
            ("POST", f"{one}/pools", {"pool": {}}),
            ("POST", f"{one}/resources", {"resource": {"site": "C"}}),
            ("DELETE", f"{one}/resources/Z", None),
            ("GET", f"{one}/events", None),
            ("GET", "/events", None),
            ("DELETE", one, None),
        ):
            async with session.request(method, url + path, headers=headers, json=body) as answer:
                found.append(f"{answer.status} {dict(answer.headers)} {await answer.text()}")
    return found


def test_a_users_token_at_the_north_door(tmp_path, log, capfd):
    """Good, unknown, expired, odd; and while what is asked meets a bug."""

    async def main():
        world = await opened()
        write(
            tmp_path / "identity.toml",
            [TokenEntry(sha256=hash_token(PLANTED), user="u", project="demo", role="admin")],
        )
        metrics = Metrics()
        limits = LimitSettings(rate_burst=100_000)
        settings = Settings(site={"name": "A", "number": 1}, south={"vtep_ip": "10.0.0.1"}, limits=limits)
        identity = FileIdentity(tmp_path / "identity.toml", "A")
        app = make_north_app(world.cloud["A"].requests, identity, metrics, _ready, settings)
        listener = Listener(app, "127.0.0.1", 0, grace_s=1)
        await listener.start()
        url, found = f"http://127.0.0.1:{listener.port}", []
        service = world.x.service_id
        for token in (f"{PLANTED}-unknown", f" {PLANTED} é", PLANTED * 100, f"Bearer {PLANTED}"):
            found += await asked(url, {"X-Auth-Token": token}, service)
        world.cloud["B"].put = _bug
        found += await asked(url, {"X-Auth-Token": PLANTED}, service)
        world.cloud["A"].requests.list = world.cloud["A"].requests.show = _bug
        found += await asked(url, {"X-Auth-Token": PLANTED}, service)
        assert any(text.startswith("500") for text in found)
        assert any(text.startswith("200") for text in found)
        await listener.stop()
        assert_nowhere(*found, await everything(world), metrics.text(), log.getvalue())
        assert "Traceback" in log.getvalue()
        await world.cloud.close()

    run(main())
    told = capfd.readouterr()
    assert_nowhere(told.out, told.err)


async def _ready() -> list[str]:
    return []


async def _bug(*arguments: Any, **more: Any) -> Any:
    raise ZeroDivisionError(f"a bug with {arguments!r} {more!r}")


def test_tokens_that_come_with_a_message_of_a_peer(log, capfd):
    """A user's and a service's, to an instance that takes them, refuses them, and meets a bug with them."""

    async def main():
        world = await opened()
        tokens = {"X-Auth-Token": PLANTED, "X-Service-Token": f"service-{PLANTED}"}
        odd = {"X-Auth-Token": f"two {PLANTED}"}, {"X-Service-Token": PLANTED * 2000}
        reserve = reserve_request(world, world.networks["B"])
        foreign = reserve_request(world, world.foreign)
        found = []
        for _ in range(2):
            for body in (reserve, foreign):
                for headers in (tokens, *odd):
                    message = Message("POST", ROOT, body.model_dump_json().encode(), headers=headers)
                    for project in ("demo", "other"):
                        answer = await world.send("A", "B", message._replace(project=project))
                        found.append(json.dumps(answer))
            for path in (f"/{world.x.service_id}/requests", "/nowhere"):
                message = Message("POST", ROOT + path, b'{"operation": "modify"}', headers=tokens)
                found.append(json.dumps(await world.send("A", "B", message)))
            world.cloud["B"].reserve = world.cloud["B"].hand_in = _bug
        assert any("internal-error" in text for text in found)
        assert_nowhere(*found, await everything(world), log.getvalue())
        assert "Traceback" in log.getvalue()
        await world.cloud.close()

    run(main())
    told = capfd.readouterr()
    assert_nowhere(told.out, told.err)


# -- Keystone ----------------------------------------------------------------------------------------


class Keystone(http.server.BaseHTTPRequestHandler):
    """Repeats whatever it was sent, secrets and all, in what it answers. how: as what."""

    how = "good"

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        told = " ".join(self.headers.get(f"X-{name}-Token", "") for name in ("Subject", "Auth", "Service"))
        told += self.rfile.read(length).decode()
        status, body = self._said(told)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Subject-Token", f"issued-{PLANTED}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer  # noqa: N815 - the names that http.server asks for

    def _said(self, told: str) -> tuple[int, bytes]:
        if self.path.rstrip("/") == "/v3":
            links = [{"rel": "self", "href": f"http://{self.headers['Host']}/v3"}]
            return 200, json.dumps({"version": {"id": "v3.14", "status": "stable", "links": links}}).encode()
        signing_in = self.command == "POST"
        token = {"token": {"expires_at": "2099-01-01T00:00:00Z", "user": {"id": "u"}, "methods": []}}
        error = json.dumps({"error": {"message": told, "title": told, "code": 400}}).encode()
        if signing_in and not self.how.startswith("in "):
            return 201, json.dumps(token).encode()
        how = self.how.removeprefix("in ")
        if how.isdigit():
            return int(how), error
        if how == "no JSON":
            return 200, told.encode()
        if how == "another JSON":
            return 200, json.dumps({"said": told}).encode()
        return 200, json.dumps(token).encode()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture(scope="module")
def sites_keystone(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[KeystoneIdentity, list[Cloud]]]:
    """The identity of site A, and the two clouds that it asks."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keystone)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    file = tmp_path_factory.mktemp("clouds") / "clouds.yaml"
    auth = {"auth_url": f"http://127.0.0.1:{server.server_port}/v3", "username": "diminet"}
    auth |= {"password": f"password-{PLANTED}", "project_name": "service"}
    auth |= {"user_domain_id": "default", "project_domain_id": "default"}
    file.write_text(json.dumps({"clouds": {"diminet": {"auth": auth, "region_name": "A"}}}))
    with contextlib.ExitStack() as stack:
        clouds = [Cloud(Entry("diminet", file, "A"), site="A", threads=2, timeout=10.0) for _ in range(2)]
        for cloud in clouds:
            stack.callback(cloud.close)
        identity = KeystoneIdentity(
            clouds[0], "A", cache_s=1e-9, away_s=1e-9, hand_on=True, vouch=tuple, peers_cloud=clouds[1]
        )
        yield identity, clouds
    server.shutdown()
    server.server_close()
    thread.join(10)


HOWS = ["good", "400", "401", "403", "500", "no JSON", "another JSON"]


@pytest.mark.parametrize("how", HOWS + [f"in {how}" for how in HOWS[1:]])
def test_what_keystone_is_told_and_says(sites_keystone, log, capfd, monkeypatch, how):
    keystone, clouds = sites_keystone
    for cloud in clouds:
        cloud.session.invalidate()

    async def main():
        monkeypatch.setattr(Keystone, "how", how)
        initiator = Initiator(user_id="u", project_id="demo", site="B")
        ctx = Context(request_id="req-1", initiator=initiator, sender="B")
        token = SecretStr(f"user-{PLANTED}")
        ctx = ctx.model_copy(update={"token": token, "service_token": SecretStr(f"service-{PLANTED}")})
        found = [repr(await keystone.problems())]
        for work in (
            lambda: keystone.authenticate(token.get_secret_value()),
            lambda: keystone.authorise(ctx, "demo"),
            lambda: keystone.outgoing(ctx),
        ):
            try:
                found.append(repr(await work()))
            except DiminetError as error:
                found.append(json.dumps(error.as_dict()))
        assert_nowhere(*found, log.getvalue())

    run(main())
    told = capfd.readouterr()
    assert_nowhere(told.out, told.err)
