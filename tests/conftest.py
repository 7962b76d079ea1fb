"""For all tests."""

import os
from collections.abc import Iterator

import pytest
import structlog

from openstack_servers import cloud

__all__ = ["cloud"]  # a fixture for every room's tests

LAB_RERUNS = int(os.environ.get("LAB_RERUNS", "2"))
# Rooms whose tests decide everything themselves, the clock too: there a failure is a failure.
DETERMINED = {"engine", "house", "logic", "simulator", "store"}


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A test that configures the log writes to a stream that ends with it; the next one starts anew."""
    yield
    structlog.reset_defaults()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On a small, noisy machine, real daemons get two more tries and real sockets one, all reported."""
    for item in items:
        if item.get_closest_marker("lab"):
            item.add_marker(pytest.mark.flaky(reruns=LAB_RERUNS, reruns_delay=5))
        elif item.path.parent.name not in DETERMINED:
            item.add_marker(pytest.mark.flaky(reruns=min(LAB_RERUNS, 1)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the first tries died of: a second that passes must not hide a defect."""
    for report in terminalreporter.stats.get("rerun", ()):
        terminalreporter.section(f"first try of {report.nodeid} ({report.when})")
        terminalreporter.write_line(report.longreprtext)
