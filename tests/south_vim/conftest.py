"""A networking service on a real database, with a kernel that records instead of acting."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from recorded_site import recorded_site


@pytest.fixture
def site(tmp_path: Path) -> SimpleNamespace:
    """`site.vim()` opens the service, again and again on one database and one kernel."""
    return recorded_site(tmp_path)
