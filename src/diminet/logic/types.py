"""The types of service that there are; only the composition root imports this."""

from diminet.logic.l2 import L2
from diminet.logic.l3 import L3
from diminet.logic.service_type import ServiceType

TYPES: dict[str, ServiceType] = {"l2": L2(), "l3": L3()}
