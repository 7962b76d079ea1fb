"""Whether an instance has what it needs: what `/readyz` answers."""

from collections.abc import Awaitable, Callable, Sequence

from diminet.east_west import tls
from diminet.engine.instance import Instance
from diminet.errors import BadSurroundings, DiminetError


class Readiness:
    """Which of the things that this instance needs fails now."""

    def __init__(
        self,
        here: Instance,
        credentials: tls.Credentials,
        identity: Callable[[], Awaitable[Sequence[str]]],
    ) -> None:
        self._here = here
        self._credentials = credentials
        self._identity = identity

    async def failing(self) -> list[str]:
        """Sentences that begin with the dependency's name; empty: ready."""
        checks: list[Callable[[], Awaitable[list[str]]]] = [
            self._store,
            self._south,
            self._who,
            self._certificate,
        ]
        return [problem for check in checks for problem in await check()]

    async def _store(self) -> list[str]:
        try:
            await self._here.store.read(lambda tx: tx.meta())
        except DiminetError as error:
            return [f"database: {error.message}"]
        return []

    async def _south(self) -> list[str]:
        try:
            return [f"{self._here.south.kind}: {problem}" for problem in await self._here.south.problems()]
        except DiminetError as error:
            return [f"{self._here.south.kind}: {error.message}"]

    async def _who(self) -> list[str]:
        return [f"identity: {problem}" for problem in await self._identity()]

    async def _certificate(self) -> list[str]:
        try:
            left = self._credentials.days_left()
        except BadSurroundings as error:
            return [f"certificate: {error.message}"]
        return [] if left > 0 else ["certificate: it has expired; run `diminet pki renew`"]
