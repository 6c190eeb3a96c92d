"""Which addresses of the web a download may connect to: public ones, checked when connecting.

A file from somebody else must not make this machine read its own services or those of its network,
whether an address is written as a number, hides behind a name, or comes with a redirect.
"""

import ipaddress
from contextlib import suppress
from urllib.parse import urlsplit

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class RefusedError(OSError):
    """An address that must not be connected to."""


def check_url(url: str, *, allowed_hosts: frozenset[str]) -> str:
    """Return the host of an http(s) address; one that is a number is checked at once.

    Raises:
        RefusedError: Another scheme, no host, or a number that is not public.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
        (host or "").encode("idna")  # as a name is looked up
        parts.port  # noqa: B018  (reading it checks it)
    except ValueError as error:
        raise RefusedError(f"{url[:80]} is no http(s) address: {error}") from error
    if parts.scheme not in ("http", "https") or not host or any(letter.isspace() for letter in host):
        raise RefusedError(f"{url[:80]} is no http(s) address")
    if host not in allowed_hosts:
        with suppress(ValueError):  # a name, which the resolver checks
            check_address(host, host)
    return host


def check_address(host: str, address: str) -> None:
    """Refuse an IP address that is not public, also inside an IPv6 one.

    Raises:
        RefusedError: The address is not public.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            ip = inner
    if not ip.is_global or ip.is_multicast:
        raise RefusedError(f"{host} is {ip}, no public address; allow it with --allow-host {host} if it is yours")
