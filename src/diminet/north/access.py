"""Who is asking, whether they may, and how often; and what is told to the audit log of those who may not."""

import time
from collections.abc import Callable

import structlog
from starlette.requests import Request

from diminet.config_limits import LimitSettings
from diminet.engine.ports import Identity
from diminet.errors import (
    DiminetError,
    NotAuthenticated,
    NotAuthorised,
    SiteRefused,
    SiteUnreachable,
    TooManyRequests,
)
from diminet.messages import Caller, Context
from diminet.model import Initiator
from diminet.north.limits import client_key
from diminet.north.requests import Requests
from diminet.rates import Buckets

TOKEN_HEADER = "X-Auth-Token"  # noqa: S105 - a header's name
READERS = frozenset({"admin", "member", "reader"})
WRITERS = frozenset({"admin", "member"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

log = structlog.get_logger(__name__)


class Access:
    """site: name of this site. now: UTC epoch seconds. clock: seconds, monotonic, for the rate limits."""

    def __init__(
        self,
        requests: Requests,
        identity: Identity,
        *,
        site: str,
        limits: LimitSettings,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests = requests
        self._identity = identity
        self._site = site
        self._limits = limits
        self._now = now
        rate, burst, most = limits.rate_per_second, limits.rate_burst, limits.rate_table
        self._projects = Buckets(rate=rate, burst=burst, most=most, clock=clock)
        self._strangers = Buckets(rate=rate, burst=burst, most=most, clock=clock)

    def stranger(self, request: Request) -> None:
        """One request without a valid token. Raises TooManyRequests.

        A valid token is never refused for what others do from the same address.
        """
        host = request.client.host if request.client else None
        self._strangers.check(client_key(host), "clients without a valid token")

    async def reader(self, request: Request) -> Caller:
        """Raises NotAuthenticated, NotAuthorised, TooManyRequests."""
        caller = await self._caller(request)
        if not caller.roles & READERS:
            raise NotAuthorised(
                f"your roles give no access to project {caller.project_id}; ask for the role reader or member"
            )
        return caller

    async def writer(self, request: Request) -> Caller:
        """Raises as `reader` does, also for readers."""
        caller = await self.reader(request)
        if not caller.roles & WRITERS:
            raise NotAuthorised("your role may only read; ask for the role member in this project")
        return caller

    async def admin(self, request: Request) -> Caller:
        """Raises as `reader` does, also for all who are no operators."""
        caller = await self.reader(request)
        if not caller.admin:
            raise NotAuthorised("this is for operators: it needs the role admin")
        return caller

    async def still_valid(self, caller: Caller) -> bool:
        """Of a stream that has been open for a while: whether its token would still be let in."""
        try:
            again = await self._identity.authenticate(caller.token.get_secret_value())
        except (NotAuthenticated, SiteUnreachable, SiteRefused):
            return False  # or nobody can tell now: who comes back learns it
        return again.project_id == caller.project_id and again.roles == caller.roles

    async def _caller(self, request: Request) -> Caller:
        tokens = request.headers.getlist(TOKEN_HEADER)
        try:
            if len(tokens) != 1 or not tokens[0]:
                raise NotAuthenticated(f"send one token of site {self._site!r} in {TOKEN_HEADER}")
            caller = await self._identity.authenticate(tokens[0])
        except NotAuthenticated:
            self.stranger(request)
            raise
        request.state.caller = caller
        self._projects.check(caller.project_id, f"project {caller.project_id}")
        return caller

    def context(self, request: Request, caller: Caller) -> Context:
        """The envelope of what this request makes this instance say to others."""
        return Context(
            request_id=request.state.request_id,
            initiator=Initiator(user_id=caller.user_id, project_id=caller.project_id, site=self._site),
            token=caller.token,
            deadline=self._now() + self._limits.request_timeout,
        )

    def hand_over(self, request: Request, caller: Caller) -> Context:
        """From here on the engine writes the audit log of this request."""
        request.state.handed_over = True
        return self.context(request, caller)

    async def audit(self, request: Request, error: DiminetError) -> None:
        """Of a known caller, refused before the engine saw it: a change, or anything not authorised.

        Strangers are in the log only, and so are those who ask too often: the audit log is bounded, and
        nobody shall be able to push others' entries out of it.
        """
        caller: Caller | None = getattr(request.state, "caller", None)
        if (
            caller is None
            or isinstance(error, TooManyRequests)
            or getattr(request.state, "handed_over", False)
        ):
            return
        if request.method in SAFE_METHODS and not isinstance(error, NotAuthorised):
            return
        what = f"{request.method} {request.url.path[:200]}"
        try:
            await self._requests.refused(caller, self.context(request, caller), what, error)
        except DiminetError as failure:  # the caller gets the first reason, the operator both
            log.error("refusal not audited", code=failure.code, reason=failure.message, refused=error.code)
