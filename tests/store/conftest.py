"""A database of one's own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from diminet.store import SqlStore, upgrade


@pytest.fixture
def memory() -> Iterator[SqlStore]:
    store = SqlStore("sqlite://", threaded=False)
    yield store
    store.close()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Of a file at the newest schema."""
    url = f"sqlite:///{tmp_path}/diminet.db"
    upgrade(url)
    return url


@pytest.fixture
def store(url: str) -> Iterator[SqlStore]:
    store = SqlStore(url)
    yield store
    store.close()
