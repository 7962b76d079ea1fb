"""The network between the sites: every message crosses as its real headers and JSON, and may be lost,
doubled, late, out of order, or cut off in one direction or both.
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from diminet.east_west import envelope
from diminet.errors import DiminetError, IncompatibleSites, InvalidRequest, SiteUnreachable
from diminet.messages import (
    Acknowledgement,
    BlockGrant,
    BlockRequest,
    Change,
    ChangeAnswer,
    Context,
    DocumentPut,
    Hello,
    MemberState,
    Reservation,
    ReserveRequest,
    Snapshot,
    SyncReport,
    Tombstone,
    Vote,
    VoteRequest,
)
from simulator.loop import Crash

if TYPE_CHECKING:
    from simulator.world import Site, World

REQUESTS: dict[str, type[BaseModel] | None] = {
    "hello": None,
    "reserve": ReserveRequest,
    "put": DocumentPut,
    "bury": Tombstone,
    "abort": None,
    "snapshot": None,
    "give": BlockRequest,
    "hand_in": Change,
    "vote": VoteRequest,
    "sync": SyncReport,
}
ANSWERS: dict[str, type[BaseModel] | None] = {
    "hello": Hello,
    "reserve": Reservation,
    "put": MemberState,
    "bury": Acknowledgement,
    "abort": None,
    "snapshot": Snapshot,
    "give": BlockGrant,
    "hand_in": ChangeAnswer,
    "vote": Vote,
    "sync": SyncReport,
}
LATE_MOST_S = 40.0  # of a message that is held up; longer than any promise is kept


@dataclass
class Weather:
    """How the network is. loss, doubling, holding_up: shares of all messages. latency: seconds."""

    loss: float = 0.0
    doubling: float = 0.0
    holding_up: float = 0.0
    latency: float = 0.005
    jitter: float = 0.02


@dataclass
class Message:
    sender: str
    receiver: str
    kind: str
    headers: dict[str, str]
    parts: list[str]  # JSON of models, other arguments as they are
    reply: "asyncio.Future[tuple[bool, str]] | None"  # (refused, body)
    serial: int = 0


@dataclass
class Network:
    world: "World"
    weather: Weather = field(default_factory=Weather)
    cuts: set[tuple[str, str]] = field(default_factory=set)  # (from, to)
    slow: dict[str, float] = field(default_factory=dict)  # site -> seconds more, each way
    sent: int = 0

    def heal(self) -> None:
        self.cuts.clear()
        self.slow.clear()
        calm = Weather(latency=self.weather.latency, jitter=self.weather.jitter)
        self.weather = calm

    # -- sending --

    def send(self, message: Message) -> None:
        self.world.checks.message(message)
        self.post(message)

    def post(self, message: Message) -> None:
        """Without a look at whether it may be sent: for what is forged."""
        self.sent += 1
        message.serial = self.sent
        world, one_way = self.world, (message.sender, message.receiver)
        if one_way in self.cuts:
            if world.rng.random() < 0.5:
                self._refuse_soon(message, "no route")
            return
        for delay in self._copies(message.sender, message.receiver):
            world.loop.call_later(delay, self._arrive, message, context=world.context)

    def _copies(self, sender: str, receiver: str) -> list[float]:
        rng, weather = self.world.rng, self.weather
        if weather.loss and rng.random() < weather.loss:
            self.world.count("fault", "loss")
            return []
        delays = [self._delay(sender, receiver)]
        if weather.doubling and rng.random() < weather.doubling:
            self.world.count("fault", "doubling")
            delays.append(self._delay(sender, receiver) + rng.random() ** 2 * LATE_MOST_S)
        return delays

    def _delay(self, sender: str, receiver: str) -> float:
        rng, weather = self.world.rng, self.weather
        delay = weather.latency + rng.random() * weather.jitter
        delay += self.slow.get(sender, 0.0) + self.slow.get(receiver, 0.0)
        if weather.holding_up and rng.random() < weather.holding_up:
            self.world.count("fault", "holding up")
            delay += rng.random() ** 2 * LATE_MOST_S
        return delay

    def _refuse_soon(self, message: Message, why: str) -> None:
        delay = self._delay(message.receiver, message.sender)
        self.world.loop.call_later(delay, self._refused, message, why, context=self.world.context)

    def _refused(self, message: Message, why: str) -> None:
        if message.reply is not None and not message.reply.done():
            message.reply.set_exception(_Refused(why))

    # -- receiving --

    def _arrive(self, message: Message) -> None:
        world = self.world
        receiver = world.sites[message.receiver]
        if (message.sender, message.receiver) in self.cuts:
            return
        world.step("deliver", message.receiver, lambda: f"{message.kind} from {_told(message)}")
        if not receiver.up:
            if world.rng.random() < 0.5:
                self._refuse_soon(message, "nobody listens")
            return
        receiver.spawn(self._serve(receiver, message))

    async def _serve(self, receiver: "Site", message: Message) -> None:
        world = self.world
        try:
            answer = await self._answer(receiver, message)
            refused, code = False, "ok"
        except DiminetError as error:
            answer, refused, code = json.dumps(error.as_dict()), True, error.code
        except (Crash, asyncio.CancelledError):
            raise
        except Exception as error:
            world.bug(receiver.name, f"{message.kind} from {message.sender}", error)
            return
        world.count("answer", f"{message.kind} {code}")
        world.checks.answered(message, answer)
        one_way = (message.receiver, message.sender)
        if message.reply is None or one_way in self.cuts:
            return
        for delay in self._copies(*one_way):
            world.loop.call_later(
                delay, self._answered, message, refused, answer, code, context=world.context
            )

    def _answered(self, message: Message, refused: bool, answer: str, code: str) -> None:
        if (message.receiver, message.sender) in self.cuts or message.reply is None:
            return
        self.world.step(
            "answer",
            message.sender,
            lambda: f"{message.kind} #{message.serial} by {message.receiver}: {code}",
        )
        if not message.reply.done():
            message.reply.set_result((refused, answer))

    async def _answer(self, receiver: "Site", message: Message) -> str:
        """What the east-west server does (diminet.east_west.server), without HTTP."""
        now = receiver.clock.now()
        envelope.check_protocol(message.headers[envelope.PROTOCOL], f"site {message.sender!r}")
        headers = {name.lower(): [value] for name, value in message.headers.items()}
        ctx = envelope.from_headers(headers, sender=message.sender, now=now)
        model, parts = REQUESTS[message.kind], list[Any](message.parts)
        if model is not None and parts:
            parts[-1] = envelope.parse(model, message.parts[-1].encode(), "the body")
            self._door(receiver, message, parts)
        result = await getattr(receiver.engine, message.kind)(ctx, *parts)
        return "" if result is None else receiver.encode(result)

    @staticmethod
    def _door(receiver: "Site", message: Message, parts: list[Any]) -> None:
        body = parts[-1]
        inner = [body.document] if isinstance(body, DocumentPut) else []
        if isinstance(body, Tombstone):
            inner = [body, body.document] if body.document else [body]
        if any(part.service_id != parts[0] for part in inner):
            raise InvalidRequest("the path is of another service than the body")
        if isinstance(body, ReserveRequest):
            peer = receiver.world.names.by_name[message.sender]
            envelope.check_number(peer, body.ticket.site, receiver.name)


class _Refused(Exception):
    """The connection was refused at once."""


def _told(message: Message) -> str:
    about = f" {message.parts[0][:8]}" if len(message.parts) > 1 or message.kind == "snapshot" else ""
    return f"{message.sender} #{message.serial}{about}"


class Link:
    """One site's Peers."""

    def __init__(self, site: "Site") -> None:
        self.site = site

    def at(self, name: str) -> Any:
        return _Remote(self.site, name)


class _Remote:
    def __init__(self, site: "Site", receiver: str) -> None:
        self._site, self._receiver = site, receiver

    def __getattr__(self, kind: str) -> Any:
        async def call(ctx: Context, *arguments: Any) -> Any:
            return await self._call(kind, ctx, arguments)

        return call

    async def _call(self, kind: str, ctx: Context, arguments: tuple[Any, ...]) -> Any:
        """As HttpPeers.call: by the deadline, or by request_timeout."""
        site, receiver = self._site, self._receiver
        site.at_step()
        most = site.world.limits.request_timeout
        seconds = most if ctx.deadline is None else min(ctx.deadline - site.clock.now(), most)
        if seconds <= 0:
            raise _away(receiver, "no time is left for the request")
        message = Message(
            sender=site.name,
            receiver=receiver,
            kind=kind,
            headers=site.headers(ctx, seconds),
            parts=[site.encode(a) if isinstance(a, BaseModel) else a for a in arguments if a is not None],
            reply=site.world.loop.create_future(),
        )
        site.world.network.send(message)
        site.at_step()
        try:
            async with asyncio.timeout(seconds):
                assert message.reply is not None
                refused, answer = await message.reply
        except TimeoutError:
            raise _away(receiver, f"it did not answer within {seconds:.1f} s") from None
        except _Refused as why:
            raise _away(receiver, str(why)) from None
        site.alive()
        if refused:
            error = envelope.error_of(answer.encode(), receiver)
            assert error is not None
            raise error
        model = ANSWERS[kind]
        return None if model is None else self._read(model, answer)

    def _read(self, model: type[BaseModel], answer: str) -> BaseModel:
        try:
            return envelope.parse(model, answer.encode(), "the answer")
        except InvalidRequest as error:
            raise IncompatibleSites(error.message, sites=[self._receiver]) from error


def _away(site: str, why: str) -> SiteUnreachable:
    return SiteUnreachable(f"site {site!r} cannot be reached: {why}", sites=[site], retry_after=5.0)
