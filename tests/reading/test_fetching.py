"""Bytes come from files that are files and from public hosts alone, and never more of them than were allowed."""

from __future__ import annotations

import asyncio
import gzip
import os
import zlib
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from web import Names, Web, page

from cirkelline.tools.reading import Limits, Source, Unreadable, Verdict, fetch, find
from cirkelline.tools.reading.addresses import is_public

SMALL = Limits(size=10_000, fetching=20)


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with Web() as web:
        yield web


def at(web: Web, path: str, host: str = "public.example") -> Source:
    return find([f"http://{host}:{web.port}{path}"])[0]


NAMES = {"public.example": [["127.0.0.1"]]}


async def refused(source: Source, verdict: Verdict, names: Names | None = None, limits: Limits = SMALL) -> str:
    with pytest.raises(Unreadable) as caught:
        await (fetch(source, limits=limits, network=names.network()) if names else fetch(source, limits=limits))
    assert caught.value.verdict is verdict, caught.value
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_a_page_comes_with_what_its_server_says_of_it(web: Web) -> None:
    web.pages["/dir/gr%C3%B8d.html?q=1"] = page(
        "grød".encode("latin-1"), Content_Type="text/html; charset='ISO-8859-1'"
    )
    content = await fetch(at(web, "/dir/gr%C3%B8d.html?q=1"), network=Names(NAMES).network())
    assert (content.data, content.file_name) == ("grød".encode("latin-1"), "grød.html")
    assert (content.content_type, content.charset) == ("text/html", "ISO-8859-1")
    assert web.requests == [(f"public.example:{web.port}", "/dir/gr%C3%B8d.html?q=1")]


async def test_redirects_are_followed_to_an_end(web: Web) -> None:
    web.pages["/a"] = page(b"", "302 Found", Location="/b")
    web.pages["/b"] = page(b"", "301 Moved", Location=f"http://other.example:{web.port}/c.md")
    web.pages["/c.md"] = page(b"there")
    names = Names({**NAMES, "other.example": [["127.0.0.1"]]})
    content = await fetch(at(web, "/a"), network=names.network())
    assert (content.data, content.file_name) == (b"there", "c.md")
    assert content.source == at(web, "/a")
    assert names.asked == ["public.example", "public.example", "other.example"]
    web.pages["/round"] = page(b"", "307 Temporary Redirect", Location="/round")
    assert "more than 5 times" in await refused(at(web, "/round"), Verdict.UNREACHABLE, Names(NAMES))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200",  # noqa: S104 - an address to refuse
        "192.0.0.192", "192.88.99.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1",
        "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001::1", "2001:db8::1", "::ffff:8.8.8.8",
    ],
)  # fmt: skip
async def test_private_addresses_are_never_spoken_to(address: str) -> None:
    assert not is_public(ip_address(address))
    names = Names({"trap.example": [["93.184.216.34", address]]})
    [source] = find(["http://trap.example/latest/meta-data"])
    with pytest.raises(Unreadable, match="not on the public network") as caught:
        await fetch(source, network=type(names.network())(names.resolve))
    assert caught.value.verdict is Verdict.FORBIDDEN


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "0x7f.1", "017700000001", "[::1]", "localhost", "[::ffff:7f00:1]"]
)
async def test_this_machine_is_refused_however_it_is_written(web: Web, host: str) -> None:
    web.pages["/"] = page(b"secret")
    await refused(at(web, "/", host), Verdict.FORBIDDEN)
    assert web.requests == []


async def test_a_redirect_to_a_private_host_is_refused(web: Web) -> None:
    web.pages["/a"] = page(b"", "302 Found", Location="http://inside.example/")
    names = Names({**NAMES, "inside.example": [["10.0.0.7"]]})
    assert "'inside.example'" in await refused(at(web, "/a"), Verdict.FORBIDDEN, names)
    for location in ("file:///etc/passwd", "gopher://x/", "http://u:p@public.example/", "//169.254.169.254/"):
        web.pages["/b"] = page(b"", "302 Found", Location=location)
        names = Names({**NAMES, "169.254.169.254": [["169.254.169.254"]]})
        await refused(at(web, "/b"), Verdict.FORBIDDEN, names)


async def test_a_name_that_changes_its_mind_after_the_check_gains_nothing(web: Web) -> None:
    web.pages["/"] = page(b"as checked")
    names = Names({"rebinding.example": [["127.0.0.1"], ["10.0.0.7"]]})
    content = await fetch(at(web, "/", "rebinding.example"), network=names.network())
    assert content.data == b"as checked"
    assert names.asked == ["rebinding.example"]  # once: the connection asks nobody again


async def test_the_environments_proxy_is_not_asked(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    web.pages["/"] = page(b"direct")
    assert (await fetch(at(web, "/"), network=Names(NAMES).network())).data == b"direct"


async def test_more_than_the_limit_is_not_read(web: Web) -> None:
    web.pages["/said"] = page(b"x", Content_Length=10_001)
    web.pages["/endless"] = page()
    web.forever["/endless"] = b"x" * 1000
    web.pages["/bomb"] = page(gzip.compress(b"\0" * 50_000_000), Content_Encoding="gzip")
    for path in ("/said", "/endless", "/bomb"):
        assert "larger than 10,000 bytes" in await refused(at(web, path), Verdict.TOO_LARGE, Names(NAMES))
    await web.left.wait()


async def test_packed_pages_are_unpacked(web: Web) -> None:
    web.pages["/z"] = page(gzip.compress(b"hello " * 1000), Content_Encoding="gzip")
    assert (await fetch(at(web, "/z"), limits=SMALL, network=Names(NAMES).network())).data == b"hello " * 1000
    web.pages["/cut"] = page(gzip.compress(os.urandom(900))[:-200], Content_Encoding="gzip")
    web.pages["/junk"] = page(b"junk", Content_Encoding="gzip")
    for path in ("/cut", "/junk"):
        await refused(at(web, path), Verdict.UNREACHABLE, Names(NAMES))
    web.pages["/odd"] = page(zlib.compress(b"x"), Content_Encoding="br")
    await refused(at(web, "/odd"), Verdict.BROKEN, Names(NAMES))


async def test_a_host_that_dawdles_is_given_up(web: Web) -> None:
    web.pages["/slow"] = page()
    web.forever["/slow"] = b""
    short = Limits(fetching=0.2)
    assert "longer than 0.2 s" in await refused(at(web, "/slow"), Verdict.TOO_SLOW, Names(NAMES), short)


async def test_what_is_not_there_is_unreachable(web: Web) -> None:
    web.pages["/gone"] = page(b"", "404 Not Found")
    assert "HTTP 404 Not Found" in await refused(at(web, "/gone"), Verdict.UNREACHABLE, Names(NAMES))
    web.pages["/cut"] = page(b"half", Content_Length=10)
    assert "broke off" in await refused(at(web, "/cut"), Verdict.UNREACHABLE, Names(NAMES))
    assert "no host 'nowhere.example'" in await refused(at(web, "/", "nowhere.example"), Verdict.UNREACHABLE, Names({}))
    [closed] = find(["http://public.example:1/"])
    assert "cannot be fetched" in await refused(closed, Verdict.UNREACHABLE, Names(NAMES))


async def test_files_are_read_as_they_are_now(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(b"x" * 10_000)
    [source] = find([str(tmp_path / "a.md")])
    content = await fetch(source, limits=SMALL)
    assert (len(content.data), content.file_name, content.content_type) == (10_000, "a.md", None)
    (tmp_path / "a.md").write_bytes(b"x" * 10_001)
    await refused(source, Verdict.TOO_LARGE)
    assert content.hash != (await fetch(source)).hash
    (tmp_path / "a.md").unlink()
    assert "No such file" in await refused(source, Verdict.UNREACHABLE)


async def test_nothing_waits_for_a_pipe_and_no_link_slips_in(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in await refused(find([str(tmp_path / "pipe")])[0], Verdict.NOT_TEXT)
    await refused(find(["/dev/zero"])[0], Verdict.NOT_TEXT)
    (tmp_path / "a.md").write_text("mine")
    [source] = find([str(tmp_path / "a.md")])
    (tmp_path / "secret").write_text("not mine")
    (tmp_path / "a.md").unlink()
    (tmp_path / "a.md").symlink_to(tmp_path / "secret")
    await refused(source, Verdict.UNREACHABLE)


async def test_many_are_fetched_at_once(web: Web) -> None:
    for number in range(20):
        web.pages[f"/{number}"] = page(str(number).encode())
    sources = [at(web, f"/{number}") for number in range(20)]
    found = await asyncio.gather(*(fetch(source, network=Names(NAMES).network()) for source in sources))
    assert [content.data for content in found] == [str(number).encode() for number in range(20)]
