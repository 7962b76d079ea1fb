"""Query parameters: models of what each operation knows; everything else is refused."""

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from diminet.errors import InvalidRequest
from diminet.model import ProvisioningStatus, SiteName
from diminet.north.bodies import problems
from diminet.north.schemas import MAX_NAME, MAX_TAG, MAX_TAGS, Name, ServiceType

MAX_TAGS_TEXT = MAX_TAGS * (MAX_TAG + 1)  # characters
UUID_PATTERN = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"


class NoQuery(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ListQuery(NoQuery):
    limit: int | None = Field(None, ge=1, description="services of a page; its maximum is a setting (1000)")
    marker: str | None = Field(
        None, pattern=UUID_PATTERN, description="id of the last service of the page before"
    )
    sort_key: Literal["created_at", "updated_at", "name", "type", "status", "id"] = "created_at"
    sort_dir: Literal["asc", "desc"] = "asc"
    type: ServiceType | None = None
    name: Name | None = Field(None, max_length=MAX_NAME)
    status: ProvisioningStatus | None = Field(None, description="provisioning status; REVOKED only here")
    site: SiteName | None = None
    project_id: str | None = Field(None, min_length=1, max_length=255)
    tags: str | None = Field(
        None, min_length=1, max_length=MAX_TAGS_TEXT, description="a,b: services that have all of these"
    )


class EventsQuery(NoQuery):
    limit: int | None = Field(None, ge=1, description="events of a page; its maximum is a setting (1000)")
    marker: int = Field(0, ge=0, le=2**63 - 1, description="id of the last event of the page before")


Q = TypeVar("Q", bound=NoQuery)


def query(request: Request, model: type[Q]) -> Q:
    """Raises InvalidRequest for an unknown, doubled or bad parameter."""
    pairs = request.query_params.multi_items()
    names = [name for name, _ in pairs]
    unknown = sorted({name for name in names if name not in model.model_fields})
    if unknown:
        known = ", ".join(model.model_fields) or "none"
        raise InvalidRequest(f"there is no query parameter {unknown[0][:80]!r} here; there are: {known}")
    if len(set(names)) != len(names):
        raise InvalidRequest("a query parameter is there twice; send each once")
    try:
        return model.model_validate(dict(pairs))
    except ValidationError as error:
        raise InvalidRequest(problems(error.errors(include_url=False), "query")) from None


def page(limit: int | None, *, default: int, most: int) -> int:
    """Raises InvalidRequest."""
    if limit is not None and limit > most:
        raise InvalidRequest(f"limit: at most {most} at this site; use marker for the next page")
    return min(default, most) if limit is None else limit


def parameters(model: type[NoQuery]) -> list[dict[str, Any]]:
    """As OpenAPI describes them."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": content.pop("description", ""),
            "schema": _inlined(content, definitions),
        }
        for name, content in schema.get("properties", {}).items()
    ]


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """A query has no null: `anyOf [X, null]` becomes X, and references their content."""
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    if "anyOf" in schema:
        (kept,) = [choice for choice in schema["anyOf"] if choice.get("type") != "null"]
        return _inlined(kept, definitions)
    return {key: value for key, value in schema.items() if key not in ("title", "default")}
