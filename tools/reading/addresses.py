"""Which network addresses a URL may lead to: the public ones, checked where the connection is made."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Address = IPv4Address | IPv6Address

# IPv6 addresses that are another way to write, or to reach, an IPv4 one. Nothing public lives only there.
_DISGUISES: Final = tuple(
    IPv6Network(each) for each in ("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16")
)
# Relays to the other protocol; and a block for protocols, in which a cloud answers with its machines' secrets.
_NOT_HOSTS: Final = (IPv4Network("192.88.99.0/24"), IPv4Network("192.0.0.0/24"))


def is_public(address: Address) -> bool:
    """Return whether an address belongs to the public network, and not to this machine, its neighbors or its cloud."""
    if not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified:
        return False
    if isinstance(address, IPv6Address):
        return not any(address in disguise for disguise in _DISGUISES)
    return not any(address in block for block in _NOT_HOSTS)


async def resolve(host: str, port: int) -> list[Address]:
    """Return the addresses of a host in the order in which to try them. Raises: OSError, UnicodeError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(str(where[0]).partition("%")[0]) for _family, _type, _protocol, _name, where in found]


@dataclass(frozen=True, slots=True)
class Network:
    """How hosts are found and which addresses may be spoken to; by itself the system's resolver, and public ones."""

    resolve: Callable[[str, int], Awaitable[Sequence[Address]]] = resolve
    allowed: Callable[[Address], bool] = is_public


PUBLIC: Final = Network()
