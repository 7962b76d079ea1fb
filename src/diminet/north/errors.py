"""How errors look to users: the one table of codes and HTTP statuses (DESIGN section 3), and two forms.

Without a wish the form is what OpenStack clients print; with `Accept: application/problem+json` RFC 9457.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from diminet.errors import DiminetError, InternalError, NotFound

STATUS: Final[Mapping[str, tuple[int, str]]] = {
    "invalid-request": (400, "The request is not understood"),
    "not-authenticated": (401, "A valid token is needed"),
    "not-authorised": (403, "Not allowed"),
    "service-not-found": (404, "No such service"),
    "network-not-found": (404, "No such network"),
    "site-unknown": (404, "No such site"),
    "path-not-found": (404, "No such path"),
    "method-not-allowed": (405, "No such operation on this path"),
    "not-acceptable": (406, "Version not supported"),
    "cidr-overlap": (409, "Networks overlap"),
    "resource-not-clean": (409, "The network is not clean"),
    "resource-busy": (409, "The network is in use by another service or request"),
    "pool-exhausted": (409, "No addresses left"),
    "incompatible-sites": (409, "The sites do not fit together"),
    "quota-exceeded": (409, "Quota exceeded"),
    "idempotency-conflict": (409, "The key was used for another request"),
    "site-refused": (409, "A site refused"),
    "revision-conflict": (412, "The service has changed meanwhile"),
    "too-large": (413, "The request is too large"),
    "precondition-required": (428, "If-Match is needed"),
    "too-many-requests": (429, "Too many requests"),
    "internal-error": (500, "Internal error"),
    "site-unreachable": (503, "A site cannot be reached"),
    "storage-unavailable": (503, "The database is not available"),
    "fenced": (503, "This instance is fenced"),
}
"""Code -> HTTP status and title. An error that is not here is a bug and becomes `internal-error`."""

CODES_BY_STATUS: Final[Mapping[int, tuple[str, ...]]] = {
    status: tuple(code for code, row in STATUS.items() if row[0] == status)
    for status in sorted({row[0] for row in STATUS.values()})
}
PROBLEM: Final = "application/problem+json"
DEFAULT_RETRY_S: Final[Mapping[str, float]] = {
    "site-unreachable": 10.0,
    "storage-unavailable": 5.0,
    "fenced": 30.0,
    "too-many-requests": 1.0,
}
"""`Retry-After` in seconds where the error does not say it itself."""


class PathNotFound(NotFound):
    """A path that this API does not have."""

    code = "path-not-found"


def status_of(error: DiminetError) -> int:
    return STATUS[_known(error).code][0]


def error_response(
    error: DiminetError, *, request_id: str, accept: str, admin: bool, allow: str | None = None
) -> Response:
    """The answer. accept: the request's Accept header. allow: of a 405. admin: may read peers' addresses."""
    error = _known(error)
    status, title = STATUS[error.code]
    message = error.message if admin else without_internals(error.message)
    common: dict[str, Any] = {
        "code": error.code,
        "status": status,
        "title": title,
        "request_id": request_id,
        "sites": list(error.sites),
    }
    if wants_problem(accept):
        body: dict[str, Any] = {"type": f"urn:diminet:error:{error.code}", "detail": message, **common}
        media = PROBLEM
    else:
        body, media = {"error": {**common, "message": message}}, "application/json"
    return Response(json.dumps(body), status, headers=_headers(error, allow), media_type=media)


def _known(error: DiminetError) -> DiminetError:
    if error.code in STATUS:
        return error
    return InternalError("this instance failed in a way that it has no word for; its log has the request id")


def _headers(error: DiminetError, allow: str | None) -> dict[str, str]:
    headers: dict[str, str] = {}
    retry = error.retry_after if error.retry_after is not None else DEFAULT_RETRY_S.get(error.code)
    if retry is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry)))
    if error.code == "not-authenticated":
        headers["WWW-Authenticate"] = 'X-Auth-Token realm="diminet"'
    if allow is not None:
        headers["Allow"] = allow
    return headers


def wants_problem(accept: str) -> bool:
    """Whether application/problem+json is named in Accept and not with q=0."""
    for part in accept.lower().split(","):
        media, *params = (piece.strip() for piece in part.split(";"))
        if media == PROBLEM:
            return not any(re.fullmatch(r"q\s*=\s*0(\.0*)?", param) for param in params)
    return False


# Tenants never see route targets, VNIs or where peers listen (DESIGN section 3), also not in a sentence
# that a site's own software wrote. An IPv6 address never matches the third: its groups have 4 digits.
_INTERNALS: Final = (
    (re.compile(r"\bhttps?://[^\s,;)'\"]+"), "[address]"),
    (re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}:\d{1,5}\b"), "[address]"),
    (re.compile(r"(?<![\w:.])\d{1,10}:\d{7,10}(?![\w:])"), "[route target]"),
    (re.compile(r"\bVNI\s*[=:#]?\s*\d+", re.IGNORECASE), "[VNI]"),
)


def without_internals(text: str) -> str:
    """A sentence as a tenant may read it."""
    for pattern, instead in _INTERNALS:
        text = pattern.sub(instead, text)
    return text
