"""Whom a client without a token is counted as."""

import ipaddress


def client_key(host: str | None) -> str:
    """Whom to count a client without token as: its address, of IPv6 the /64 that one host can roam in."""
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return host or "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
