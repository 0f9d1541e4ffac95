"""From a source to its bytes: files as they are now, URLs without ever speaking to a private network."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import ssl
import stat
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urljoin, urlsplit

from cirkelline.configs import secrecy, wording
from cirkelline.configs.errors import UsageError
from cirkelline.tools.reading import addresses, sources
from cirkelline.tools.reading.addresses import PUBLIC, Address, Network
from cirkelline.tools.reading.contract import Content, Limits, Source, Unreadable, Verdict

if TYPE_CHECKING:
    import httpx

HOPS: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_STEP: Final = 65_536
_AGENT: Final = "cirkelline"


async def fetch(source: Source, *, limits: Limits = Limits(), network: Network = PUBLIC) -> Content:  # noqa: B008 - frozen
    """Return a source's bytes. Raises: Unreadable.

    A URL is fetched over http or https from public addresses only: each hop's host is resolved once, its addresses are
    checked, and the connection goes to one of those, whatever the host's name means a moment later.
    """
    if source.path is not None:
        data = await asyncio.to_thread(_read, source, source.path, limits.size)
        return Content(source=source, data=data, file_name=source.path.name)
    try:
        async with asyncio.timeout(limits.fetching):
            return await _download(source, limits, network)
    except TimeoutError:
        slow = f"{_shown(source)} took longer than {limits.fetching:g} s to fetch: try again, or fetch it to a file"
        raise Unreadable(Verdict.TOO_SLOW, slow) from None


def _shown(source: Source) -> str:
    return wording.shown(secrecy.mask_url(source.uri))


def too_large(source: Source, limit: int) -> Unreadable:
    """Return the verdict that a document has more bytes than are read."""
    return Unreadable(
        Verdict.TOO_LARGE,
        f"{_shown(source)} is larger than {limit:,} bytes: split it, or raise CIRKELLINE_DOCUMENT_LIMIT",
    )


def _read(source: Source, path: Path, limit: int) -> bytes:
    try:
        # A pipe would be waited for, and a link may have been put in the file's place since it was found.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(number, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            about = os.fstat(number)
            if not stat.S_ISREG(about.st_mode):
                raise Unreadable(Verdict.NOT_TEXT, f"{_shown(source)} is not a file: name one that can be read")
            data = b"" if about.st_size > limit else file.read(limit + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Unreadable(
            Verdict.UNREACHABLE, f"{_shown(source)} cannot be opened ({reason}): check it and its permissions"
        ) from None
    if about.st_size > limit or len(data) > limit:
        raise too_large(source, limit)
    return data


@functools.cache
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()


@dataclass(frozen=True, slots=True)
class _Hop:
    """One request of a chain of redirects: the URL as written, and where it leads."""

    url: str
    host: str
    port: int
    addresses: tuple[Address, ...]


async def _download(source: Source, limits: Limits, network: Network) -> Content:
    import httpx  # noqa: PLC0415

    url = source.uri
    # No environment: a proxy would resolve the host by itself. Certificates are read in a thread, it takes a while.
    context = await asyncio.to_thread(_certificates)
    async with httpx.AsyncClient(verify=context, trust_env=False, timeout=limits.fetching) as client:
        for _ in range(HOPS + 1):
            hop = await _checked(source, url, network)
            response = await _request(client, source, hop)
            try:
                if response.status_code not in _REDIRECTS:
                    return await _received(source, hop, response, limits)
                url = urljoin(url, response.headers.get("location", ""))
            finally:
                await response.aclose()
    raise Unreadable(
        Verdict.UNREACHABLE, f"{_shown(source)} is redirected more than {HOPS} times: name its last address"
    )


async def _checked(source: Source, url: str, network: Network) -> _Hop:
    """Resolve a URL's host and let only allowed addresses pass."""
    try:
        (named,) = sources.find([url])
    except UsageError as error:
        raise Unreadable(Verdict.FORBIDDEN, f"{_shown(source)} leads astray: {error}") from None
    parts = urlsplit(named.uri)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = tuple(await network.resolve(host, port))
    except (OSError, UnicodeError):
        found = ()
    if not found:
        raise Unreadable(
            Verdict.UNREACHABLE, f"{_shown(source)}: no host {wording.shown(host)} is known; check the address"
        )
    # One bad address among good ones is enough: it would be tried when the others do not answer.
    if not all(network.allowed(address) for address in found):
        raise Unreadable(
            Verdict.FORBIDDEN,
            f"{_shown(source)} leads to {wording.shown(host)}, which is not on the public network: fetch it to a file first",
        )
    return _Hop(named.uri, host, port, tuple(dict.fromkeys(found)))


async def _request(client: httpx.AsyncClient, source: Source, hop: _Hop) -> httpx.Response:
    """Ask the first of a hop's addresses that answers, by its number, in the name of its host."""
    import httpx  # noqa: PLC0415

    reason = ""
    for address in hop.addresses:
        url = httpx.URL(hop.url)
        request = client.build_request(
            "GET",
            url.copy_with(host=str(address)),
            headers={"Host": url.netloc.decode(), "User-Agent": _AGENT, "Accept-Encoding": "gzip, identity"},
            extensions={"sni_hostname": url.raw_host.decode()},  # the certificate is checked against the name
        )
        try:
            return await client.send(request, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
    raise Unreadable(Verdict.UNREACHABLE, f"{_shown(source)} cannot be fetched ({reason}): check the address")


async def _received(source: Source, hop: _Hop, response: httpx.Response, limits: Limits) -> Content:
    if response.status_code != 200:  # noqa: PLR2004 - HTTP's
        said = f"HTTP {response.status_code} {response.reason_phrase}".strip()
        raise Unreadable(Verdict.UNREACHABLE, f"{_shown(source)} was not given to us ({said}): check the address")
    data = await _body(source, response, limits.size)
    declared = response.headers.get("content-type", "")
    kind, _, parameters = declared.partition(";")
    charset = re.search(r"charset\s*=\s*[\"']?([\w.:+-]{1,40})", parameters, re.IGNORECASE)
    return Content(
        source=source,
        data=data,
        file_name=PurePosixPath(unquote(urlsplit(hop.url).path)).name or None,
        content_type=kind.strip().lower()[:100] or None,
        charset=charset[1] if charset else None,
    )


async def _body(source: Source, response: httpx.Response, limit: int) -> bytes:
    """Read a response up to the limit, unpacked: what is packed may be a thousand times smaller."""
    import httpx  # noqa: PLC0415

    if int(_digits(response.headers) or 0) > limit:
        raise too_large(source, limit)
    packing = response.headers.get("content-encoding", "identity").strip().lower()
    if packing not in {"identity", "gzip", "x-gzip", ""}:
        raise Unreadable(Verdict.BROKEN, f"{_shown(source)} comes packed in a way nobody asked for: fetch it to a file")
    data = bytearray()
    try:
        steps = response.aiter_raw(_STEP)
        async for step in _unpacked(steps, limit) if "gzip" in packing else steps:
            data += step
            if len(data) > limit:
                raise too_large(source, limit)
    except (httpx.HTTPError, zlib.error) as error:
        reason = str(error) or type(error).__name__
        raise Unreadable(Verdict.UNREACHABLE, f"{_shown(source)} broke off ({reason}): try again") from None
    return bytes(data)


def _digits(headers: Mapping[str, str]) -> str:
    length = headers.get("content-length", "").strip()
    return length if length.isascii() and length.isdigit() and len(length) <= 20 else ""  # noqa: PLR2004 - any 64-bit number


async def _unpacked(steps: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    unpacking = zlib.decompressobj(wbits=31)
    async for step in steps:
        yield unpacking.decompress(step, limit + 1)  # what it holds back is beyond the limit anyway
    if not unpacking.eof:
        raise zlib.error("its packed data has no end")


__all__ = ["HOPS", "PUBLIC", "Network", "addresses", "fetch", "too_large"]
