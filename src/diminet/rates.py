"""Token buckets: who may ask how often. For users in the north, for peers in the east and west."""

from collections import OrderedDict
from collections.abc import Callable

from diminet.errors import TooManyRequests


class Buckets:
    """A token bucket for each of the `most` keys that asked last. `clock`: seconds, monotonic."""

    def __init__(self, *, rate: float, burst: int, most: int, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._most = most
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, key: str) -> float | None:
        """None if one more is allowed now, else the seconds until it is."""
        now = self._clock()
        level, since = self._levels.pop(key, (self._burst, now))
        level = min(self._burst, level + max(0.0, now - since) * self._rate)
        allowed = level >= 1.0
        self._levels[key] = (level - 1.0 if allowed else level, now)
        while len(self._levels) > self._most:
            self._levels.popitem(last=False)
        return None if allowed else (1.0 - level) / self._rate

    def check(self, key: str, who: str) -> None:
        """Raises TooManyRequests with the time to wait."""
        wait = self.take(key)
        if wait is not None:
            raise TooManyRequests(
                f"{who} may ask {self._rate:g} times per second; wait {wait:.1f} s and ask again",
                retry_after=wait,
            )
