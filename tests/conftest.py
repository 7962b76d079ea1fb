"""For all tests."""

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A test that configures the log writes to a stream that ends with it; the next one starts anew."""
    yield
    structlog.reset_defaults()
