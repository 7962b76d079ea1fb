"""Why a peer gave no answer, in a sentence that sends the operator to the right place."""

import socket
import ssl

import aiohttp

from diminet.east_west.tls import WrongSite

# X509_V_ERR_… of OpenSSL: why we do not believe the peer's certificate.
_DISTRUST = {
    9: "its certificate is not valid yet; compare the clocks of both machines",
    10: "its certificate has expired; run `diminet pki renew` for it, or compare the clocks of both machines",
    2: "its certificate is not signed by this site's CA; all sites need certificates of one CA",
    18: "its certificate is not signed by this site's CA; all sites need certificates of one CA",
    19: "its certificate is not signed by this site's CA; all sites need certificates of one CA",
    20: "its certificate is not signed by this site's CA; all sites need certificates of one CA",
    21: "its certificate is not signed by this site's CA; all sites need certificates of one CA",
    7: "its certificate is not signed by this site's CA; all sites need certificates of one CA",
    23: "its certificate is revoked; issue a new one with `diminet pki issue`",
}
# TLS alerts: why the peer does not believe ours.
_ALERTS = {
    "CERTIFICATE_EXPIRED": "it says that this site's certificate has expired; run `diminet pki renew`, "
    "or compare the clocks of both machines",
    "CERTIFICATE_REVOKED": "it says that this site's certificate is revoked; issue a new one",
    "UNKNOWN_CA": "it does not trust the CA of this site's certificate; all sites need one CA",
    "CERTIFICATE_REQUIRED": "it asked for a certificate and got none",
    "BAD_CERTIFICATE": "it does not accept this site's certificate (not valid yet by its clock, or damaged)",
    "DECRYPT_ERROR": "it does not accept this site's certificate (signed by another CA of the same name)",
    "PROTOCOL_VERSION": "it does not speak TLS 1.3",
}


def why_no_answer(error: BaseException) -> str:
    """A clause that completes `site 'lyon' cannot be reached: …`."""
    cause = error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
    if isinstance(cause, WrongSite):
        return str(cause)
    if isinstance(cause, ssl.SSLCertVerificationError):
        code = cause.verify_code
        return _DISTRUST.get(code, f"its certificate is not accepted ({cause.verify_message})")
    return _alert(cause) or _plain(cause)


def _alert(error: BaseException) -> str | None:
    text = str(error)
    if "ALERT" not in text.upper() and not isinstance(error, ssl.SSLError):
        return None
    found = (sentence for word, sentence in _ALERTS.items() if word in text.upper().replace(" ", "_"))
    return next(found, f"TLS failed ({text[:200]}); does an instance of DIMINET listen at that URL?")


def _plain(error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "the connection is refused; is its instance running?"
    if isinstance(error, TimeoutError):
        return "it did not take the connection in time; is its instance running, and is its port let through?"
    if isinstance(error, socket.gaierror):
        return "its name does not resolve; correct the directory or DNS"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError | aiohttp.ClientOSError):
        return (
            "it hung up without an answer; if that stays so, compare certificates, CA and clocks of both "
            "sites (its log has the reason)"
        )
    return f"{str(error)[:300] or type(error).__name__}"
