"""Requests that schemathesis makes of an OpenAPI document, the same in every run."""

from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode


def each(operation: Any, mode: GenerationMode, ask: Any, *, examples: int) -> None:
    """Call `ask` with that many cases of the operation."""
    limits = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    limits(given(operation.as_strategy(generation_mode=mode))(ask))()
