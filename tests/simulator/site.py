"""A simulated site: one production instance between its ports, which the simulator interrupts."""

import asyncio
import contextvars
import json
import uuid
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from diminet.bench.simulated import Quiet
from diminet.east_west import envelope
from diminet.engine.engine import Engine
from diminet.engine.instance import Instance
from diminet.engine.ports import Tx
from diminet.errors import SiteRefused, SiteUnreachable, StorageUnavailable
from diminet.logic.types import TYPES
from diminet.messages import Context
from simulator.disk import Disk, Recorder
from simulator.loop import LIFE, Crash, Life
from simulator.network import Link
from simulator.surroundings import Trust
from simulator.vim import SimulatedVim

if TYPE_CHECKING:
    from simulator.world import World

T = TypeVar("T")
START_OF_TIME = 1_750_000_000.0
READS = frozenset(
    {
        "capabilities",
        "network",
        "owner",
        "ports",
        "settled",
        "realised",
        "problems",
        "ingress",
        "remains",
        "mark",
    }
)
NEWER_MINOR = f"{envelope.PROTOCOL_MAJOR}.{envelope.PROTOCOL_MINOR + 1}"
NEW_FIELD = "of_a_newer_minor"


class SiteClock:
    """A site's clock; offset: seconds that it is wrong by; rate: how fast it goes."""

    def __init__(self, site: "Site") -> None:
        self._site = site
        self.offset = 0.0
        self.rate = 1.0

    def now(self) -> float:
        return START_OF_TIME + self._site.world.loop.time() * self.rate + self.offset

    async def sleep(self, seconds: float) -> None:
        self._site.alive()
        await asyncio.sleep(seconds)
        self._site.alive()
        self._site.world.step("timer", self._site.name, None)

    def timeout(self, seconds: float) -> Any:
        return asyncio.timeout(seconds)

    def uuid(self) -> str:
        return self._site.world.uuid()

    def random(self) -> float:
        return self._site.world.rng.random()


class Site:
    """crash_at: (steps from now, whether that step still takes effect), None: lives on. vim_faults: kinds
    of errors that the next calls of the VIM meet. storage_faults: how many of the next writes fail."""

    def __init__(self, world: "World", name: str, number: int) -> None:
        self.world, self.name, self.number = world, name, number
        self.clock = SiteClock(self)
        self.disk = Disk(world.uuid)
        self.vim = SimulatedVim(number, ids=world.uuid, changed=self._vim_changed)
        self.newer_minor = False
        self.pace = 0.002  # seconds that a step of its own takes, at most ten times that
        self.crash_at: tuple[int, bool] | None = None
        self.vim_faults: list[str] = []
        self.storage_faults = 0
        self.up = False
        self.life = Life()
        self.life.alive = False
        self.engine: Engine
        self.incarnation = ""

    # -- life ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """A new process on the same disk and VIM."""
        assert not self.up
        self.up, self.life, self.crash_at = True, Life(), None
        here = Instance(
            name=self.name,
            number=self.number,
            store=_Store(self),
            peers=Link(self),
            south=_South(self),
            directory=self.world.names,
            identity=Trust(*self.world.projects),
            clock=self.clock,
            types=TYPES,
            asn=64999,
            meter=Quiet(),
            limits=self.world.limits,
        )
        self.engine = Engine(here)
        self.vim.keeper = self.engine.pools
        self.spawn(self._run())

    async def _run(self) -> None:
        self.incarnation = (await self.disk.store.read(lambda tx: tx.meta())).incarnation
        await self.engine.start()
        await self.engine.run()

    def spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """A task of this life: it ends with a crash."""
        context = contextvars.copy_context()
        context.run(LIFE.set, self.life)
        return self.world.loop.create_task(work, context=context)

    def crash(self, why: str) -> None:
        if not self.up:
            return
        self.up, self.crash_at = False, None
        self.world.count("fault", "crash")
        self.world.step("fault", self.name, lambda: f"crash {why}")
        self.life.end()

    def alive(self) -> None:
        """Raises Crash in whatever an ended instance still tries to do."""
        life = LIFE.get()
        if life is not None and not life.alive:
            raise Crash

    # -- steps ---------------------------------------------------------------------------------------

    def at_step(self) -> None:
        """One of the moments at which the instance may end."""
        self.alive()
        if self.crash_at is not None:
            left, _ = self.crash_at
            if left > 0:
                self.crash_at = (left - 1, False)
            else:
                self.crash("at a step")
                raise Crash

    async def pause(self) -> None:
        """A step takes time; others get their turn meanwhile."""
        self.alive()
        await asyncio.sleep(self.world.rng.random() ** 3 * self.pace * 10)
        self.alive()

    # -- the wire ------------------------------------------------------------------------------------

    def headers(self, ctx: Context, seconds: float) -> dict[str, str]:
        headers = envelope.to_headers(ctx, incarnation=self.incarnation or "unknown", seconds_left=seconds)
        if self.newer_minor:
            headers[envelope.PROTOCOL] = NEWER_MINOR
        return headers

    def encode(self, model: BaseModel) -> str:
        text = model.model_dump_json()
        if not self.newer_minor:
            return text
        body = json.loads(text)
        body[NEW_FIELD] = {"by": self.name}
        document = body.get("document")
        if document and document["epoch"][1] == self.number:
            document[NEW_FIELD] = {"by": self.name}
        return json.dumps(body, separators=(",", ":"))

    def missing(self, service_id: str) -> bool:
        """Has the database no such row any more?"""
        return self.disk.look(lambda tx: tx.service(service_id)) is None

    def _vim_changed(self, what: str, name: str) -> None:
        self.world.checks.vim(self, what, name)


class _Store:
    """The instance's Store: each write is a step, before and behind which it may end."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def read(self, look: Callable[[Tx], T]) -> T:
        self._site.alive()
        return await self._site.disk.store.read(look)

    async def write(self, decide: Callable[[Tx], T]) -> T:
        site, recorder = self._site, list[Recorder]()
        await site.pause()
        site.at_step()
        if site.storage_faults:
            site.storage_faults -= 1
            site.world.count("fault", "storage")
            raise StorageUnavailable("the simulated disk is full")

        def recorded(tx: Tx) -> tuple[T, Any]:
            recorder.append(Recorder(tx, partial(site.world.checks.fresh, site), site.clock.now()))
            result = decide(recorder[0])  # type: ignore[arg-type]
            return result, recorder[0].blocks_now()

        result, blocks = await site.disk.store.write(recorded)
        done = recorder[0]
        site.world.checks.committed(site, done, blocks)
        site.world.step("write", site.name, lambda: _told(done))
        site.at_step()
        await site.pause()
        return result


def _told(done: Recorder) -> str:
    rows = [
        f"{r[:8]} forgotten"
        if isinstance(r, str)
        else f"{r.document.service_id[:8]} {r.status} "
        f"{r.document.pair.etag()}{' tombstone' if r.document.tombstone else ''}"
        f"{'' if r.left is None else ' left'}{' applied' if r.applied == r.document.pair else ''}"
        for r in done.rows
    ]
    intents = [
        f"intent {i[:8]} ends" if isinstance(i, str) else f"intent {i.service_id[:8]} {i.operation}"
        for i in done.intents
    ]
    blocks = [f"blocks of {service_id[:8]}" for service_id in done.block_services]
    return "; ".join([*rows, *intents, *blocks])


class _South:
    """The instance's South: a call may fail before or behind its effect."""

    kind = "simulated"
    asks_for_room = True

    def __init__(self, site: Site) -> None:
        self._site = site

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **more: Any) -> Any:
            return await self._call(name, arguments, more)

        return call

    async def _call(self, name: str, arguments: tuple[Any, ...], more: dict[str, Any]) -> Any:
        site = self._site
        await site.pause()
        fault = site.vim_faults.pop(0) if site.vim_faults else ""
        if fault:
            site.world.count("fault", f"vim {fault}")
            site.world.step("fault", site.name, lambda: f"vim {name} {fault}")
        # A refusal to shape a subnet would be about its gateway: then it is put back without one, and told.
        if fault == "before" and name != "shape_subnet":
            raise SiteRefused("the simulated VIM refuses")
        if fault in ("before", "away"):
            raise SiteUnreachable("the simulated VIM does not answer", sites=[site.name])
        if name in READS:
            return await getattr(site.vim, name)(*arguments, **more)
        site.at_step()
        result = await getattr(site.vim, name)(*arguments, **more)
        site.world.step("vim", site.name, lambda: f"{name} {_short(arguments)}")
        site.at_step()
        if fault == "behind":
            raise SiteUnreachable("the simulated VIM's answer is lost", sites=[site.name])
        await site.pause()
        return result


def _short(arguments: tuple[Any, ...]) -> str:
    first = arguments[0]
    told = first[:8] if isinstance(first, str) else f"{first.service_id[:8]} imports {first.import_targets}"
    shape = arguments[-1]
    return f"{told} {shape.cidr} {shape.pools}" if hasattr(shape, "pools") else told


def make_uuid(bits: int) -> str:
    return str(uuid.UUID(int=bits, version=4))
