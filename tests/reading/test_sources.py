"""What a person names becomes the documents that are meant, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cirkelline.configs.errors import UsageError
from cirkelline.tools.reading import NothingFound, find


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    names = [
        "a.md",
        "sub/b.txt",
        "sub/deep/c.pdf",
        ".git/config",
        "sub/.hidden.md",
        "node_modules/x.md",
        "d.png",
        "e.zip",
    ]
    for name in names:
        (tmp_path / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "docs" / name).write_text(name)
    return tmp_path / "docs"


def names(*arguments: object) -> list[str]:
    return [source.name for source in find([str(each) for each in arguments])]


def test_a_folder_is_every_file_that_may_hold_text(tree: Path) -> None:
    assert names(tree) == ["a.md", "sub/b.txt", "sub/deep/c.pdf"]


def test_what_is_named_itself_is_taken_whatever_it_is(tree: Path) -> None:
    assert names(tree / "d.png", tree / ".git" / "config") == ["d.png", "config"]


def test_a_document_that_is_named_twice_is_one(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    found = find(["sub/../a.md", str(tree / "a.md"), ".", "./sub"])
    assert [source.uri for source in found] == [
        str(tree / "a.md"),
        str(tree / "sub/b.txt"),
        str(tree / "sub/deep/c.pdf"),
    ]
    assert all(source.path == Path(source.uri) for source in found)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.md", ["a.md"]),
        ("**/*.txt", ["sub/b.txt"]),
        ("**/[bc].*", ["sub/b.txt", "sub/deep/c.pdf"]),
        ("s?b/*.txt", ["sub/b.txt"]),
        ("*", ["a.md", "d.png", "e.zip", "sub/b.txt", "sub/deep/c.pdf"]),
        ("sub/**", ["b.txt", "deep/c.pdf"]),
        ("**/deep", ["sub/deep/c.pdf"]),
        (".git/c*", ["config"]),
    ],
)  # fmt: skip
def test_patterns(tree: Path, pattern: str, expected: list[str]) -> None:
    assert names(tree / pattern) == expected


def test_links_lead_neither_out_of_a_folder_nor_in_circles(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text("not theirs")
    (tree / "leak.md").symlink_to(tmp_path / "secret.md")
    for place in (tree, tree / "sub"):
        (place / "here").symlink_to(tree)
        (place / "up").symlink_to("..")
    assert names(tree) == ["a.md", "sub/b.txt", "sub/deep/c.pdf"]
    assert names(tree / "**" / "*.md") == ["a.md"]
    assert names(tree / "leak.md") == ["leak.md"]  # by its own name it is meant
    assert find([str(tree / "leak.md")])[0].uri == str(tmp_path / "secret.md")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tree: Path) -> None:
    (tree / "what[1]?.md").write_text("x")
    assert names(tree / "what[1]?.md") == ["what[1]?.md"]


def test_a_name_that_is_no_text_is_spelled_out(tree: Path) -> None:
    odd = os.fsdecode(os.fsencode(tree) + b"/r\xe6v.txt")
    Path(odd).write_text("x")
    [source] = [source for source in find([str(tree)]) if source.name.startswith("r")]
    assert source.name.isascii()
    source.uri.encode()
    assert source.path is not None
    assert source.path.read_text() == "x"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("a.mdd", "did you mean 'a.md'"),
        ("nothing/at/all", "check the path"),
        ("", "no path"),
        ("~nobody-of-this-name/a.md", "write the whole path"),
        ("a\0b", "no path"),
        ("ftp://example.com/a", "only http:// and https://"),
        ("file:///etc/passwd", "only http:// and https://"),
        ("http:///a", "names no host"),
        ("http://me:pw@example.com/", "name or password"),
        ("http://[::1/", "is no address"),
        ("http://example.com:port/", "is no address"),
        ("x" * 5000, "cannot look at"),
    ],
)
def test_what_is_not_there_is_wrong_use(
    tree: Path, monkeypatch: pytest.MonkeyPatch, argument: str, message: str
) -> None:
    monkeypatch.chdir(tree)
    with pytest.raises(UsageError, match=message) as caught:
        find(["a.md", argument])
    assert "\n" not in str(caught.value)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("argument", ["empty", "*.nothing", "sub/none/**"])
def test_a_folder_or_a_pattern_without_documents_says_so(tree: Path, argument: str) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(NothingFound):
        find([str(tree / argument)])


def test_addresses_are_written_in_one_way() -> None:
    [source] = find(["HTTPS://Example.COM/Guide/A%20b.html?x=1#top", "https://example.com/Guide/A%20b.html?x=1"])
    assert (source.uri, source.name, source.path) == ("https://example.com/Guide/A%20b.html?x=1", "A b.html", None)
    assert names("http://example.com/", "http://[2606:4700::1]:8080/x") == ["example.com", "x"]
