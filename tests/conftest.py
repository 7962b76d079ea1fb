"""For all tests."""

from collections.abc import Iterator

import pytest
import structlog

from openstack_servers import cloud

__all__ = ["cloud"]  # a fixture for every room's tests


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A test that configures the log writes to a stream that ends with it; the next one starts anew."""
    yield
    structlog.reset_defaults()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real daemons on a small, noisy machine: a lab test has a second try, which pytest reports."""
    for item in items:
        if item.get_closest_marker("lab"):
            item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=5))
