"""Background looks that cannot be told what has changed go through all services in turns: what a round
costs does not grow with how many there are."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stretch:
    """The ids behind `after`, up to `last`; None: to the end."""

    after: str
    last: str | None

    def __contains__(self, service_id: object) -> bool:
        return (
            isinstance(service_id, str)
            and service_id > self.after
            and (self.last is None or service_id <= self.last)
        )


@dataclass(slots=True)
class Turn:
    """after: the id up to which was looked; "": the next round begins anew."""

    after: str = ""

    def took(self, ids: Collection[str], most: int) -> Stretch:
        """These were next, by id, out of at most so many: what the round has covered."""
        stretch = Stretch(self.after, max(ids) if ids and len(ids) >= most else None)
        self.after = stretch.last or ""
        return stretch
