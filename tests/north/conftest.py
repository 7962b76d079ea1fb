"""Fixtures of this room; what they are made of is in north_world (a name that no other room has)."""

import io
import logging

import pytest
import structlog
from north_double import IdentityDouble, RequestsDouble
from north_world import North, Running

from diminet.config import Settings
from diminet.config_limits import LimitSettings
from diminet.north.app import make_north_app
from diminet.telemetry import Metrics, configure_logging


@pytest.fixture
def serve_north():
    """A function: limits -> North. Everything is stopped at the end."""
    running, root = [], logging.getLogger()
    before = (root.level, root.handlers[:])

    def serve(*, public_url=None, readiness=None, **limits) -> North:
        requests, identity, metrics, log = RequestsDouble(), IdentityDouble(), Metrics(), io.StringIO()
        configure_logging("info", log)
        settings = Settings(
            site={"name": "paris", "number": 1},
            south={"vtep_ip": "10.0.0.1"},
            north={"public_url": public_url},
            limits=LimitSettings(**{"rate_burst": 100_000} | limits),
        )
        north = North(0, requests, identity, metrics, log)

        async def failing():
            return list(north.failing)

        site = Running(make_north_app(requests, identity, metrics, readiness or failing, settings))
        running.append(site)
        north.port = site.__enter__()
        return north

    yield serve
    for site in running:
        site.__exit__()
    structlog.reset_defaults()
    root.setLevel(before[0])
    root.handlers[:] = before[1]


@pytest.fixture
def north(serve_north):
    return serve_north()
