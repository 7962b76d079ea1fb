"""What was just read or written and need not be read again for a moment."""

import math
from time import monotonic
from typing import Generic, TypeVar

RECENT_S = 2.0  # seconds for which it need not be read again
MOST = 1000  # networks

T = TypeVar("T")
Noted = tuple[T, float]  # what was seen, and when


class Recent(Generic[T]):
    """By network id. No value is None."""

    def __init__(self) -> None:
        self._noted: dict[str, Noted[T]] = {}

    def note(self, network_id: str, value: T) -> None:
        """Seen just now."""
        self._put(network_id, (value, monotonic()))

    def get(self, network_id: str) -> T | None:
        """None: nothing is known, or it is too old."""
        noted = self._noted.get(network_id)
        return None if noted is None or monotonic() >= noted[1] + RECENT_S else noted[0]

    def forget(self, network_id: str) -> None:
        self._noted.pop(network_id, None)

    def take(self, network_id: str) -> float:
        """Forget it; when it was seen."""
        return self._noted.pop(network_id, (None, -math.inf))[1]

    def put_back(self, network_id: str, value: T, seen_at: float) -> None:
        """As if it had not been taken."""
        self._put(network_id, (value, seen_at))

    def _put(self, network_id: str, noted: Noted[T]) -> None:
        if len(self._noted) >= MOST:
            self._noted.clear()
        self._noted[network_id] = noted
