"""What a certificate of DIMINET says: which site it belongs to (a SAN URI `diminet://site/NAME`).

Never the common name, never an address: addresses change hands, names of sites do not.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from cryptography import x509

from diminet.model import SITE_NAME

SITE_URI = "diminet://site/"


@dataclass(frozen=True)
class PeerCertificate:
    """site: None if it names no site, or several. Times are epoch seconds, UTC."""

    site: str | None
    serial: int
    not_before: float
    not_after: float


def site_of(certificate: x509.Certificate) -> str | None:
    """The one site that the certificate names."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return None
    uris = [
        uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith(SITE_URI)
    ]
    if len(uris) != 1:
        return None
    name = uris[0].removeprefix(SITE_URI)
    return name if re.fullmatch(SITE_NAME, name, re.ASCII) else None


@lru_cache(maxsize=512)
def read_certificate(der: bytes) -> PeerCertificate:
    """Cached, since it is asked for at every message of a connection. A certificate that TLS accepted
    but that cannot be read names no site."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        return PeerCertificate(
            site=site_of(certificate),
            serial=certificate.serial_number,
            not_before=certificate.not_valid_before_utc.timestamp(),
            not_after=certificate.not_valid_after_utc.timestamp(),
        )
    except ValueError:
        return PeerCertificate(site=None, serial=0, not_before=0.0, not_after=0.0)


def day(epoch_seconds: float) -> str:
    """For messages: 2026-11-23 11:25 UTC."""
    return datetime.fromtimestamp(epoch_seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
