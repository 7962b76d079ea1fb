"""The Neutron-shaped REST of a linux site, so that `openstack network|subnet|port` work on it.

Paths and forms are those of the Networking API v2.0. Who asks comes from `X-Auth-Token` through
`authenticate`; without a token only where an `anonymous` caller is set (`--os-auth-type none`), which is
for a listener that none but the operator can reach.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from diminet.errors import DiminetError, NotAuthenticated, Unavailable
from diminet.messages import Caller
from diminet.south.linux.vim import LinuxVim
from diminet.south.linux.vim_access import Actor
from diminet.south.linux.vim_errors import BadRequest, VimError
from diminet.south.linux.vim_requests import (
    NetworkCreate,
    NetworkUpdate,
    PortCreate,
    PortUpdate,
    SubnetCreate,
    SubnetUpdate,
    parse,
    parse_tags,
)
from diminet.south.linux.vim_tables import NetworkRow, PortRow, SubnetRow
from diminet.south.linux.vim_views import View, choose_fields, network_view, page, port_view, subnet_view

MAX_BODY = 1 << 20  # bytes
NO_TOKEN = "notused"  # noqa: S105  # what keystoneauth sends for `--os-auth-type none`

Authenticate = Callable[[str], Awaitable[Caller]]

EXTENSIONS = (
    ("net-mtu", "Network MTU"),
    ("net-mtu-writable", "Network MTU (writable)"),
    ("standard-attr-description", "standard-attr-description"),
    ("standard-attr-tag", "Tag support for resources with standard attribute"),
    ("standard-attr-timestamp", "Resource timestamps"),
    ("standard-attr-revisions", "Resource revision numbers"),
    ("project-id", "project_id field enabled"),
    ("port-security", "Port Security"),
    ("binding", "Port Binding"),
    ("pagination", "Pagination support"),
    ("sorting", "Sorting support"),
    ("filter-validation", "Filter parameters validation"),
)


class Resource(NamedTuple):
    """One collection of the API. Its functions take the acting one first, then ids and bodies."""

    noun: str
    create_body: type[Any]
    update_body: type[Any]
    list: Callable[[Actor], Awaitable[Any]]
    show: Callable[[Actor, str], Awaitable[Any]]
    create: Callable[[Actor, Any], Awaitable[Any]]
    update: Callable[[Actor, str, Any], Awaitable[Any]]
    delete: Callable[[Actor, str], Awaitable[None]]

    @property
    def plural(self) -> str:
        return f"{self.noun}s"


def make_vim_app(
    vim: LinuxVim,
    authenticate: Authenticate,
    *,
    anonymous: Caller | None = None,
    max_body: int = MAX_BODY,
) -> FastAPI:
    """authenticate raises NotAuthenticated. anonymous: who acts when no token is sent; None: nobody."""
    app = FastAPI(title="networking service of a linux site", openapi_url=None)
    gate = _Gate(authenticate, anonymous, max_body)
    _add_errors(app)
    _add_documents(app, gate)
    for resource in _resources(vim):
        _add_resource(app, vim, gate, resource)
    return app


def _resources(vim: LinuxVim) -> tuple[Resource, ...]:
    return (
        Resource(
            "network",
            NetworkCreate,
            NetworkUpdate,
            vim.networks,
            vim.network,
            vim.create_network,
            vim.update_network,
            vim.delete_network,
        ),
        Resource(
            "subnet",
            SubnetCreate,
            SubnetUpdate,
            vim.subnets,
            vim.subnet,
            vim.create_subnet,
            vim.update_subnet,
            vim.delete_subnet,
        ),
        Resource(
            "port",
            PortCreate,
            PortUpdate,
            vim.ports,
            vim.port,
            vim.create_port,
            vim.update_port,
            vim.delete_port,
        ),
    )


class _Gate:
    """What every request passes: who asks, and a body that is not too large."""

    def __init__(self, authenticate: Authenticate, anonymous: Caller | None, max_body: int) -> None:
        self._authenticate = authenticate
        self._anonymous = anonymous
        self._max_body = max_body

    async def actor(self, request: Request) -> Actor:
        token = request.headers.get("x-auth-token", NO_TOKEN)
        if token != NO_TOKEN:
            caller = await self._authenticate(token)
        elif self._anonymous is not None:
            caller = self._anonymous
        else:
            raise NotAuthenticated("Send a token in X-Auth-Token.")
        return Actor(caller.project_id, caller.admin, caller.admin or "member" in caller.roles)

    async def body(self, request: Request) -> Any:
        raw = bytearray()
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > self._max_body:
                raise HTTPException(413, f"The body is longer than {self._max_body} bytes; send less.")
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise BadRequest("MalformedRequestBody", "The body is not valid JSON; correct it.") from error


def _add_documents(app: FastAPI, gate: _Gate) -> None:
    def base(request: Request) -> str:
        return str(request.base_url).rstrip("/")

    @app.get("/")
    async def versions(request: Request) -> View:
        link = {"rel": "self", "href": f"{base(request)}/v2.0/"}
        return {"versions": [{"id": "v2.0", "status": "CURRENT", "links": [link]}]}

    @app.get("/v2.0")
    @app.get("/v2.0/")
    async def version(request: Request) -> View:
        await gate.actor(request)
        return {
            "resources": [
                {
                    "name": noun,
                    "collection": f"{noun}s",
                    "links": [{"rel": "self", "href": f"{base(request)}/v2.0/{noun}s"}],
                }
                for noun in ("network", "subnet", "port", "extension")
            ]
        }

    @app.get("/v2.0/extensions")
    async def extensions(request: Request) -> View:
        await gate.actor(request)
        return {"extensions": [_extension(alias, name) for alias, name in EXTENSIONS]}

    @app.get("/v2.0/extensions/{alias}")
    async def extension(request: Request, alias: str) -> View:
        await gate.actor(request)
        for known, name in EXTENSIONS:
            if known == alias:
                return {"extension": _extension(alias, name)}
        raise HTTPException(404, f"Extension with alias {alias} does not exist.")


def _extension(alias: str, name: str) -> View:
    return {"alias": alias, "name": name, "description": name, "links": [], "updated": "2026-11-01T00:00:00Z"}


def _add_resource(app: FastAPI, vim: LinuxVim, gate: _Gate, resource: Resource) -> None:
    many, one = f"/v2.0/{resource.plural}", f"/v2.0/{resource.plural}/{{id_}}"

    async def view(row: Any) -> View:
        if isinstance(row, NetworkRow):
            return network_view(row, (await vim.subnet_ids(row.id)).get(row.id, ()))
        return _view(vim, row)

    @app.get(many)
    async def list_(request: Request) -> View:
        rows = await resource.list(await gate.actor(request))
        if resource.noun == "network":
            subnets = await vim.subnet_ids()
            views = [network_view(row, subnets.get(row.id, ())) for row in rows]
        else:
            views = [_view(vim, row) for row in rows]
        url = str(request.url.replace(query=""))
        return page(resource.plural, views, request.query_params, url)

    @app.get(one)
    async def show(request: Request, id_: str) -> View:
        row = await resource.show(await gate.actor(request), id_)
        return {resource.noun: choose_fields(await view(row), request.query_params)}

    @app.post(many, status_code=201)
    async def create(request: Request) -> View:
        actor = await gate.actor(request)
        body = parse(resource.create_body, resource.noun, await gate.body(request))
        return {resource.noun: await view(await resource.create(actor, body))}

    @app.put(one)
    async def update(request: Request, id_: str) -> View:
        actor = await gate.actor(request)
        body = parse(resource.update_body, resource.noun, await gate.body(request))
        return {resource.noun: await view(await resource.update(actor, id_, body))}

    @app.delete(one, status_code=204)
    async def delete(request: Request, id_: str) -> Response:
        await resource.delete(await gate.actor(request), id_)
        return Response(status_code=204)

    @app.get(f"{one}/tags")
    async def show_tags(request: Request, id_: str) -> View:
        return {"tags": list((await resource.show(await gate.actor(request), id_)).tags)}

    @app.put(f"{one}/tags")
    async def set_tags(request: Request, id_: str) -> View:
        actor = await gate.actor(request)
        tags = parse_tags(await gate.body(request))
        await vim.set_tags(actor, resource.plural, id_, tags)
        return {"tags": list(tags)}

    @app.delete(f"{one}/tags", status_code=204)
    async def delete_tags(request: Request, id_: str) -> Response:
        await vim.set_tags(await gate.actor(request), resource.plural, id_, ())
        return Response(status_code=204)


def _view(vim: LinuxVim, row: SubnetRow | PortRow) -> View:
    if isinstance(row, SubnetRow):
        return subnet_view(row)
    return port_view(row, vim.wiring.instance_path(row.instance) if row.instance else None)


# -- errors ----------------------------------------------------------------------------------------


def _neutron(status: int, type_: str, message: str, detail: str = "") -> JSONResponse:
    error = {"NeutronError": {"type": type_, "message": message, "detail": detail}}
    return JSONResponse(error, status_code=status)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(VimError)
    async def refused(_request: Request, error: VimError) -> Response:
        return _neutron(error.status, error.type, error.message, error.detail)

    @app.exception_handler(NotAuthenticated)
    async def unauthenticated(_request: Request, error: NotAuthenticated) -> Response:
        body = {"error": {"code": 401, "title": "Unauthorized", "message": error.message}}
        return JSONResponse(body, status_code=401, headers={"WWW-Authenticate": "X-Auth-Token"})

    @app.exception_handler(DiminetError)
    async def failed(_request: Request, error: DiminetError) -> Response:
        status = 503 if isinstance(error, Unavailable) else 500
        return _neutron(status, type(error).__name__, error.message)

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> Response:
        answer = _neutron(error.status_code, "HTTPException", str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def bug(_request: Request, _error: Exception) -> Response:
        return _neutron(500, "HTTPInternalServerError", "A bug; the service's log has the details.")
