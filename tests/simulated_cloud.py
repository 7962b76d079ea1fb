"""Several sites in one process: the production engine, logic, store and messages; simulated are the
network between them and the VIM (named so: nothing here moves a packet)."""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from diminet.bench.simulated import Names, Quiet
from diminet.clock import SystemClock
from diminet.engine.engine import Engine
from diminet.engine.instance import Instance, Limits
from diminet.errors import DiminetError, SiteUnreachable, from_dict
from diminet.logic.types import TYPES
from diminet.messages import Caller, Context, CreateRequest
from diminet.model import Entry, Initiator
from diminet.store.store import SqlStore
from simulator.loop import Crash, VirtualLoop
from simulator.surroundings import Trust
from simulator.vim import PROJECT, SimulatedVim

LIMITS = Limits(
    request_timeout=8.0,  # a limit on waiting: nothing here takes that long on a quiet machine
    sync_interval=0.2,
    reconcile_interval=0.2,
    backoff_first=0.1,
    backoff_most=0.2,
    confirm_delay=0.05,
    busy_pause=0.02,
    reservation_lifetime=9.0,
)


POLL = 0.05  # seconds


class Wire:
    """The simulated network: every message crosses as JSON; sites may be cut off."""

    def __init__(self) -> None:
        self.engines: dict[str, Engine] = {}
        self.cuts: set[frozenset[str]] = set()
        self.seen: Counter[tuple[str, str, str]] = Counter()  # (receiver, request id, kind)

    def cut(self, a: str, b: str) -> None:
        self.cuts.add(frozenset((a, b)))

    def isolate(self, a: str) -> None:
        for b in self.engines:
            if a != b:
                self.cut(a, b)

    def heal(self) -> None:
        self.cuts.clear()


class Link:
    """One site's Peers."""

    def __init__(self, wire: Wire, me: str) -> None:
        self.wire, self.me = wire, me

    def at(self, site: str) -> Any:
        return _Remote(self.wire, self.me, site)


class _Remote:
    def __init__(self, wire: Wire, me: str, site: str) -> None:
        self.wire, self.me, self.site = wire, me, site

    def __getattr__(self, kind: str) -> Any:
        async def call(ctx: Context, *arguments: Any) -> Any:
            away = SiteUnreachable(f"site {self.site} does not answer", sites=[self.site], retry_after=1.0)
            if frozenset((self.me, self.site)) in self.wire.cuts or self.site not in self.wire.engines:
                await asyncio.sleep(0.05)
                raise away
            self.wire.seen[self.site, ctx.request_id, kind] += 1
            told = ctx.model_copy(update={"sender": self.me})
            copies = [
                type(a).model_validate_json(a.model_dump_json()) if hasattr(a, "model_dump_json") else a
                for a in arguments
            ]
            await asyncio.sleep(0)
            try:
                answer = await getattr(self.wire.engines[self.site], kind)(told, *copies)
            except Crash:
                raise away from None
            except DiminetError as error:
                raise from_dict(error.as_dict(), sites=[self.site]) from None
            if frozenset((self.me, self.site)) in self.wire.cuts:
                raise away
            return type(answer).model_validate_json(answer.model_dump_json()) if answer is not None else None

        return call


class Life:
    """Counts an instance's steps (durable writes, calls of the VIM, messages); ends it at one of them.

    at: number of the step, None: lives on. after: the step takes effect, its answer is lost."""

    def __init__(self, at: int | None = None, *, after: bool = False) -> None:
        self.at, self.after = at, after
        self.steps = 0
        self.alive = True

    async def step(self, call: Any, *arguments: Any, **more: Any) -> Any:
        if not self.alive:
            raise Crash
        self.steps += 1
        if self.at is not None and self.steps >= self.at:
            self.alive = False
            if self.after:
                await call(*arguments, **more)
            raise Crash
        result = await call(*arguments, **more)
        if not self.alive:
            raise Crash
        return result


class Mortal:
    """A port of an instance that ends with it."""

    def __init__(self, inner: Any, life: Life) -> None:
        self.inner, self.life = inner, life

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if name == "at":
            return lambda site: Mortal(method(site), self.life)
        if not callable(method):
            return method

        async def call(*arguments: Any, **more: Any) -> Any:
            return await self.life.step(method, *arguments, **more)

        return call


class LoopClock(SystemClock):
    """The running loop's time, which a VirtualLoop makes up."""

    def __init__(self) -> None:
        self.began = time.time()

    def now(self) -> float:
        return self.began + asyncio.get_running_loop().time()


def run_virtually(work: Coroutine[Any, Any, Any]) -> Any:
    """As asyncio.run, with waiting that takes no time: no limit depends on how busy the machine is."""
    loop = VirtualLoop()
    errors: list[dict[str, Any]] = []
    loop.on_error = errors.append
    result = loop.run(work)
    loop.own.end()
    loop.drain()
    assert not errors, errors
    return result


class Cloud:
    def __init__(self, *names: str, url: str = "sqlite://", limits: Limits = LIMITS) -> None:
        self.wire = Wire()
        self.vims: dict[str, SimulatedVim] = {}
        self.names = Names(list(names))
        self.limits = limits
        self.loops: list[asyncio.Task[None]] = []
        self.stores: dict[str, SqlStore] = {}
        for i, name in enumerate(names):
            self.vims[name] = SimulatedVim(i + 1)
            self.stores[name] = SqlStore(url, threaded=False)
            self.start(name, i + 1)

    def start(self, name: str, number: int, life: Life | None = None) -> None:
        life = life or Life()
        here = Instance(
            name=name,
            number=number,
            store=Mortal(self.stores[name], life),
            peers=Mortal(Link(self.wire, name), life),
            south=Mortal(self.vims[name], life),
            directory=self.names,
            identity=Trust(),
            clock=LoopClock(),
            types=TYPES,
            asn=64999,
            meter=Quiet(),
            limits=self.limits,
        )
        engine = Engine(here)
        self.vims[name].keeper = engine.pools
        self.wire.engines[name] = engine

    def __getitem__(self, name: str) -> Engine:
        return self.wire.engines[name]

    async def restart(self, name: str, life: Life | None = None) -> None:
        """Kill the instance and start it again on its database and VIM."""
        old = self.wire.engines.pop(name, None)
        if old is not None:
            await old.stop()
        self.start(name, next(s.number for s in self.names.all if s.name == name), life)

    async def run(self) -> None:
        """Start the background loops of all sites."""
        self.loops = [asyncio.create_task(e.run()) for e in self.wire.engines.values()]

    async def close(self) -> None:
        for loop in self.loops:
            loop.cancel()
        await asyncio.gather(*self.loops, return_exceptions=True)
        for engine in self.wire.engines.values():
            await engine.stop()
        for store in self.stores.values():
            store.close()

    def caller(self, project: str = PROJECT, *roles: str) -> Caller:
        return Caller(
            user_id="alice", project_id=project, roles=frozenset(roles or ("member",)), token="secret"
        )

    def ctx(self, site: str, project: str = PROJECT) -> Context:
        return Context(
            request_id=f"req-{uuid.uuid4()}",
            initiator=Initiator(user_id="alice", project_id=project, site=site),
        )

    async def create(
        self, at: str, kind: str, *entries: str | Entry, ctx: Context | None = None, **more: Any
    ) -> Any:
        """entries: "A:ID" or "A"."""
        resources = []
        for entry in entries:
            if isinstance(entry, Entry):
                resources.append(entry)
            else:
                site, _, network = entry.partition(":")
                resources.append(Entry(site=site, resource_id=network or None))
        request = CreateRequest(type=kind, name="web", resources=tuple(resources), **more)
        view, _ = await self[at].requests.create(
            self.caller(), ctx or self.ctx(at), request, wait=True, idempotency=None
        )
        return view

    def pictures(self) -> dict[str, Any]:
        return {name: vim.picture() for name, vim in self.vims.items()}


async def until(condition: Any, seconds: float = 15.0) -> None:
    """Wait, bounded, for a condition (sync or async)."""
    for _ in range(int(seconds / POLL)):
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        await asyncio.sleep(POLL)
    raise AssertionError("it did not come true in time")
