"""What a floor agent is told, and what it answers: a line of JSON each."""

from typing import Literal

from diminet.model import Model, SubnetShape, Target


class Order(Model):
    """`network`: make a tenant's network with that `cidr`. `create`, `delete`: the calls, timed; target's
    networks are left empty where `network_id` is None: the network is made. `remove`: that network."""

    op: Literal["network", "create", "delete", "remove"]
    cidr: str = ""
    network_id: str | None = None
    made: bool = False
    target: Target | None = None
    shape: SubnetShape | None = None


class Done(Model):
    seconds: float = 0.0
    network_id: str | None = None
    error: str | None = None
