"""What the north side needs of the engine; `engine/requests.py` satisfies it."""

from collections.abc import Sequence
from typing import Protocol

from diminet.engine.ports import ServiceFilter
from diminet.errors import DiminetError
from diminet.messages import Caller, Change, Context, CreateRequest, ServiceView, SiteView
from diminet.model import Event


class Requests(Protocol):
    """Everything that a user may ask. Another project's service is ServiceNotFound, but not to an admin."""

    async def create(
        self,
        caller: Caller,
        ctx: Context,
        request: CreateRequest,
        *,
        wait: bool,
        idempotency: tuple[str, str] | None,
    ) -> tuple[ServiceView, bool]:
        """The service, and whether every member is active. idempotency: (key, hash of the body)."""

    async def change(
        self,
        caller: Caller,
        ctx: Context,
        service_id: str,
        change: Change,
        *,
        idempotency: tuple[str, str] | None = None,
    ) -> tuple[ServiceView | None, tuple[str, ...]]:
        """The service after it (None: no longer here), and the sites that are waited for."""

    async def show(self, caller: Caller, service_id: str) -> ServiceView: ...

    async def list(self, caller: Caller, where: ServiceFilter) -> list[ServiceView]: ...

    async def more_room(
        self,
        caller: Caller,
        ctx: Context,
        service_id: str,
        *,
        idempotency: tuple[str, str] | None = None,
    ) -> ServiceView: ...

    async def takeover(
        self, caller: Caller, ctx: Context, service_id: str, gone: frozenset[str]
    ) -> ServiceView:
        """For admin: this site becomes the master. gone: members that the operator declares lost for good."""

    async def forget(self, caller: Caller, ctx: Context, service_id: str, site: str) -> ServiceView | None:
        """For admin: that site, no member any more, is lost for good. None: the service is gone with it."""

    async def events(self, caller: Caller, service_id: str | None, after: int, limit: int) -> Sequence[Event]:
        """At most `limit`, oldest first, with `seq` above `after`."""

    async def next_event(self, after: int, timeout: float) -> None:  # noqa: ASYNC109 - a limit on waiting
        """Returns when there may be newer events, or after `timeout` seconds."""

    async def sites(self, caller: Caller) -> Sequence[SiteView]: ...

    async def refused(self, caller: Caller | None, ctx: Context, what: str, error: DiminetError) -> None:
        """For the audit log: a request that was refused before the engine saw it."""
