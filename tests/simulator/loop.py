"""An asyncio event loop without threads, sockets or real time: what happens next is the next timer.

Everything ready runs in the order in which it became ready, as in asyncio; timers of one moment in the
order in which they were set. So a run is decided by the delays that the caller asks for.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any, TypeVar

T = TypeVar("T")


class Crash(BaseException):
    """The instance is gone at once, as by kill -9."""


class Life:
    """One run of an instance, from its start to its crash: the tasks that end with it."""

    def __init__(self) -> None:
        self.alive = True
        self.tasks: dict[asyncio.Task[Any], None] = {}  # in the order of their birth

    def end(self) -> None:
        self.alive = False
        for task in list(self.tasks):
            task.cancel()


LIFE: ContextVar[Life | None] = ContextVar("life", default=None)


class VirtualLoop(asyncio.AbstractEventLoop):
    """What asyncio's tasks, locks and time-outs need of a loop. `time()` starts at 0.

    halted: set by whoever has seen enough; nothing more is run then.
    """

    def __init__(self) -> None:
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._serial = 0
        self._now = 0.0
        self.halted = False
        self.own = Life()  # of tasks that are no instance's
        self.on_error: Callable[[dict[str, Any]], None] = lambda context: None

    # -- what asyncio asks for --

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + max(0.0, delay), callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._serial += 1
        heapq.heappush(self._timers, (when, self._serial, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is dropped when its time comes."""

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> "asyncio.Task[T]":
        life = LIFE.get() if context is None else context.get(LIFE)
        life = life or self.own
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        life.tasks[task] = None
        task.add_done_callback(lambda done: life.tasks.pop(done, None))
        if not life.alive:
            task.cancel()
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.on_error(context)

    # -- running --

    def run(self, main: Coroutine[Any, Any, T]) -> T | None:
        """Until `main` ends (its result), or the loop is halted, or nothing is left to wait for (None)."""
        asyncio._set_running_loop(self)
        try:
            task = self.create_task(main)
            while not task.done() and not self.halted:
                if not self._ready and not self._advance():
                    break
                while self._ready and not self.halted:
                    handle = self._ready.popleft()
                    if not handle.cancelled():
                        handle._run()
            return task.result() if task.done() else None
        finally:
            asyncio._set_running_loop(None)

    def drain(self) -> None:
        """What is ready runs once more, with all timers forgotten: for tasks that were cancelled."""
        self._timers.clear()
        asyncio._set_running_loop(self)
        try:
            while self._ready:
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()
        finally:
            asyncio._set_running_loop(None)

    def _advance(self) -> bool:
        """To the next timer; False if there is none."""
        while self._timers:
            when, _, handle = heapq.heappop(self._timers)
            if not handle.cancelled():
                self._now = max(self._now, when)
                self._ready.append(handle)
                return True
        return False
