"""How messages look on the wire: the envelope in headers, JSON bodies with bounds, errors with a status.

Both ends use this module, so that what one writes the other reads (docs/protocol.md).
"""

import json
import math
import re
import uuid
from collections.abc import Mapping
from typing import Any, TypeVar

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from diminet.errors import (
    DiminetError,
    IncompatibleSites,
    InvalidRequest,
    NotAuthenticated,
    from_dict,
)
from diminet.messages import PROTOCOL_MAJOR, PROTOCOL_MINOR, Context
from diminet.model import Initiator, Site, SiteName, Ticket

REQUEST_ID = "X-OpenStack-Request-ID"
INITIATOR = "DIMINET-Initiator"
INCARNATION = "DIMINET-Incarnation"
PROTOCOL = "DIMINET-Protocol"
DEADLINE = "DIMINET-Deadline"  # seconds left when sent: the clocks of two sites need not agree
USER_TOKEN = "X-Auth-Token"  # noqa: S105 - a header's name
SERVICE_TOKEN = "X-Service-Token"  # noqa: S105 - a header's name; of sites with one Keystone

PATH = "/intersite-horizontal"
MAX_DEPTH = 64  # levels of JSON
MAX_INTEGER = 2**63 - 1  # what any database and any peer's language can hold
MAX_INITIATOR_BYTES = 8192
MAX_TOKEN_BYTES = 16_384
MAX_DEADLINE_S = 3600.0

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", re.ASCII)
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})", re.ASCII)
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)
_TOKEN = re.compile(r"[\x21-\x7e]+", re.ASCII)

STATUS: Mapping[str, int] = {
    "invalid-request": 400,
    "not-authenticated": 401,
    "not-authorised": 403,
    "service-not-found": 404,
    "network-not-found": 404,
    "site-unknown": 404,
    "method-not-allowed": 405,
    "not-acceptable": 406,
    "cidr-overlap": 409,
    "resource-not-clean": 409,
    "resource-busy": 409,
    "pool-exhausted": 409,
    "incompatible-sites": 409,
    "quota-exceeded": 409,
    "idempotency-conflict": 409,
    "site-refused": 409,
    "revision-conflict": 412,
    "too-large": 413,
    "precondition-required": 428,
    "too-many-requests": 429,
    "internal-error": 500,
    "bad-surroundings": 500,
    "site-unreachable": 503,
    "storage-unavailable": 503,
    "fenced": 503,
}

M = TypeVar("M", bound=BaseModel)


class _ErrorBody(BaseModel):
    """What `DiminetError.as_dict` gives, from a peer that may be anything."""

    model_config = ConfigDict(extra="ignore")

    code: str = Field(max_length=64)
    message: str = Field(default="the site gave no reason", max_length=20_000)
    sites: list[SiteName] = Field(default=[], max_length=250)
    retry_after: float | None = Field(default=None, ge=0, le=86_400)
    ticket: Ticket | None = None


def protocol() -> str:
    return f"{PROTOCOL_MAJOR}.{PROTOCOL_MINOR}"


def check_protocol(text: str | None, who: str) -> None:
    """Raises IncompatibleSites unless the major version is ours; minor versions may differ."""
    match = _VERSION.fullmatch(text or "")
    if match is None:
        raise IncompatibleSites(
            f"{who} sent no protocol version in {PROTOCOL}; this site speaks {protocol()}"
        )
    if int(match[1]) != PROTOCOL_MAJOR:
        raise IncompatibleSites(
            f"{who} speaks protocol {text}, this site {protocol()}; "
            "bring both to the same major version of DIMINET"
        )


def check_number(site: Site, said: int, here: str) -> None:
    """said: the number that this site gives itself. Raises IncompatibleSites if our directory has another:
    tickets, VNIs and MACs are made of the numbers, and two sites with one number would make the same."""
    if site.number != said:
        raise IncompatibleSites(
            f"site {site.name!r} says that its number is {said}, the directory of site {here!r} says "
            f"{site.number}; correct the directories, which are the same at all sites, or its configuration",
            sites=[site.name],
        )


def to_headers(ctx: Context, *, incarnation: str, seconds_left: float) -> dict[str, str]:
    """The envelope of a message. Raises InvalidRequest or NotAuthenticated for what no header can hold."""
    headers = {
        REQUEST_ID: _word(ctx.request_id, REQUEST_ID),
        INITIATOR: json.dumps(ctx.initiator.model_dump(mode="json")),  # ASCII, no control characters
        INCARNATION: _word(incarnation, INCARNATION),
        PROTOCOL: protocol(),
        DEADLINE: f"{min(seconds_left, MAX_DEADLINE_S):.3f}",
    }
    if len(headers[INITIATOR]) > MAX_INITIATOR_BYTES:
        raise InvalidRequest("the initiator's names are too long")
    if ctx.token is not None:
        headers[USER_TOKEN] = _token(ctx.token.get_secret_value())
    if ctx.service_token is not None:
        headers[SERVICE_TOKEN] = _token(ctx.service_token.get_secret_value())
    return headers


def from_headers(headers: Mapping[str, list[str]], *, sender: str, now: float) -> Context:
    """The envelope as received. headers: all values by lower-case name. now: epoch seconds.

    Raises InvalidRequest (missing, doubled or malformed), NotAuthenticated (malformed token).
    """
    deadline = _one(headers, DEADLINE, optional=True)
    token = _one(headers, USER_TOKEN, optional=True)
    service_token = _one(headers, SERVICE_TOKEN, optional=True)
    text = _one(headers, INITIATOR)
    if len(text) > MAX_INITIATOR_BYTES:
        raise InvalidRequest(f"{INITIATOR} is longer than {MAX_INITIATOR_BYTES} bytes")
    return Context(
        request_id=_word(_one(headers, REQUEST_ID), REQUEST_ID),
        initiator=parse(Initiator, text.encode("latin-1"), INITIATOR),
        sender=sender,
        incarnation=_word(_one(headers, INCARNATION), INCARNATION),
        token=SecretStr(_token(token)) if token else None,
        service_token=SecretStr(_token(service_token)) if service_token else None,
        deadline=now + _seconds(deadline) if deadline else None,
    )


def one_header(headers: Mapping[str, list[str]], name: str) -> str | None:
    """Its value, None if it is not there. Raises InvalidRequest if it is there twice."""
    return _one(headers, name, optional=True) or None


def parse(model: type[M], data: bytes, what: str) -> M:
    """A body. what: names it in the InvalidRequest that is raised for anything but that model.

    Unknown fields, those of newer minor versions, are no error. Depth and numbers are bounded, so that
    what is taken in can be stored and handed on.
    """
    try:
        content = pydantic_core.from_json(data, allow_inf_nan=False)
    except ValueError as exc:
        raise InvalidRequest(f"{what} is not JSON: {str(exc)[:200]}") from None
    _bounded(content, what)
    try:
        return model.model_validate(content, extra="allow")
    except ValidationError as exc:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in error['loc']) or 'body'}: {error['msg']}"
            for error in exc.errors(include_url=False, include_input=False)[:5]
        )
        raise InvalidRequest(f"{what} is not understood: {problems[:1000]}") from None


def service_path(service_id: str) -> str:
    return f"{PATH}/{service_id_of(service_id)}"


def service_id_of(text: str) -> str:
    """Service ids are canonical UUIDs. Raises InvalidRequest for anything else."""
    try:
        canonical = str(uuid.UUID(text))
    except ValueError:
        canonical = None
    if text != canonical:
        raise InvalidRequest(f"{text[:80]!r} is not a service id: a UUID in lower case")
    return text


def rid_of(text: str) -> str:
    return _word(text, "reservation")


def error_of(data: bytes, site: str) -> DiminetError | None:
    """The error that the site answered; None if the body is no error of DIMINET. The code in the body
    decides, the HTTP status is for people and proxies."""
    try:
        body = parse(_ErrorBody, data, "error")
    except InvalidRequest:
        return None
    return from_dict(body.model_dump(), sites=[site])


def _bounded(content: Any, what: str) -> None:
    level = [content]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, float) and not math.isfinite(value):
                raise InvalidRequest(f"{what} holds a number that is not finite")
            elif isinstance(value, int) and abs(value) > MAX_INTEGER:
                raise InvalidRequest(f"{what} holds an integer beyond 64 bits")
        if not below:
            return
        level = below
    raise InvalidRequest(f"{what} nests deeper than {MAX_DEPTH} levels")


def _one(headers: Mapping[str, list[str]], name: str, *, optional: bool = False) -> str:
    values = headers.get(name.lower(), [])
    if len(values) > 1:
        raise InvalidRequest(f"the header {name} is there {len(values)} times; send it once")
    if not values and not optional:
        raise InvalidRequest(f"the header {name} is missing; every message carries it")
    return values[0] if values else ""


def _word(text: str, name: str) -> str:
    if not _WORD.fullmatch(text):
        raise InvalidRequest(
            f"{name} must be 1 to 128 of A-Z a-z 0-9 . _ : - and begin with one of the first"
        )
    return text


def _token(text: str) -> str:
    if len(text) > MAX_TOKEN_BYTES or not _TOKEN.fullmatch(text):
        raise NotAuthenticated(f"a token is 1 to {MAX_TOKEN_BYTES} visible ASCII characters")
    return text


def _seconds(text: str) -> float:
    if not _SECONDS.fullmatch(text):
        raise InvalidRequest(f"{DEADLINE} is the number of seconds left, for example 9.5")
    return min(float(text), MAX_DEADLINE_S)
