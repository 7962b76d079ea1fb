"""Fixtures of this room; what they are made of is in east_west_world (a name that no other room has)."""

from pathlib import Path

import pytest
from east_west_world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)
