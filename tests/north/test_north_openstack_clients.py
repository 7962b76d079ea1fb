"""What OpenStack clients show of every refusal: they all stand on keystoneauth, which makes an exception of
the answer, and openstacksdk makes its own of that answer."""

from collections.abc import Callable, Iterator

import openstack
import pytest
from keystoneauth1.adapter import Adapter
from keystoneauth1.exceptions import http
from keystoneauth1.session import Session
from keystoneauth1.token_endpoint import Token
from north_double import MEMBER, READER
from north_world import North, l3
from openstack import exceptions as sdk
from openstack.proxy import Proxy

from diminet import errors
from diminet.errors import DiminetError
from diminet.north.errors import STATUS

ROOT = "/intersite-vertical"
SHOW = f"{ROOT}/00000000-0000-4000-8000-000000000000"
ABSTRACT = {errors.NotFound, errors.Conflict, errors.Unavailable}  # have no code of their own
ELSEWHERE = {errors.BadSurroundings}  # at start-up, before anything is served


def subclasses(kind: type[DiminetError]) -> Iterator[type[DiminetError]]:
    for sub in kind.__subclasses__():
        if sub.__module__ in ("diminet.errors", "diminet.north.errors"):
            yield sub
        yield from subclasses(sub)


REFUSALS = sorted(set(subclasses(DiminetError)) - ABSTRACT - ELSEWHERE, key=lambda kind: kind.code)
KEYSTONEAUTH = {
    400: http.BadRequest,
    401: http.Unauthorized,
    403: http.Forbidden,
    404: http.NotFound,
    405: http.MethodNotAllowed,
    406: http.NotAcceptable,
    409: http.Conflict,
    412: http.PreconditionFailed,
    413: http.RequestEntityTooLarge,
    428: http.HTTPClientError,
    429: http.TooManyRequests,
    500: http.InternalServerError,
    503: http.ServiceUnavailable,
}


def message_of(kind):
    return f"what {kind.code} says of site lyon: do this"


@pytest.fixture
def clients() -> Iterator[Callable[..., list[Adapter]]]:
    """north, token -> an adapter as python-*client has them, and an openstacksdk proxy."""
    connections = []

    def make(north: North, token: str = MEMBER) -> list[Adapter]:
        endpoint = f"http://127.0.0.1:{north.port}"
        connection = openstack.connect(
            auth_type="admin_token",
            auth={"endpoint": endpoint, "token": token},
            load_yaml_config=False,
            load_envvars=False,
        )
        connections.append(connection)  # the proxy has but a weak reference to it
        proxy = Proxy(
            connection.session, service_type="intersite", endpoint_override=endpoint, status_code_retries=0
        )
        return [Adapter(Session(auth=Token(endpoint, token)), endpoint_override=endpoint), proxy]

    yield make
    for connection in connections:
        connection.close()


def refused(client, method, path, **more):
    """The exception that the user of such a client gets."""
    with pytest.raises((http.HttpError, sdk.HttpException)) as raised:
        asked(client, method, path, **more)
    return raised.value


def asked(client, method, path, **more):
    """As the calls of openstacksdk do it, whose proxies themselves raise nothing."""
    sdk.raise_from_response(client.request(path, method, **more))


def test_every_refusal_has_a_client_exception():
    assert {STATUS[kind.code][0] for kind in REFUSALS} == set(KEYSTONEAUTH)
    assert {kind.code for kind in REFUSALS} == set(STATUS)


@pytest.mark.parametrize("kind", REFUSALS, ids=lambda kind: kind.code)
def test_the_sentence_of_every_refusal_is_what_the_user_reads(north, clients, kind):
    for client in clients(north):
        north.requests.fails["show"] = kind(message_of(kind), sites=["lyon"])
        error = refused(client, "GET", SHOW)
        status = STATUS[kind.code][0]
        if isinstance(error, http.HttpError):
            assert type(error) is KEYSTONEAUTH[status]
            assert error.http_status == status
            assert error.request_id == error.response.headers["X-OpenStack-Request-ID"]
        else:
            assert error.status_code == status
        assert message_of(kind) in str(error)
        assert error.response.json()["error"]["sites"] == ["lyon"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("POST", ROOT, {"json": {"service": l3(nonsense=1)}}), "service.nonsense"),
        (("POST", ROOT, {"json": {"service": l3()}, "token": READER}), "member"),
        (("GET", ROOT, {"token": "unknown"}), "this site does not know this token"),
        (("GET", SHOW, {}), "there is no service"),
        (("GET", "/nope", {}), "there is no such path"),
        (("DELETE", ROOT, {}), "it takes GET, HEAD, OPTIONS, POST"),
        (("GET", ROOT, {"headers": {"OpenStack-API-Version": "intersite 1.99"}}), "speaks intersite 1.0"),
        (("POST", ROOT, {"data": b" " * 5000, "headers": {"Content-Type": "application/json"}}), "4096"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_api_itself_refuses_is_read_too(serve_north, clients, asked, said):
    method, path, more = asked
    token, more = more.get("token", MEMBER), {key: more[key] for key in more if key != "token"}
    north = serve_north(body_bytes=4096)
    for client in clients(north, token):
        assert said in str(refused(client, method, path, **more))


def test_too_many_requests_and_a_missing_if_match_are_read_too(serve_north, clients):
    north = serve_north(rate_per_second=0.001, rate_burst=3)
    path = f"{ROOT}/{north.create()['id']}"
    adapter, proxy = clients(north)
    change = {"json": {"service": {"resources": l3()["resources"]}}}
    assert "If-Match" in str(refused(adapter, "PUT", path, **change))
    assert "If-Match" in str(refused(proxy, "PUT", path, **change))
    assert "times per second" in str(refused(adapter, "GET", path))
    assert "times per second" in str(refused(proxy, "GET", path))
