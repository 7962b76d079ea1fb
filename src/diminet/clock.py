"""Time and chance as they are; fills `engine.ports.Clock`."""

import asyncio
import random
import time
import uuid
from contextlib import AbstractAsyncContextManager
from typing import Any


class SystemClock:
    def now(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[Any]:
        return asyncio.timeout(seconds)

    def uuid(self) -> str:
        return str(uuid.uuid4())

    def random(self) -> float:
        return random.random()
