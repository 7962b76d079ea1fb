"""A small certificate authority for the sites: one CA, one certificate per site, one revocation list.

Directory of the CA: `ca.pem`, `ca.key` (0600), `crl.pem` and `issued/SITE-SERIAL.pem`, kept so that a
site's certificates can be revoked by its name. Directory of a site: `site.pem`, `site.key` (0600),
`ca.pem`, `crl.pem`. Keys are EC P-256. Files are replaced whole, never half written.
"""

import ipaddress
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from diminet.east_west.certificates import SITE_URI, site_of
from diminet.errors import BadSurroundings, InvalidRequest
from diminet.model import SITE_NAME
from diminet.watched import read_bytes

DEFAULT_SITE_DAYS = 365
DEFAULT_CA_DAYS = 3650
MAX_DAYS = 36_500
# A fresh certificate must be good at once at a site whose clock is somewhat behind the CA's.
HEAD_START = timedelta(hours=1)
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
DNS_NAME = rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*"


@dataclass(frozen=True)
class Authority:
    """Files of a CA."""

    directory: Path

    @property
    def cert(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def key(self) -> Path:
        return self.directory / "ca.key"

    @property
    def crl(self) -> Path:
        return self.directory / "crl.pem"

    @property
    def issued(self) -> Path:
        return self.directory / "issued"


@dataclass(frozen=True)
class SiteFiles:
    """Files of a site, as `diminet.toml` names them."""

    directory: Path

    @property
    def cert(self) -> Path:
        return self.directory / "site.pem"

    @property
    def key(self) -> Path:
        return self.directory / "site.key"

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def crl(self) -> Path:
        return self.directory / "crl.pem"


def init_ca(directory: Path, *, days: int = DEFAULT_CA_DAYS, now: datetime | None = None) -> Authority:
    """A new CA in that directory. Raises BadSurroundings if there is one already."""
    authority = Authority(directory)
    _refuse_overwriting(authority.cert, authority.key)
    _check_days(days)
    now = now or datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    # A name of its own: OpenSSL finds the revocation list of a certificate by the name of its CA, and while
    # one CA takes over from another both are trusted.
    own = f"DIMINET CA {secrets.token_hex(4)}"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, own)])
    certificate = (
        _builder(name, name, key.public_key(), now, now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _make_directory(authority.issued)
    _write_key(authority.key, key)
    _write(authority.cert, certificate.public_bytes(serialization.Encoding.PEM))
    _write_crl(authority, key, certificate, [], now)
    return authority


def issue(
    ca_directory: Path,
    site: str,
    addresses: Sequence[str],
    out: Path,
    *,
    days: int = DEFAULT_SITE_DAYS,
    now: datetime | None = None,
) -> SiteFiles:
    """Key and certificate of a site. addresses: IP addresses and DNS names of its instance.

    Raises InvalidRequest (name, address, days) and BadSurroundings (files there already, no CA).
    """
    files = SiteFiles(out)
    _refuse_overwriting(files.cert, files.key)
    _issue(Authority(ca_directory), site, addresses, files, days, now or datetime.now(UTC))
    return files


def renew(
    ca_directory: Path, out: Path, *, days: int = DEFAULT_SITE_DAYS, now: datetime | None = None
) -> SiteFiles:
    """A new key and certificate for the site and addresses of the one in `out`, put in its place. The
    CA's certificate and revocation list there are brought up to date too. Raises as `issue` does."""
    files = SiteFiles(out)
    old = _load_certificate(files.cert, "certificate")
    site = site_of(old)
    if site is None:
        raise InvalidRequest(f"{files.cert} is not the certificate of a DIMINET site; use `pki issue`")
    names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = [str(ip) for ip in names.get_values_for_type(x509.IPAddress)]
    addresses += names.get_values_for_type(x509.DNSName)
    _issue(Authority(ca_directory), site, addresses, files, days, now or datetime.now(UTC))
    return files


def revoke(ca_directory: Path, site: str, *, now: datetime | None = None) -> Path:
    """Revokes every certificate that was issued to the site so far; the list is to be copied to all
    sites. Issue a new one afterwards if the site is to stay. Raises BadSurroundings if it has none."""
    authority = Authority(ca_directory)
    _check_site(site)
    certificate, key = _load_ca(authority)
    issued = [_load_certificate(path, "certificate") for path in sorted(authority.issued.glob("*.pem"))]
    serials = [one.serial_number for one in issued if site_of(one) == site]
    if not serials:
        raise BadSurroundings(f"the CA in {ca_directory} has issued no certificate to site {site!r}")
    before = x509.load_pem_x509_crl(read_bytes(authority.crl, "revocation list"))
    known = {entry.serial_number for entry in before}
    now = now or datetime.now(UTC)
    added = [_revocation(serial, now) for serial in serials if serial not in known]
    _write_crl(authority, key, certificate, [*before, *added], now)
    return authority.crl


def _issue(
    authority: Authority, site: str, addresses: Sequence[str], files: SiteFiles, days: int, now: datetime
) -> None:
    _check_site(site)
    _check_days(days)
    alternative = [x509.UniformResourceIdentifier(SITE_URI + site), *map(_general_name, addresses)]
    ca, ca_key = _load_ca(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])
    end = min(now + timedelta(days=days), ca.not_valid_after_utc)
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        _builder(name, ca.subject, key.public_key(), now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(alternative), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    _make_directory(authority.issued)
    _make_directory(files.directory)
    _write(authority.issued / f"{site}-{certificate.serial_number:x}.pem", pem)
    _write(files.ca, read_bytes(authority.cert, "CA certificate"))
    _write(files.crl, read_bytes(authority.crl, "revocation list"))
    # A running instance that looks between these two keeps its old pair and looks again.
    _write_key(files.key, key)
    _write(files.cert, pem)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    if end <= now:
        raise BadSurroundings("the CA has expired; make a new one with `diminet pki init`")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - HEAD_START)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write_crl(
    authority: Authority,
    key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    revoked: Sequence[x509.RevokedCertificate],
    now: datetime,
) -> None:
    # Good as long as the CA: a list that ran out would shut every site out at once.
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=ca.subject,
        last_update=now - HEAD_START,
        next_update=ca.not_valid_after_utc,
        revoked_certificates=list(revoked),
    ).add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key()),  # type: ignore[arg-type]
        critical=False,
    )
    _write(authority.crl, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _revocation(serial: int, now: datetime) -> x509.RevokedCertificate:
    return x509.RevokedCertificateBuilder(serial, now - HEAD_START).build()


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        pass
    if not re.fullmatch(DNS_NAME, address, re.ASCII):
        raise InvalidRequest(f"{address!r} is neither an IP address nor a DNS name")
    return x509.DNSName(address)


def _check_site(site: str) -> None:
    if not re.fullmatch(SITE_NAME, site, re.ASCII):
        raise InvalidRequest(
            f"{site!r} cannot be a site's name: a letter or digit, then at most 62 of A-Z a-z 0-9 . _ -"
        )


def _check_days(days: int) -> None:
    if not 1 <= days <= MAX_DAYS:
        raise InvalidRequest(f"a certificate is valid for 1 to {MAX_DAYS} days, not {days}")


def _load_ca(authority: Authority) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = _load_certificate(authority.cert, "CA certificate")
    try:
        key = serialization.load_pem_private_key(read_bytes(authority.key, "CA key"), password=None)
    except (ValueError, TypeError) as exc:
        raise BadSurroundings(f"the CA key {authority.key} is not a PEM key without password") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadSurroundings(f"the CA key {authority.key} is not an EC key")
    return certificate, key


def _load_certificate(path: Path, what: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(read_bytes(path, what))
    except ValueError as exc:
        raise BadSurroundings(f"the {what} {path} is not a PEM certificate") from exc


def _refuse_overwriting(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise BadSurroundings(
                f"{path} exists already and is not overwritten; use `pki renew` for a site's certificate, "
                "or another directory"
            )


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise BadSurroundings(f"the directory {directory} cannot be made: {exc.strerror}") from exc


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(path, pem, mode=0o600)


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        beside.unlink(missing_ok=True)
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as exc:
        beside.unlink(missing_ok=True)
        raise BadSurroundings(f"{path} cannot be written: {exc.strerror}") from exc
