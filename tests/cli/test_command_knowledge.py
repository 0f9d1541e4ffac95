"""`knowledge add`, `list`, `show` and `remove`, with documents as they come and as nobody would want them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_runs import Commands, Filled, Result
from embedding_server import EmbeddingServer
from papers import archive, encrypted, pdf, repacked, scanned, word

from cirkelline.runtime.cli import console
from cirkelline.tools import reading

USER = "reader@example.com"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddingServer]:
    """What embeds, and the user whose documents these are."""
    with EmbeddingServer() as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("CIRKELLINE_USER", USER)
        monkeypatch.setattr("cirkelline.runtime.ingest.adding.PAUSES", ())
        yield server


@pytest.fixture
def shelf(filled: Filled, server: EmbeddingServer, tmp_path: Path) -> Path:
    """A folder of documents for a database of the test's own."""
    assert filled.url
    assert server.environ
    folder = tmp_path / "shelf"
    folder.mkdir()
    return folder


@pytest.fixture
def knowledge(cirkelline: Commands) -> Any:
    def knowledge(*arguments: str, **more: Any) -> Result:
        return cirkelline("knowledge", *arguments, **more)

    return knowledge


def verdicts(result: Result) -> dict[str, str]:
    return {each["name"]: each["verdict"] for each in result.document["outcomes"]}


def reasons(result: Result) -> dict[str, str]:
    return {each["name"]: each["why"] for each in result.document["outcomes"] if each["why"]}


def test_a_folder_is_added_and_listed_and_shown(knowledge: Any, shelf: Path) -> None:
    (shelf / "guide.md").write_text("# Install\n\nPut it into the box.")
    (shelf / "sub").mkdir()
    (shelf / "sub" / "paper.pdf").write_bytes(pdf("The first page.", "The second page."))
    added = knowledge("add", str(shelf), "--tag", "work")
    assert added.code == 0
    assert "2 added; 3 chunks stored" in added.out
    assert "documents of this database are embedded by gemini" in added.err
    assert "the documents' text is sent to 127.0.0.1" in added.err
    listed = knowledge("list", "--json").document["documents"]
    assert {each["name"]: (each["type"], each["pages"], each["tags"]) for each in listed} == {
        "guide.md": ("markdown", None, ["work"]),
        "sub/paper.pdf": ("pdf", 2, ["work"]),
    }
    shown = knowledge("show", "sub/paper.pdf", "--json").document
    assert [(each["page"], each["text"]) for each in shown["content"]] == [
        (1, "The first page."),
        (2, "The second page."),
    ]
    by_path = knowledge("show", "shelf/guide.md")
    assert by_path.code == 0
    assert "Install" in by_path.out


def test_the_filters_of_a_list(knowledge: Any, shelf: Path) -> None:
    for name in ("a.txt", "b.md"):
        (shelf / name).write_text(f"in {name}")
    knowledge("add", str(shelf / "a.txt"), "--tag", "one")
    knowledge("add", str(shelf / "b.md"), "--shared")

    def names(*arguments: str) -> set[str]:
        return {each["name"] for each in knowledge("list", "--json", *arguments).document["documents"]}

    assert names() == {"a.txt", "b.md"}
    assert names("--shared") == {"b.md"}
    assert names("--tag", "one") == {"a.txt"}
    assert names("--type", "markdown") == {"b.md"}
    assert names("a.t") == {"a.txt"}
    assert len(names("--limit", "1")) == 1
    assert knowledge("list", "--user", "nobody@example.com").code == 2


def test_hostile_and_odd_documents_each_get_a_verdict_and_the_rest_go_on(knowledge: Any, shelf: Path) -> None:
    bomb = repacked(word(lambda paper: paper.add_paragraph("x")), {"word/document.xml": b"<a>" + b" " * 400_000_000})
    documents: dict[str, bytes] = {
        "fine.txt": b"something to find",
        "blank.txt": b" \n\t ",
        "empty.pdf": b"",
        "locked.pdf": encrypted(pdf("secret"), "password"),
        "scanned.pdf": scanned(),
        "broken.pdf": pdf("text")[:200],
        "a picture.txt": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40,
        "bomb.docx": bomb,
        "archive.docx": archive("../../etc/passwd", "readme"),
        "really a pdf.txt": pdf("I am a PDF after all."),
        "latin.txt": "Rødgrød med fløde på øen".encode("latin-1"),
        "no end.html": b"<p>" * 20_000 + b"deep down",
        "rows.csv": b"name,price\ncoffee,32\ncake,45\n",
        "nul.txt": b"before\x00after, and more words to be text",
    }
    for name, data in documents.items():
        (shelf / name).write_bytes(data)
    result = knowledge("add", str(shelf), "--json")
    assert result.code == 1
    found = verdicts(result)
    bad = {name for name, verdict in found.items() if verdict == "refused"}
    assert bad >= {"blank.txt", "empty.pdf", "locked.pdf", "scanned.pdf", "broken.pdf", "a picture.txt", "bomb.docx"}
    assert {name for name in found if found[name] == "added"} >= {
        "fine.txt",
        "really a pdf.txt",
        "latin.txt",
        "no end.html",
        "rows.csv",
    }
    assert set(found.values()) == {"added", "refused"}
    assert reasons(result)["empty.pdf"] == "is empty"
    assert "password" in reasons(result)["locked.pdf"]
    assert all("\n" not in said and 5 < len(said) < 300 for said in reasons(result).values())
    assert result.err.splitlines()[-1] == f"error: {len(bad)} documents could not be taken in"


@pytest.mark.parametrize(
    "name",
    [
        "line\nbreak.txt",
        "\x1b[31mred\x1b[0m.txt",
        "emoji 🦊.txt",
        "ærø.txt",
        "quote'\"; DROP TABLE ai.agno_knowledge; --.txt",
        "[markup] {{x}} %s.txt",
        "-rf.txt",
        "\u202egnp.txt",
        "x" * 240 + ".txt",
    ],
)
def test_odd_names_are_kept_and_shown_without_obeying_them(knowledge: Any, shelf: Path, name: str) -> None:
    (shelf / name).write_text("words in an oddly named file")
    result = knowledge("add", str(shelf))
    assert result.code == 0, result.err
    assert "\x1b" not in result.out + result.err
    assert "\u202e" not in result.out + result.err
    (document,) = knowledge("list", "--json").document["documents"]
    assert document["name"] == name
    assert knowledge("show", str(shelf / name)).code == 0
    assert knowledge("remove", str(shelf / name)).code == 0


def test_a_name_that_is_not_utf8_is_one_document_that_stays_one(knowledge: Any, shelf: Path) -> None:
    (shelf / os.fsdecode(b"caf\xe9.txt")).write_text("coffee")
    assert verdicts(knowledge("add", str(shelf), "--json")) == {"caf\\udce9.txt": "added"}
    assert set(verdicts(knowledge("add", str(shelf), "--sync", "--json")).values()) == {"unchanged"}


def test_links_are_not_followed_in_circles_or_out_of_a_folder(knowledge: Any, shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("not asked for")
    (shelf / "inside.txt").write_text("asked for")
    (shelf / "circle").symlink_to(shelf, target_is_directory=True)
    (shelf / "itself").symlink_to(shelf / "itself")
    (shelf / "way out.txt").symlink_to(tmp_path / "outside.txt")
    (shelf / "dangling.txt").symlink_to(shelf / "nowhere")
    os.mkfifo(shelf / "pipe.txt")
    assert verdicts(knowledge("add", str(shelf), "--json")) == {"inside.txt": "added"}


def test_the_same_file_named_twice_is_one_document_and_the_same_content_twice_is_two(
    knowledge: Any, shelf: Path
) -> None:
    for name in ("one.txt", "two.txt"):
        (shelf / name).write_text("the very same words")
    (shelf / "link.txt").symlink_to(shelf / "one.txt")
    twice = knowledge("add", str(shelf / "one.txt"), str(shelf / "." / "one.txt"), str(shelf / "link.txt"), "--json")
    assert twice.document["documents"] == 1
    assert verdicts(knowledge("add", str(shelf), "--json")) == {"one.txt": "unchanged", "two.txt": "added"}


def test_patterns_name_files(knowledge: Any, shelf: Path) -> None:
    (shelf / "deep" / "er").mkdir(parents=True)
    for name in ("a.md", "b.txt", "deep/c.md", "deep/er/d.md"):
        (shelf / name).write_text(f"in {name}")
    assert len(verdicts(knowledge("add", str(shelf / "*.md"), "--json"))) == 1
    assert len(verdicts(knowledge("add", str(shelf / "**" / "*.md"), "--json"))) == 3


def test_addresses_of_the_private_network_are_not_asked(knowledge: Any, shelf: Path, server: EmbeddingServer) -> None:
    (shelf / "fine.txt").write_text("fine")
    address = server.environ["GOOGLE_GEMINI_BASE_URL"]
    result = knowledge("add", str(shelf), f"{address}/x", "http://169.254.169.254/latest/meta-data", "--json")
    assert result.code == 1
    assert sorted(verdicts(result).values()) == ["added", "refused", "refused"]
    assert all("not on the public network" in why for why in reasons(result).values())


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_fails_alone(knowledge: Any, shelf: Path) -> None:
    for name in ("open.txt", "closed.txt"):
        (shelf / name).write_text("words")
    (shelf / "closed.txt").chmod(0)
    assert verdicts(knowledge("add", str(shelf), "--json")) == {"open.txt": "added", "closed.txt": "failed"}


def test_a_file_larger_than_the_limit_is_refused_and_its_old_version_stays(
    knowledge: Any, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shelf / "book.txt").write_text("a short beginning")
    knowledge("add", str(shelf))
    (shelf / "book.txt").write_text("word " * 500_000)
    monkeypatch.setenv("CIRKELLINE_DOCUMENT_LIMIT", "1000000")
    result = knowledge("add", str(shelf), "--json")
    assert "larger than 1,000,000 bytes" in reasons(result)["book.txt"]
    assert knowledge("show", "book.txt", "--json").document["content"][0]["text"] == "a short beginning"


def test_a_file_that_vanishes_on_the_way_fails_alone(knowledge: Any, shelf: Path, server: EmbeddingServer) -> None:
    for number in range(12):
        (shelf / f"{number:02}.txt").write_text(f"document{number}")

    def vanish(_number: int, _texts: list[str]) -> None:
        (shelf / "11.txt").unlink(missing_ok=True)

    server.fault = vanish
    found = verdicts(knowledge("add", str(shelf), "--json"))
    assert found.pop("11.txt") == "failed"
    assert set(found.values()) == {"added"}


def test_a_file_that_is_being_written_is_read_when_it_stands_still(
    knowledge: Any, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, written = reading.fetch, iter(["second words", "third words"])
    (shelf / "log.txt").write_text("first words")

    async def fetched(source: Any, **more: Any) -> Any:
        content = await fetch(source, **more)
        if (words := next(written, None)) is not None:
            source.path.write_text(words)
        return content

    monkeypatch.setattr(reading, "fetch", fetched)
    assert verdicts(knowledge("add", str(shelf), "--json")) == {"log.txt": "added"}
    assert knowledge("show", "log.txt", "--json").document["content"][0]["text"] == "third words"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name files, folders or addresses to add"),
        (["nowhere.txt"], "there is nothing at"),
        (["shelf"], "holds no file that could be read"),
        (["shelf/*.md"], "nothing matches"),
        ([""], "is no path"),
        (["ftp://example.com/x"], "only http:// and https://"),
        (["http://user:secret@example.com/"], "carries a user's name or password"),
        (["--sync", "shelf/nowhere"], "--sync takes folders"),
        (["--sync", "https://example.com"], "--sync takes folders"),
        (["--resume", "shelf"], "give nothing else"),
        (["--resume"], "no run of this machine was cut off"),
        (["--shared", "--user", "a@example.com", "shelf"], "not both"),
        (["shelf", "--tag", ""], "it is empty"),
        (["shelf", "--user", "x" * 300], "longer than 255"),
    ],
)
def test_what_names_nothing_is_wrong_use_and_changes_nothing(
    knowledge: Any, shelf: Path, filled: Filled, arguments: list[str], said: str
) -> None:
    assert shelf.is_dir()
    result = knowledge("add", *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert "secret" not in result.err
    assert filled.sql("SELECT count(*) FROM ai.agno_knowledge") == [(0,)]
    assert filled.sql("SELECT count(*) FROM ai.workflow_runs") == [(0,)]


def test_what_has_vanished_in_great_number_is_removed_only_when_agreed_to(knowledge: Any, shelf: Path) -> None:
    for number in range(30):
        (shelf / f"{number:02}.txt").write_text(f"document{number}")
    knowledge("add", "--sync", str(shelf))
    for number in range(12):
        (shelf / f"{number:02}.txt").unlink()
    asked = knowledge("add", "--sync", str(shelf))
    assert asked.code == 2
    assert "12 of 30 documents' files are gone" in asked.err
    assert len(knowledge("list", "--json").document["documents"]) == 30
    agreed = knowledge("add", "--sync", str(shelf), "--yes", "--json")
    assert agreed.document["verdicts"] == {"unchanged": 18, "removed": 12}
    assert len(knowledge("list", "--json").document["documents"]) == 18


def test_a_remove_takes_all_or_none_of_those_that_are_named(knowledge: Any, shelf: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        (shelf / name).write_text(f"in {name}")
    knowledge("add", str(shelf))
    missing = knowledge("remove", "a.txt", "nowhere.txt")
    assert missing.code == 2
    assert "nowhere.txt" in missing.err
    assert knowledge("remove", "a.txt", str(shelf / "b.txt")).code == 0
    assert [each["name"] for each in knowledge("list", "--json").document["documents"]] == ["c.txt"]
    assert (shelf / "a.txt").exists()


def test_a_folder_is_removed_when_agreed_to(knowledge: Any, shelf: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (shelf / name).write_text(f"in {name}")
    knowledge("add", str(shelf))
    asked = knowledge("remove", str(shelf))
    assert (asked.code, "2 documents are named" in asked.err) == (2, True)
    removed = knowledge("remove", str(shelf), "--yes", "--json")
    assert len(removed.document["removed"]) == 2


def test_nobody_removes_or_shows_what_is_anothers(knowledge: Any, shelf: Path) -> None:
    (shelf / "mine.txt").write_text("mine")
    (shelf / "all.txt").write_text("everybody's")
    knowledge("add", str(shelf / "mine.txt"))
    knowledge("add", str(shelf / "all.txt"), "--shared")
    number = str(knowledge("show", "mine.txt", "--json").document["id"])
    knowledge("add", str(shelf / "mine.txt"), "--user", "other@example.com")
    for command in ("show", "remove"):
        assert knowledge(command, number, "--user", "other@example.com").code == 2
    assert knowledge("show", "all.txt", "--user", "other@example.com").code == 0
    assert knowledge("remove", "all.txt", "--user", "other@example.com").code == 1
    assert knowledge("remove", "all.txt", "--shared").code == 0


def test_an_embedder_that_cannot_be_had_here_ends_the_command_with_its_remedy(
    knowledge: Any, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shelf / "a.txt").write_text("words")
    knowledge("add", str(shelf))
    monkeypatch.delenv("GOOGLE_API_KEY")
    result = knowledge("add", str(shelf))
    assert (result.code, result.out) == (1, "")
    assert "GOOGLE_API_KEY" in result.err


def test_a_run_is_a_workflow_that_is_listed_and_shown(knowledge: Any, cirkelline: Commands, shelf: Path) -> None:
    (shelf / "a.txt").write_text("words")
    run = knowledge("add", str(shelf), "--json").document["run_id"]
    shown = cirkelline("workflows", "show", run, "--json").document
    assert shown["status"] == "COMPLETED"
    assert shown["output"]["verdicts"] == {"added": 1}
    assert shown["steps_completed"] == ["batch 1"]
    refused = cirkelline("workflows", "run", "knowledge_add", "--input", "{}")
    assert (refused.code, "`cirkelline knowledge add`" in refused.err) == (2, True)


def test_ctrl_c_says_how_far_it_is_and_the_next_one_goes_on(
    knowledge: Any, cirkelline: Commands, shelf: Path, filled: Filled, server: EmbeddingServer
) -> None:
    for number in range(40):
        (shelf / f"{number:02}.txt").write_text(f"document{number}")
    environ = {**os.environ, **server.environ, "DATABASE_URL": filled.url, "CIRKELLINE_LEASE": "0.5"}
    command = [sys.executable, "-m", "cirkelline", "knowledge", "add", str(shelf)]
    server.fault = lambda number, _texts: server.hold() if number == 25 else None  # type: ignore[func-returns-value]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        while server.requests < 26:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    server.held.set()
    assert process.returncode == 130
    said = err.decode()
    assert "of 40 documents: the same command goes on from there, or `cirkelline knowledge add --resume`" in said
    assert "Traceback" not in said
    waiting = cirkelline("workflows", "list", "--json").document["runs"]
    assert [each["status"] for each in waiting] == ["PENDING"]
    why = cirkelline("workflows", "show", waiting[0]["run_id"], "--json").document["why"]
    assert "cirkelline knowledge add --resume" in why
    resumed = knowledge("add", "--resume", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.document["run_id"] == waiting[0]["run_id"]
    assert resumed.document["documents"] == 40


def test_a_terminal_sees_how_far_it_is(knowledge: Any, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shelf / "fine.txt").write_text("words")
    (shelf / "[red]blank.txt").write_text("")
    monkeypatch.setattr(console, "on_terminal", lambda _stream: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    result = knowledge("add", str(shelf))
    assert result.code == 1
    assert "2/2" in result.err
    assert f"{shelf}/[red]blank.txt" in result.err  # in one piece, however narrow the terminal


def test_json_is_one_document(knowledge: Any, shelf: Path) -> None:
    (shelf / "a.txt").write_text("words")
    document = json.loads(knowledge("add", str(shelf), "--json").out)
    assert document["outcomes"][0]["source"] == str(shelf / "a.txt")
    assert document["stages"].keys() >= {"fetch", "parse", "embed", "store"}
