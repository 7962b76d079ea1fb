"""Instances of a lab that take their time: on a busy machine Neutron needs longer than a user would wait."""

import sys
from pathlib import Path

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
