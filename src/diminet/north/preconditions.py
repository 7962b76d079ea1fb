"""Headers that bind a request to something: If-Match, Idempotency-Key, Prefer, versions, request ids."""

import hashlib
import json
import re
import uuid
from typing import Final

from pydantic import BaseModel
from starlette.requests import Request

from diminet.errors import InvalidRequest, NotAcceptable, PreconditionRequired, RevisionConflict

SERVICE_TYPE: Final = "intersite"
API_MAJOR: Final = 1
API_MINOR: Final = 0
API_MINOR_LEAST: Final = 0
VERSION_HEADER: Final = "OpenStack-API-Version"
REQUEST_ID_HEADER: Final = "X-OpenStack-Request-ID"
MAX_REQUEST_ID: Final = 64  # characters
MAX_IDEMPOTENCY_KEY: Final = 255  # characters
MAX_ETAGS: Final = 16

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", re.ASCII)
_KEY = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)
_ETAG = re.compile(r'\s*(W/)?("[\x21\x23-\x7e]{0,128}")\s*', re.ASCII)
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})", re.ASCII)


def request_id(given: str) -> str:
    """The caller's, if it is safe to hand on and to log; else a new one."""
    return given if _REQUEST_ID.fullmatch(given) else f"req-{uuid.uuid4()}"


def version_text() -> str:
    return f"{SERVICE_TYPE} {API_MAJOR}.{API_MINOR}"


def check_version(header: str | None) -> None:
    """Raises NotAcceptable outside of what this instance speaks, InvalidRequest if it is malformed.

    One header may name versions of several services: only ours counts.
    """
    for part in (header or "").split(","):
        service, _, version = part.strip().partition(" ")
        if service.lower() != SERVICE_TYPE or version.strip() == "latest":
            continue
        match = _VERSION.fullmatch(version.strip())
        if match is None:
            raise InvalidRequest(f"{VERSION_HEADER} looks like `{version_text()}`; correct or leave it out")
        major, minor = int(match[1]), int(match[2])
        if major != API_MAJOR or not API_MINOR_LEAST <= minor <= API_MINOR:
            raise NotAcceptable(
                f"this instance speaks {SERVICE_TYPE} {API_MAJOR}.{API_MINOR_LEAST} to "
                f"{API_MAJOR}.{API_MINOR}; ask for one of these, or for none"
            )


def if_match(request: Request) -> tuple[str, ...]:
    """The ETags of If-Match; `("*",)` for any; empty without the header. Weak ones never match (RFC 9110)."""
    lines = request.headers.getlist("if-match")
    if not lines:
        return ()
    text = ",".join(lines).strip()
    if text == "*":
        return ("*",)
    matches = [_ETAG.fullmatch(part) for part in text.split(",")]
    if len(matches) > MAX_ETAGS or not all(matches):
        raise InvalidRequest('If-Match is `*` or ETags as they were answered, such as "1.3-7"; correct it')
    return tuple(f"{match[1] or ''}{match[2]}" for match in matches if match)


def check_match(wanted: tuple[str, ...], etag: str) -> None:
    """Raises RevisionConflict."""
    if wanted and wanted != ("*",) and etag not in wanted:
        raise RevisionConflict("the service has changed since you read it; read it again and repeat")


def single_match(wanted: tuple[str, ...], etag: str | None) -> str | None:
    """The one pair to hand on to the master, which compares it again in its transaction. etag: the
    current one, to choose from several."""
    if not wanted:
        return None
    return etag if etag in wanted else wanted[0]


def require_match(wanted: tuple[str, ...]) -> None:
    """Raises PreconditionRequired."""
    if not wanted:
        raise PreconditionRequired(
            "`resources` replaces the whole list: read the service and send its ETag in If-Match"
        )


def idempotency(request: Request, body: BaseModel, of: str = "") -> tuple[str, str] | None:
    """(key, hash of what is asked). Two bodies that ask for the same thing have the same hash.
    of: what it is asked of, where the body does not say."""
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise InvalidRequest(
            f"Idempotency-Key is one word of 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters; "
            "a new UUID for each new request is best"
        )
    canonical = json.dumps(body.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return keys[0], hashlib.sha256((of + canonical).encode()).hexdigest()


def respond_async(request: Request) -> bool:
    """Whether `Prefer: respond-async` was sent (RFC 7240)."""
    wishes = ",".join(request.headers.getlist("prefer")).lower().split(",")
    return any(wish.split(";")[0].strip() == "respond-async" for wish in wishes)
