"""What `diminet bench resiliency` found, as it is written to JSON. Seconds; 0 is the moment of the cut."""

import math
from collections.abc import Sequence
from typing import Literal

from diminet.lab.plan import Plane
from diminet.model import Model

Phase = Literal["before", "during", "after"]
PHASES: tuple[Phase, ...] = ("before", "during", "after")
CUTTING = 0.5  # seconds before the cut stands in which it is being made: of no phase


class Pings(Model):
    """From one instance to another. path: what the page calls it. began: of the first; answered: their
    numbers, from 0."""

    path: str
    began: float
    interval: float
    sent: int
    answered: tuple[int, ...]

    def at(self, number: int) -> float:
        return self.began + number * self.interval

    def between(self, start: float, end: float) -> tuple[int, int]:
        """(sent, answered) in that time."""
        numbers = [n for n in range(self.sent) if start <= self.at(n) < end]
        return len(numbers), len(set(numbers) & set(self.answered))

    def last_answer(self, start: float, end: float) -> float | None:
        """When the last one in that time was sent that was answered."""
        return max((self.at(n) for n in self.answered if start <= self.at(n) < end), default=None)

    def lasting_answers(self, start: float) -> float | None:
        """From when on every one was answered; None if the last one was not."""
        numbers = [n for n in range(self.sent) if self.at(n) >= start]
        lost = [n for n in numbers if n not in set(self.answered)]
        back = max(lost, default=numbers[0] - 1 if numbers else -1) + 1
        return self.at(back) if numbers and back <= numbers[-1] else None


class Outage(Model):
    """One cut of one site. healed: when it ended; ended: the observation. statuses: (when, operating
    status of the service at a site that was not cut), each time it was another."""

    plane: Plane
    healed: float
    ended: float
    pings: tuple[Pings, ...]
    statuses: tuple[tuple[float, str], ...]

    def phase(self, phase: Phase) -> tuple[float, float]:
        """Its start and end."""
        ends = {
            "before": (-math.inf, -CUTTING),
            "during": (0.0, self.healed),
            "after": (self.healed, self.ended),
        }
        return ends[phase]

    def status_since(self, status: str, start: float) -> float | None:
        """When the service was first said to be so, from `start` on."""
        return next((when for when, one in self.statuses if when >= start and one == status), None)


class Outages(Model):
    """delay_ms: of the WAN, one way. cut: the site that was isolated."""

    command: str
    taken_at: str
    version: str
    machine: str
    delay_ms: float
    cut: str
    sites: tuple[str, ...]
    outages: tuple[Outage, ...]

    def paths(self) -> Sequence[str]:
        return list(dict.fromkeys(pings.path for outage in self.outages for pings in outage.pings))
