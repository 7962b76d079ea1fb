import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from one_site import OneSite


@pytest.fixture
def site() -> Iterator[OneSite]:
    """Not in tmp_path, which is closed to other users: some tests come as one."""
    with tempfile.TemporaryDirectory(prefix="surroundings-") as directory:
        Path(directory).chmod(0o755)
        yield OneSite(Path(directory) / "A")
