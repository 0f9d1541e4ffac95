"""A web server in the test's own loop, and a network in which it is anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Self

from cirkelline.tools.reading.addresses import Address, Network, is_public

HERE = ip_address("127.0.0.1")


def page(body: bytes = b"", status: str = "200 OK", *, close: bool = True, **headers: object) -> bytes:
    lines = [f"HTTP/1.1 {status}"] + [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += ["Connection: close"] if close else []
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


@dataclass(slots=True)
class Web:
    """Answers each path with its bytes, over and over; `forever` goes on sending until the client leaves."""

    pages: dict[str, bytes] = field(default_factory=dict[str, bytes])
    forever: dict[str, bytes] = field(default_factory=dict[str, bytes])
    requests: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])  # host header and path
    left: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            path = lines[0].split(" ")[1]
            host = next(line.partition(":")[2].strip() for line in lines if line.lower().startswith("host:"))
            self.requests.append((host, path))
            writer.write(self.pages[path])
            await writer.drain()
            while path in self.forever:
                writer.write(self.forever[path])
                await writer.drain()
                await asyncio.sleep(0)
        except ConnectionError:
            self.left.set()
        finally:
            writer.close()


@dataclass(slots=True)
class Names:
    """A resolver whose answers are given; a name with several answers gives one after the other."""

    known: Mapping[str, Sequence[Sequence[str]]]
    asked: list[str] = field(default_factory=list[str])

    async def resolve(self, host: str, port: int) -> list[Address]:
        del port
        self.asked.append(host)
        answers = self.known.get(host)
        if answers is None:
            raise OSError(host)
        return [ip_address(each) for each in answers[min(self.asked.count(host), len(answers)) - 1]]

    def network(self) -> Network:
        """The network with these names, in which this machine may be spoken to as if it were a public host."""
        return Network(self.resolve, lambda address: address == HERE or is_public(address))
