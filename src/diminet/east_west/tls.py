"""Mutual TLS between instances: who may speak, and that the other end is the site that was meant.

Certificates, CA and revocation list are files. A changed file is taken up for the next handshake
without a restart; a file that became bad leaves the last good copy in use (see `watched`).

Addresses in certificates are not compared with the address dialled: what counts is the site's name in
the certificate (`diminet://site/NAME`), which also holds behind address translation.
"""

import os
import re
import ssl
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from diminet.east_west.certificates import day, read_certificate, site_of
from diminet.errors import BadSurroundings
from diminet.watched import DEFAULT_RECHECK_S, Watched, read_bytes

DAY_S = 86_400.0
COMPLAINT_INTERVAL_S = 60.0
# Besides a bad certificate; who speaks no TLS at all would not understand an alert.
TOLD_TO_PEERS = ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "UNSUPPORTED_PROTOCOL")
_PEM_LIST = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class TlsFiles:
    """PEM files. ca: one or more CA certificates. crl: the revocation list of each, if there is one."""

    ca: Path
    cert: Path
    key: Path
    crl: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.ca, self.cert, self.key) + ((self.crl,) if self.crl else ())


class WrongSite(ssl.SSLCertVerificationError):
    """The other end has a good certificate, but it is another site's."""

    def __init__(self, expected: str, found: str | None) -> None:
        named = f"that of site {found!r}" if found else "of no DIMINET site"
        super().__init__(1, f"its certificate is {named}, not that of {expected!r}")


class _Held:
    """The files' content as of one reading. OpenSSL reads certificates and keys from files only: these lie
    in memory, and go with this object."""

    def __init__(self, files: TlsFiles) -> None:
        crl = files.crl if files.crl is not None and files.crl.exists() else None
        self.files = TlsFiles(
            ca=self._hold(files.ca, "CA certificate"),
            cert=self._hold(files.cert, "certificate"),
            key=self._hold(files.key, "private key"),
            crl=self._hold(crl, "revocation list") if crl else None,
        )

    def _hold(self, path: Path, what: str) -> Path:
        content = read_bytes(path, what)
        descriptor = os.memfd_create(path.name)
        weakref.finalize(self, os.close, descriptor)
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(content)
        return Path(f"/proc/self/fd/{descriptor}")


@dataclass(frozen=True)
class _Loaded:
    """All that was made from one reading of the files. clients: one context per peer, made on demand."""

    held: _Held
    server: ssl.SSLContext
    not_after: float
    revoked: frozenset[int]
    clients: dict[str, ssl.SSLContext]


class Credentials:
    """This site's certificate in use.

    Raises BadSurroundings (from the constructor only) with what is wrong, see `check`.
    recheck_s: seconds between two looks at the files. now: epoch seconds.
    """

    def __init__(
        self,
        files: TlsFiles,
        site_name: str,
        *,
        recheck_s: float = DEFAULT_RECHECK_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._files = files
        self._site_name = site_name
        self._now = now
        self._watched = Watched("certificates", files.paths, self._load, recheck_s=recheck_s)
        self._live = _server_context(self._watched.get().held.files)
        self._live.sni_callback = self._hand_over
        self._live.sslobject_class = _telling(self._refused)
        self._complained_at: dict[str, float] = {}

    def server(self) -> ssl.SSLContext:
        """For a listening socket, once: every new handshake goes on with the newest files."""
        return self._live

    def client(self, site: str) -> ssl.SSLContext:
        """For a connection to that site; the handshake fails if another answers. Another object when
        the files have changed, so that pooled connections of the old one are not used again."""
        loaded = self._watched.get()
        if site not in loaded.clients:
            loaded.clients[site] = _client_context(loaded.held.files, site)
        return loaded.clients[site]

    def revoked(self, serial: int) -> bool:
        """Asked for every message: a connection made before the revocation ends with it."""
        return serial in self._watched.get().revoked

    def not_after(self) -> float:
        return self._watched.get().not_after

    def days_left(self) -> float:
        """Until this site's own certificate expires; negative when it has."""
        return (self.not_after() - self._now()) / DAY_S

    def _load(self) -> _Loaded:
        certificate = check(self._files, self._site_name, self._now())
        held = _Held(self._files)
        try:
            server = _server_context(held.files)
        except ssl.SSLError as exc:
            raise BadSurroundings(
                f"the files of the certificate {self._files.cert} do not fit each other ({exc.reason}); if "
                "they are being replaced just now, they are read again"
            ) from exc
        return _Loaded(
            held=held,
            server=server,
            not_after=certificate.not_valid_after_utc.timestamp(),
            revoked=_revoked(self._files),
            clients={},
        )

    def _hand_over(self, handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        # OpenSSL calls this at every ClientHello, also without SNI: certificate and CA come from the
        # context that is set here. The flag that asks for a CRL does not: it holds from the next
        # handshake on, and `revoked` is asked for every message besides.
        newest = self._watched.get().server
        handshake.context = newest
        self._live.verify_flags = newest.verify_flags

    def _refused(self, reason: str) -> None:
        """Anyone can fail a handshake as often as he likes: one line per reason and minute."""
        now = self._now()
        if now - self._complained_at.get(reason, 0.0) >= COMPLAINT_INTERVAL_S:
            self._complained_at[reason] = now
            log.warning("a peer's TLS handshake failed", why=reason, site=self._site_name)


def days_left(cert: Path, *, now: float | None = None) -> float:
    """Until the certificate in that PEM file expires; negative when it has. Raises BadSurroundings."""
    certificate = _certificates(cert, "certificate")[0]
    return (certificate.not_valid_after_utc.timestamp() - (time.time() if now is None else now)) / DAY_S


def check(files: TlsFiles, site_name: str, now: float | None = None) -> x509.Certificate:
    """The site's certificate, if it can be used. Raises BadSurroundings that says what to do."""
    now = time.time() if now is None else now
    authorities = _certificates(files.ca, "CA certificate")
    certificate = _certificates(files.cert, "certificate")[0]
    _check_key(files, certificate)
    _check_signer(files, certificate, authorities)
    _check_time(files.cert, certificate, now)
    found = site_of(certificate)
    if found != site_name:
        raise BadSurroundings(
            f"the certificate {files.cert} is {'of site ' + repr(found) if found else 'of no DIMINET site'}, "
            f"but this site is {site_name!r}; issue one with `diminet pki issue --site {site_name} …`"
        )
    if certificate.serial_number in _revoked(files):
        raise BadSurroundings(
            f"the certificate {files.cert} is revoked by {files.crl}; `diminet pki issue` makes a new one"
        )
    return certificate


def north_context(cert: Path, key: Path, *, recheck_s: float = DEFAULT_RECHECK_S) -> ssl.SSLContext:
    """Server TLS without client certificates, for the users' port; renewed files are taken up too.
    Raises BadSurroundings."""
    watched = Watched(
        "north certificate", (cert, key), lambda: _plain_context(cert, key), recheck_s=recheck_s
    )
    live = _plain_context(cert, key)

    def hand_over(handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        handshake.context = watched.get()

    live.sni_callback = hand_over
    return live


def _plain_context(cert: Path, key: Path) -> ssl.SSLContext:
    certificate = _certificates(cert, "certificate")[0]
    _check_key(TlsFiles(ca=cert, cert=cert, key=key), certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    return context


def _server_context(files: TlsFiles) -> ssl.SSLContext:
    context = _mutual(ssl.PROTOCOL_TLS_SERVER, files)
    # A resumed session would not show its certificate again.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


def _client_context(files: TlsFiles, site: str) -> ssl.SSLContext:
    context = _mutual(ssl.PROTOCOL_TLS_CLIENT, files)
    context.sslobject_class = _bound_to(site)
    return context


def _mutual(protocol: int, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(files.ca)
    context.load_cert_chain(files.cert, files.key)
    if files.crl is not None and files.crl.exists():
        context.load_verify_locations(files.crl)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def _bound_to(site: str) -> type[ssl.SSLObject]:
    class BoundToSite(ssl.SSLObject):
        """Fails the handshake, before a byte of a message is sent, if the other end is another site."""

        def do_handshake(self) -> None:
            super().do_handshake()
            found = read_certificate(self.getpeercert(binary_form=True) or b"").site
            if found != site:
                raise WrongSite(site, found)

    return BoundToSite


def _telling(refused: Callable[[str], None]) -> type[ssl.SSLObject]:
    class Telling(ssl.SSLObject):
        """Lets the peer know why it is refused. The event loop would drop the connection with OpenSSL's
        alert still unsent; "want read" makes it send that first. The peer then hangs up, or the loop's
        handshake time-out does."""

        _told = False

        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as exc:
                if self._told:
                    raise
                self._told = True
                refused(getattr(exc, "verify_message", None) or exc.reason or "no TLS")
                if isinstance(exc, ssl.SSLCertVerificationError) or exc.reason in TOLD_TO_PEERS:
                    raise ssl.SSLWantReadError from exc
                raise

    return Telling


def _certificates(path: Path, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(read_bytes(path, what))
    except ValueError as exc:
        raise BadSurroundings(f"the {what} {path} is not a PEM certificate; issue it again") from exc


def _check_key(files: TlsFiles, certificate: x509.Certificate) -> None:
    try:
        key = serialization.load_pem_private_key(read_bytes(files.key, "private key"), password=None)
    except (ValueError, TypeError) as exc:
        raise BadSurroundings(f"the private key {files.key} is not a PEM key without password") from exc
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise BadSurroundings(
            f"the private key {files.key} does not belong to the certificate {files.cert}; "
            "copy both from the same `diminet pki issue`"
        )


def _check_signer(
    files: TlsFiles, certificate: x509.Certificate, authorities: list[x509.Certificate]
) -> None:
    if not any(_signed_by(certificate, authority) for authority in authorities):
        raise BadSurroundings(
            f"the certificate {files.cert} is not signed by the CA in {files.ca}; all sites need "
            "certificates of one CA, and its certificate"
        )


def _signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_time(path: Path, certificate: x509.Certificate, now: float) -> None:
    start, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    if now < start:
        raise BadSurroundings(
            f"the certificate {path} is valid from {day(start)}, but this machine's clock says {day(now)}; "
            "set the clock"
        )
    if now > end:
        raise BadSurroundings(
            f"the certificate {path} expired on {day(end)} (this machine's clock says {day(now)}); "
            "run `diminet pki renew`, or set the clock"
        )


def _revoked(files: TlsFiles) -> frozenset[int]:
    """Serial numbers in the revocation lists, one of each CA; a file that does not exist yet revokes
    nothing. Raises BadSurroundings where OpenSSL would refuse every certificate of one of the CAs."""
    if files.crl is None or not files.crl.exists():
        return frozenset()
    authorities = _certificates(files.ca, "CA certificate")
    lists = _lists(files.crl)
    if not all(any(_signs(crl, authority) for authority in authorities) for crl in lists):
        raise BadSurroundings(f"the revocation list {files.crl} is not signed by the CA in {files.ca}")
    for authority in authorities:
        if not any(_signs(crl, authority) for crl in lists):
            raise BadSurroundings(
                f"{files.ca} has several CAs, and {files.crl} no revocation list of the one with serial "
                f"number {authority.serial_number:x}; append its crl.pem"
            )
    return frozenset(entry.serial_number for crl in lists for entry in crl)


def _lists(path: Path) -> list[x509.CertificateRevocationList]:
    """Every list of a PEM file."""
    blocks = _PEM_LIST.findall(read_bytes(path, "revocation list"))
    try:
        lists = [x509.load_pem_x509_crl(block) for block in blocks]
    except ValueError:
        lists = []
    if not lists:
        raise BadSurroundings(f"the revocation list {path} is not a PEM CRL")
    return lists


def _signs(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except TypeError:
        return False
