"""Writes what stands in docs/east-west-openapi.json to its standard output.

All of it is read from the code: paths from the server's table of routes, bodies and answers from the types of
`engine.ports.Horizontal`. tests/doors/test_schemas.py fails when the two differ, and asks a running instance
by the document.
"""

import json
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from diminet.east_west import envelope
from diminet.east_west.server import make_east_west_app
from diminet.engine.ports import Horizontal
from diminet.model import SITE_NAME, Initiator

REFERENCE = "#/components/schemas/{model}"
WORD = "^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"
SERVICE_ID = {"type": "string", "format": "uuid"}
QUERIES: dict[str, tuple[str, dict[str, Any]]] = {
    "abort": ("reservation", {"type": "string", "pattern": WORD}),
    "sync": ("member", {"type": "string", "pattern": SITE_NAME}),
}
"""Kind -> query parameter."""
INITIATOR = {"type": "string", "contentMediaType": "application/json"}
HEADERS: dict[str, tuple[bool, dict[str, Any]]] = {
    envelope.REQUEST_ID: (True, {"type": "string", "pattern": WORD}),
    envelope.INITIATOR: (True, INITIATOR | {"maxLength": envelope.MAX_INITIATOR_BYTES}),
    envelope.INCARNATION: (True, {"type": "string", "pattern": WORD}),
    envelope.PROTOCOL: (True, {"type": "string", "pattern": r"^1\.[0-9]{1,4}$"}),
    envelope.DEADLINE: (False, {"type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{1,9})?$"}),
}
"""Of every message; required, schema."""
ERROR = {
    "type": "object",
    "required": ["code", "message", "sites", "retry_after", "ticket", "networks"],
    "properties": {
        "code": {"enum": sorted(envelope.STATUS)},
        "message": {"type": "string"},
        "sites": {"type": "array", "items": {"type": "string"}},
        "retry_after": {"type": ["number", "null"]},
        "ticket": {"type": ["array", "null"], "items": {"type": "integer"}},
        "networks": {"type": "array", "items": {"type": "string"}},
    },
}


def document() -> dict[str, Any]:
    """The whole document."""
    models = {model for kind in kinds() for model in (body(kind)[0], answer(kind)) if model} | {Initiator}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema([(m, "validation") for m in ordered], ref_template=REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for path, methods in table().items():
        paths[path] = {
            method.lower(): _operation(kind, path, shared) for method, (kind, shared) in methods.items()
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "DIMINET, between instances",
            "version": envelope.protocol(),
            "description": "Mutual TLS; who speaks is the site in the certificate. See docs/protocol.md.",
        },
        "paths": paths,
        "components": {"parameters": _headers(), "schemas": schemas["$defs"] | {"Error": ERROR}},
    }


def _headers() -> dict[str, Any]:
    return {
        name: {"name": name, "in": "header", "required": required, "schema": schema}
        for name, (required, schema) in HEADERS.items()
    }


def table() -> dict[str, dict[str, tuple[str, tuple[str, ...]]]]:
    """Path -> method -> (kind, other kinds that a query parameter makes of it)."""
    app = make_east_west_app(
        None,  # type: ignore[arg-type]
        site_name="",
        directory=None,  # type: ignore[arg-type]
        incarnation=str,
        received=lambda *_: None,
        revoked=lambda _: False,
    )
    found: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {}
    for route in app.routes:
        answers = route.endpoint._answers  # type: ignore[attr-defined]
        if answers:
            found[route.path] = {  # type: ignore[attr-defined]
                method: (kind, ("abort",) if kind == "bury" else ()) for method, (kind, _) in answers.items()
            }
    return found


def kinds() -> list[str]:
    return [name for name in vars(Horizontal) if not name.startswith("_")]


def body(kind: str) -> tuple[type[BaseModel] | None, bool]:
    """The model of its body, and whether it may be left out."""
    hints = get_type_hints(getattr(Horizontal, kind))
    hints.pop("return")
    hints.pop("ctx")
    for hint in hints.values():
        optional = get_origin(hint) is UnionType
        for one in get_args(hint) if optional else (hint,):
            if isinstance(one, type) and issubclass(one, BaseModel):
                return one, optional or kind == "bury"
    return None, False


def answer(kind: str) -> type[BaseModel] | None:
    said = get_type_hints(getattr(Horizontal, kind))["return"]
    return said if isinstance(said, type) and issubclass(said, BaseModel) else None


def _operation(kind: str, path: str, shared: tuple[str, ...]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [{"$ref": f"#/components/parameters/{name}"} for name in HEADERS]
    if "{service_id}" in path:
        parameters.append({"name": "service_id", "in": "path", "required": True, "schema": SERVICE_ID})
    for one in (kind, *shared):
        if one in QUERIES:
            name, schema = QUERIES[one]
            parameters.append({"name": name, "in": "query", "required": one == kind, "schema": schema})
    operation: dict[str, Any] = {
        "operationId": kind,
        "description": " or ".join((kind, *(f"{one}, with its query" for one in shared))),
        "parameters": parameters,
        "responses": _responses(kind, shared),
    }
    model, optional = body(kind)
    if model is not None:
        operation["requestBody"] = {
            "required": not optional,
            "content": {"application/json": {"schema": {"$ref": REFERENCE.format(model=model.__name__)}}},
        }
    return operation


def _responses(kind: str, shared: tuple[str, ...]) -> dict[str, Any]:
    model = answer(kind)
    said: dict[str, Any] = {}
    if model is not None:
        schema = {"$ref": REFERENCE.format(model=model.__name__)}
        said["200"] = {"description": model.__name__, "content": {"application/json": {"schema": schema}}}
    if model is None or shared:
        said["204"] = {"description": "done"}
    refused = {"application/json": {"schema": {"$ref": REFERENCE.format(model="Error")}}}
    for status in sorted(set(envelope.STATUS.values())):
        codes = sorted(code for code, number in envelope.STATUS.items() if number == status)
        said[str(status)] = {"description": ", ".join(codes), "content": refused}
    return said


if __name__ == "__main__":
    print(json.dumps(document(), indent=1))
