"""Everything that DIMINET says no with.

DiminetError
├── InvalidRequest            invalid-request
├── NotAuthenticated          not-authenticated
├── NotAuthorised             not-authorised
├── NotFound
│   ├── ServiceNotFound       service-not-found
│   ├── NetworkNotFound       network-not-found
│   └── SiteUnknown           site-unknown
├── RevisionConflict          revision-conflict      the If-Match pair is not the current one
├── PreconditionRequired      precondition-required
├── TooLarge                  too-large
├── TooManyRequests           too-many-requests
├── MethodNotAllowed          method-not-allowed
├── NotAcceptable             not-acceptable
├── Conflict
│   ├── CidrOverlap           cidr-overlap           names both networks and the overlap
│   ├── ResourceNotClean      resource-not-clean
│   ├── ResourceBusy          resource-busy          carries the holder's ticket while only reserved
│   ├── PoolExhausted         pool-exhausted
│   ├── IncompatibleSites     incompatible-sites
│   ├── QuotaExceeded         quota-exceeded
│   ├── IdempotencyConflict   idempotency-conflict
│   └── SiteRefused           site-refused           what the site's own software said
├── Unavailable
│   ├── SiteUnreachable       site-unreachable
│   ├── StorageUnavailable    storage-unavailable
│   └── Fenced                fenced
├── InternalError             internal-error         a bug
└── BadSurroundings           bad-surroundings       start-up only: configuration, certificates, privileges

The codes are stable and are part of the API (DESIGN section 3); this module knows no HTTP.
"""

from collections.abc import Sequence
from typing import Any, ClassVar


class DiminetError(Exception):
    """A refusal or failure with a stable `code` and a sentence that says what to do.

    sites: names of the sites it is about. retry_after: seconds, where trying again may help.
    ticket: of the request that holds the resource (ResourceBusy only; None when it is committed).
    networks: ids of the answering site's own networks that cannot be in the service, if it is these.
    """

    code: ClassVar[str] = "internal-error"

    def __init__(
        self,
        message: str,
        *,
        sites: Sequence[str] = (),
        retry_after: float | None = None,
        ticket: tuple[int, int, int] | None = None,
        networks: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.sites = tuple(sites)
        self.retry_after = retry_after
        self.ticket = ticket
        self.networks = tuple(networks)

    def as_dict(self) -> dict[str, Any]:
        """The form in which an error crosses from one instance to another; `from_dict` reads it."""
        return {
            "code": self.code,
            "message": self.message,
            "sites": list(self.sites),
            "retry_after": self.retry_after,
            "ticket": list(self.ticket) if self.ticket else None,
            "networks": list(self.networks),
        }


class InvalidRequest(DiminetError):
    code = "invalid-request"


class NotAuthenticated(DiminetError):
    code = "not-authenticated"


class NotAuthorised(DiminetError):
    code = "not-authorised"


class NotFound(DiminetError):
    """Something that does not exist, or that the caller may not know to exist."""


class ServiceNotFound(NotFound):
    code = "service-not-found"


class NetworkNotFound(NotFound):
    code = "network-not-found"


class SiteUnknown(NotFound):
    code = "site-unknown"


class RevisionConflict(DiminetError):
    code = "revision-conflict"


class PreconditionRequired(DiminetError):
    code = "precondition-required"


class TooLarge(DiminetError):
    code = "too-large"


class TooManyRequests(DiminetError):
    code = "too-many-requests"


class MethodNotAllowed(DiminetError):
    code = "method-not-allowed"


class NotAcceptable(DiminetError):
    code = "not-acceptable"


class Conflict(DiminetError):
    """The request is well formed, but the state of a site stands against it."""


class CidrOverlap(Conflict):
    code = "cidr-overlap"


class ResourceNotClean(Conflict):
    code = "resource-not-clean"


class ResourceBusy(Conflict):
    code = "resource-busy"


class PoolExhausted(Conflict):
    code = "pool-exhausted"


class IncompatibleSites(Conflict):
    code = "incompatible-sites"


class QuotaExceeded(Conflict):
    code = "quota-exceeded"


class IdempotencyConflict(Conflict):
    code = "idempotency-conflict"


class SiteRefused(Conflict):
    code = "site-refused"


class Unavailable(DiminetError):
    """Nothing is wrong with the request; something needed for it is away."""


class SiteUnreachable(Unavailable):
    code = "site-unreachable"


class StorageUnavailable(Unavailable):
    code = "storage-unavailable"


class Fenced(Unavailable):
    code = "fenced"


class InternalError(DiminetError):
    code = "internal-error"


class BadSurroundings(DiminetError):
    code = "bad-surroundings"


def _leaves(cls: type[DiminetError]) -> list[type[DiminetError]]:
    return [cls, *(leaf for sub in cls.__subclasses__() for leaf in _leaves(sub))]


BY_CODE: dict[str, type[DiminetError]] = {
    cls.code: cls for cls in _leaves(DiminetError) if "code" in cls.__dict__ and cls is not DiminetError
}


def from_dict(data: dict[str, Any], *, sites: Sequence[str] = ()) -> DiminetError:
    """The error that a peer sent; an unknown code (a newer peer) becomes SiteRefused."""
    cls = BY_CODE.get(str(data.get("code")), SiteRefused)
    ticket = data.get("ticket")
    return cls(
        str(data.get("message", "the site gave no reason"))[:2000],
        sites=[str(site) for site in data.get("sites") or sites],
        retry_after=data.get("retry_after"),
        ticket=(int(ticket[0]), int(ticket[1]), int(ticket[2])) if ticket else None,
        networks=[str(network) for network in data.get("networks") or ()],
    )
