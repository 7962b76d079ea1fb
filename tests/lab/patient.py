"""Instances of a lab that take their time: on a busy machine Neutron needs longer than a user would wait."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from diminet.client import ApiError

T = TypeVar("T")
PATIENCE = 120.0  # seconds in which a busy machine has done what was asked
BUSY = {"site-unreachable", "resource-busy"}  # what a machine that is too slow answers
PATIENT = (
    "env",
    "DIMINET_LIMITS__REQUEST_TIMEOUT=45",
    "DIMINET_LIMITS__RESERVATION_LIFETIME=90",
    "DIMINET_LIMITS__VIM_TIMEOUT=20",
    str(Path(sys.executable).with_name("diminet")),
    "serve",
    "--config",
    "{config}",
)


def patiently(work: Callable[[], T]) -> T:
    """Done, if need be again: on a busy machine a Neutron may take longer than a request may last."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return work()
        except ApiError as error:
            if error.word not in BUSY or time.monotonic() > deadline:
                raise
