"""Events as they happen: Server-Sent Events (WHATWG HTML, section 9.2)."""

import json
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from diminet.config_limits import LimitSettings
from diminet.errors import DiminetError, InvalidRequest, TooManyRequests
from diminet.messages import Caller
from diminet.model import Event
from diminet.north import views
from diminet.north.access import Access
from diminet.north.requests import Requests

MEDIA: Final = "text/event-stream"
KEEP_ALIVE: Final = ": still here\n\n"
PAGE: Final = 100  # events read at a time
MAX_SEQ: Final = 2**63 - 1
_KIND = re.compile(r"[^\x20-\x7e]")


def wants_stream(request: Request) -> bool:
    accept = request.headers.get("accept", "").lower()
    named = any(part.split(";")[0].strip() == MEDIA for part in accept.split(","))
    return named and not request.state.head


def last_event_id(request: Request) -> int | None:
    """Raises InvalidRequest."""
    text = request.headers.get("last-event-id")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= MAX_SEQ):
        raise InvalidRequest("Last-Event-ID is the id of an event that you have got, a number; correct it")
    return int(text)


class Streams:
    """At most `limits.streams` at once. clock: seconds, monotonic."""

    def __init__(
        self,
        requests: Requests,
        access: Access,
        limits: LimitSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests = requests
        self._access = access
        self._limits = limits
        self._clock = clock
        self.open = 0
        self._closing = False

    def close(self) -> None:
        """This instance ends: so do its streams, within `limits.stream_poll`."""
        self._closing = True

    async def start(self, caller: Caller, service_id: str | None, after: int) -> "EventStream":
        """The answer: everything after that event, then what comes. Raises TooManyRequests, and
        ServiceNotFound, before it begins."""
        if self.open >= self._limits.streams:
            raise TooManyRequests(
                f"{self._limits.streams} event streams are open at this site; close one or try again later",
                retry_after=self._limits.stream_keepalive,
            )
        self.open += 1
        try:
            first = await self._requests.events(caller, service_id, after, PAGE)
        except BaseException:
            self.release()
            raise
        return EventStream(self._text(caller, service_id, after, first), self.release)

    def release(self) -> None:
        self.open -= 1

    async def _text(
        self, caller: Caller, service_id: str | None, after: int, events: Sequence[Event]
    ) -> AsyncIterator[str]:
        said = self._clock()
        yield KEEP_ALIVE
        while not self._closing:
            for event in events:
                after = max(after, event.seq)
                yield _frame(event, admin=caller.admin)
            if events:
                said = self._clock()
            elif self._clock() - said >= self._limits.stream_keepalive:
                said = self._clock()
                yield KEEP_ALIVE
            if len(events) < PAGE:
                # An event between our look and our waiting is seen by the next look, stream_poll later.
                await self._requests.next_event(after, self._limits.stream_poll)
            if not await self._access.still_valid(caller):
                return
            try:
                events = await self._requests.events(caller, service_id, after, PAGE)
            except DiminetError:
                return  # the service is gone, or the database: who comes back with Last-Event-ID learns it


class EventStream(StreamingResponse):
    """Gives its place back when it ends, also if it never came to begin."""

    def __init__(self, text: AsyncIterator[str], release: Callable[[], None]) -> None:
        super().__init__(text, media_type=MEDIA)
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release()


def _frame(event: Event, *, admin: bool) -> str:
    data = json.dumps(views.event(event, admin=admin))
    return f"id: {event.seq}\nevent: {_KIND.sub(' ', event.kind)}\ndata: {data}\n\n"
