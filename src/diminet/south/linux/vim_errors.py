"""What the linux site's own networking service says no with, in Neutron's words.

VimError             status and Neutron's `type`; the message says what to do
├── BadRequest       400
├── Forbidden        403
├── Missing          404
└── InUse            409
"""

from typing import ClassVar


class VimError(Exception):
    """A refusal with Neutron's exception name as `type`, which its clients know."""

    status: ClassVar[int] = 500

    def __init__(self, type_: str, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.type = type_
        self.message = message
        self.detail = detail


class BadRequest(VimError):
    status = 400


class Forbidden(VimError):
    status = 403


class Missing(VimError):
    status = 404


class InUse(VimError):
    status = 409


def missing(kind: str, id_: str) -> Missing:
    """kind: `network`, `subnet` or `port`."""
    return Missing(f"{kind.capitalize()}NotFound", f"{kind.capitalize()} {id_} could not be found.")
