"""`/openapi.json`: what FastAPI cannot see by itself, since bodies and queries are read by our own rules."""

import re
from collections.abc import Callable
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from diminet.north.access import TOKEN_HEADER
from diminet.north.errors import CODES_BY_STATUS, PROBLEM, STATUS
from diminet.north.preconditions import MAX_IDEMPOTENCY_KEY, REQUEST_ID_HEADER, VERSION_HEADER
from diminet.north.queries import NoQuery, parameters
from diminet.north.schemas import (
    CreateAsked,
    ErrorAnswer,
    ForgetAsked,
    JoinAsked,
    ModifyAsked,
    MoreRoomAsked,
    ProblemAnswer,
    TakeoverAsked,
)

REFERENCE = "#/components/schemas/{model}"
UNREFERENCED: tuple[type[BaseModel], ...] = (
    CreateAsked,
    ModifyAsked,
    JoinAsked,
    MoreRoomAsked,
    TakeoverAsked,
    ForgetAsked,
    ErrorAnswer,
    ProblemAnswer,
)
EVERYWHERE = (400, 401, 403, 406, 429, 500, 503)
"""What any operation with a token may answer."""


def header(name: str, description: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    """A request header that an operation reads."""
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": schema or {"type": "string"},
    }


IF_MATCH = header(
    "If-Match",
    'ETag of the service as you know it, e.g. "1.3-7"; 412 if it has changed',
    {"type": "string", "pattern": r'^(\*|"[!#-~]{0,128}")$'},
)
COMMON_HEADERS = (
    header(REQUEST_ID_HEADER, "your id for this request; made if missing; answered, logged, handed to peers"),
    header(VERSION_HEADER, "`intersite 1.N` or `intersite latest`; 406 outside the range"),
)


PREFER = header("Prefer", "respond-async: 202 at once")
IDEMPOTENCY_KEY = header(
    "Idempotency-Key",
    "same key and body within 24 h: same service; best a new UUID",
    {"type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_KEY, "pattern": "^[!-~]+$"},
)
LAST_EVENT_ID = header(
    "Last-Event-ID",
    "go on after that event; goes before `marker`",
    {"type": "string", "pattern": "^[0-9]{1,18}$"},
)


def content(media: str, kind: str = "string") -> dict[str, Any]:
    """An answer that is no model."""
    return {"content": {media: {"schema": {"type": kind}}}}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Responses for those statuses, with the codes that they stand for."""
    return {
        status: {
            "description": "; ".join(f"`{code}`: {STATUS[code][1]}" for code in CODES_BY_STATUS[status]),
            "content": {
                "application/json": {"schema": {"$ref": REFERENCE.format(model="ErrorAnswer")}},
                PROBLEM: {"schema": {"$ref": REFERENCE.format(model="ProblemAnswer")}},
            },
            **({"headers": _retry_after()} if status in (429, 503) else {}),
        }
        for status in sorted({*EVERYWHERE, *statuses})
    }


def _retry_after() -> dict[str, Any]:
    return {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}}


def etag(location: bool = False) -> dict[str, Any]:
    """Headers of an answer that holds a service."""
    text = {"schema": {"type": "string"}}
    headers: dict[str, Any] = {"ETag": {"description": "its pair, the same at all members", **text}}
    return {
        "headers": headers | ({"Location": {"description": "URL of the service", **text}} if location else {})
    }


def reads(
    *headers: dict[str, Any], query: type[NoQuery] = NoQuery, body: type[BaseModel] | None = None
) -> dict[str, Any]:
    """`openapi_extra` of an operation with a token."""
    described: dict[str, Any] = {
        "parameters": [*parameters(query), *headers, *COMMON_HEADERS],
        "security": [{"token": []}],
    }
    if body is not None:
        schema = {"$ref": REFERENCE.format(model=body.__name__)}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def describer(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """A function for `app.openapi`; the document is made once."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    return describe


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for model in UNREFERENCED:
        schema = model.model_json_schema(ref_template=REFERENCE)
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    components["securitySchemes"] = {
        "token": {
            "type": "apiKey",
            "in": "header",
            "name": TOKEN_HEADER,
            "description": "a token of this site",
        }
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _path_parameters(path, operation)
    return document


PATH_PARAMETERS = {
    "service_id": {"type": "string", "format": "uuid"},
    "site": {"type": "string", "minLength": 1, "maxLength": 63},
    "resource_id": {"type": "string", "minLength": 1, "maxLength": 255},
}


def _path_parameters(path: str, operation: dict[str, Any]) -> None:
    """Handlers take the request alone, so FastAPI does not name them."""
    names = re.findall(r"{(\w+)}", path)
    described = operation.setdefault("parameters", [])
    for name in reversed(names):
        described.insert(0, {"name": name, "in": "path", "required": True, "schema": PATH_PARAMETERS[name]})


# -- a page for people -------------------------------------------------------------------------------

_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}
code,pre{{font-family:ui-monospace,monospace;background:#8881;padding:.1em .3em}}
h2{{margin-top:2.5rem;border-top:1px solid #8884;padding-top:1rem;font-size:1.1rem}}
table{{border-collapse:collapse}}td,th{{text-align:left;padding:.2rem .8rem .2rem 0;vertical-align:top}}
</style></head><body><h1>{title}</h1><p>{description}</p>
<p>For programs: <a href="openapi.json">openapi.json</a>. The table at the end has every error code.</p>
{operations}<h2>Errors</h2><table><tr><th>status</th><th>code</th><th>meaning</th></tr>{errors}</table>
</body></html>"""


def docs_page(document: dict[str, Any]) -> str:
    """`/docs`: without scripts and without anything from elsewhere, since a site may have no Internet."""
    operations = "".join(
        _operation(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    errors = "".join(
        f"<tr><td>{status}</td><td><code>{code}</code></td><td>{escape(title)}</td></tr>"
        for code, (status, title) in STATUS.items()
    )
    info = document["info"]
    return _PAGE.format(
        title=escape(info["title"]),
        description=escape(info.get("description", "")),
        operations=operations,
        errors=errors,
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(p['name'])}</code></td><td>{p['in']}</td>"
        f"<td>{escape(p.get('description', ''))}</td></tr>"
        for p in operation.get("parameters", [])
    )
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    sends = f"<p>Body: <code>{escape(body['$ref'].rsplit('/', 1)[1])}</code></p>" if body else ""
    answers = ", ".join(operation["responses"])
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
        f"<p>{escape(operation.get('description', ''))}</p>{sends}<p>Answers: {escape(answers)}</p>"
        + (f"<table>{rows}</table>" if rows else "")
    )
