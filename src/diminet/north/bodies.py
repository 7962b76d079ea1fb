"""Bodies from strangers: bounded in size, time and depth, and exactly one meaning, before any use."""

import asyncio
import json
import math
from typing import Any, Final, TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from diminet.errors import InvalidRequest, TooLarge

MAX_INTEGER: Final = 2**63 - 1  # what any database and any client's language can hold
MAX_PROBLEMS: Final = 5  # mistakes named in one answer
DRAIN_BYTES: Final = 64 * 1024 * 1024
"""Of a body that is too large, so many bytes are thrown away so that its sender gets to read the answer."""

M = TypeVar("M", bound=BaseModel)


async def read_body(request: Request, *, most: int, timeout_s: float) -> bytes:
    """Raises TooLarge beyond `most` bytes, InvalidRequest when it is not complete after timeout_s."""
    _check_headers(request)
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > most and "expect" in request.headers:
        raise _too_large(most)  # the sender waits for our word before it sends
    data = bytearray()
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= most:
                    data += chunk
                elif size > DRAIN_BYTES:
                    break
    except TimeoutError:
        if size <= most:
            raise InvalidRequest(f"the body did not arrive within {timeout_s:g} s; send it again") from None
    except ClientDisconnect:
        raise InvalidRequest("the client hung up before the body was complete; send it again") from None
    if size > most:
        raise _too_large(most)
    return bytes(data)


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"a body may have {most} bytes; send less, or in several requests")


def _check_headers(request: Request) -> None:
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media != "application/json":
        raise InvalidRequest("send JSON, with the header Content-Type: application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise InvalidRequest("send the body as it is, without Content-Encoding")


def parse_json(data: bytes, *, depth: int) -> Any:
    """Raises InvalidRequest for what is no JSON in UTF-8, ambiguous or unbounded.

    The first parser stops at 200 levels, whatever the input; so the second one, which alone sees keys that
    are there twice, cannot be led deep either.
    """
    try:
        content = pydantic_core.from_json(data, allow_inf_nan=False)
        _check_bounds(content, depth)
        json.loads(data, object_pairs_hook=_unique)
    except ValueError as error:
        raise InvalidRequest(f"the body is not JSON: {str(error)[:200]}; correct it") from None
    return content


def _unique(pairs: list[tuple[str, Any]]) -> None:
    """Two parsers may take two different ones of a doubled key: nobody shall profit from that."""
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InvalidRequest(f"the body has the key {twice[:80]!r} twice in one object; keep one")


def _check_bounds(content: Any, depth: int) -> None:
    """Level by level, without recursion."""
    level = [content]
    for _ in range(depth + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, float) and not math.isfinite(value):
                raise InvalidRequest("the body has a number that is not finite; correct it")
            elif isinstance(value, int) and abs(value) > MAX_INTEGER:
                raise InvalidRequest("the body has an integer beyond 64 bits; correct it")
        if not below:
            return
        level = below
    raise InvalidRequest(f"the body nests deeper than {depth} levels; make it flatter")


def validate(model: type[M], content: Any) -> M:
    """Raises InvalidRequest that names what is wrong and where."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise InvalidRequest(problems(error.errors(include_url=False), "body")) from None


def problems(errors: Any, whole: str) -> str:
    """pydantic's mistakes in one sentence; values are not repeated. whole: the word for the root."""
    named = [_problem(error, whole) for error in errors[:MAX_PROBLEMS]]
    more = len(errors) - len(named)
    return ("; ".join(named) + (f"; and {more} more" if more > 0 else ""))[:2000]


def _problem(error: dict[str, Any], whole: str) -> str:
    where = ".".join(str(part)[:80] for part in error["loc"]) or whole
    if error["type"] == "extra_forbidden":
        return f"{where}: there is no such field; remove it or correct its name"
    if error["type"] == "missing":
        return f"{where}: is missing; add it"
    if error["type"] in ("too_short", "too_long"):
        context = error["ctx"]
        bound = context.get("min_length", context.get("max_length"))
        word = "at least" if error["type"] == "too_short" else "at most"
        return f"{where}: give {word} {bound} entries; it has {context['actual_length'] or 'none'}"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"


async def read_model(request: Request, model: type[M], *, most: int, timeout_s: float, depth: int) -> M:
    """The request's body as that model."""
    data = await read_body(request, most=most, timeout_s=timeout_s)
    return validate(model, parse_json(data, depth=depth))
