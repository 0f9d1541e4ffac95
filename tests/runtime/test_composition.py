"""Settings become a database and folders: what was given is used, and nothing else in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from cirkelline.configs.settings import Settings
from cirkelline.runtime import composition
from cirkelline.state import migrations
from cirkelline.state.connection import DatabaseUnavailable

AGENT = "name: helper\ninstructions: Help.\n"


async def test_a_given_database_is_migrated_and_never_called_fresh(empty_database_url: str, tmp_path: Path) -> None:
    settings = Settings(database_url=empty_database_url, home=tmp_path / "home")
    async with composition.open_database(settings) as opened:
        async with opened.db.connection() as conn:
            assert (await migrations.status(conn)).pending == ()
        assert not opened.fresh
        assert not opened.embedded
    assert not (tmp_path / "home").exists()


async def test_without_migrate_the_schema_stays_as_it_is(empty_database_url: str) -> None:
    settings = Settings(database_url=empty_database_url)
    async with composition.open_database(settings, migrate=False) as opened, opened.db.connection() as conn:
        assert (await migrations.status(conn)).applied == ()


async def test_an_unreachable_database_is_an_error_and_no_other_is_made(tmp_path: Path) -> None:
    settings = Settings(database_url="postgresql://ivo:hunter22@127.0.0.1:1/db", home=tmp_path / "home")
    with pytest.raises(DatabaseUnavailable) as raised:
        async with composition.open_database(settings):
            pytest.fail("it opened something")
    assert "hunter22" not in str(raised.value)
    assert not (tmp_path / "home").exists()


def test_where_the_database_is_can_be_said_without_its_password(tmp_path: Path) -> None:
    given = composition.place(Settings(database_url="postgresql://ivo:hunter22@db.example:6000/work"))
    assert given == "database work at db.example:6000"
    assert composition.place(Settings(home=tmp_path)) == f"embedded database in {tmp_path}"


def test_the_folder_given_wins_over_the_variable_and_that_over_the_one_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "configs"
    here.mkdir()
    assert composition.configs_folder(Settings(), None) is None
    (here / "helper.yaml").write_text(AGENT)
    assert composition.configs_folder(Settings(), None) == here
    assert composition.configs_folder(Settings(configs=tmp_path / "mine"), None) == tmp_path / "mine"
    assert composition.configs_folder(Settings(configs=tmp_path / "mine"), Path("other")) == tmp_path / "other"


@pytest.mark.parametrize(
    ("text", "taken"),
    [(AGENT, True), ("name: helper\ninstrutions: typo\n", True), ("learning_rate: 0.1\n", False), ("", False)],
)
def test_a_folder_here_counts_only_if_something_in_it_looks_like_an_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, *, taken: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "below").mkdir(parents=True)
    (tmp_path / "configs" / "below" / "file.yml").write_text(text)
    assert (composition.configs_folder(Settings(), None) is not None) == taken


def test_in_a_clone_of_ours_the_packages_are_nobodys_folders_until_an_author_adds_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("configs/examples", "tools", "src/cirkelline"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "src" / "cirkelline" / "py.typed").touch()
    (tmp_path / "configs" / "examples" / "assistant.yaml").write_text(AGENT)
    for clone in (tmp_path, composition.EXAMPLES.parent.parent):
        monkeypatch.chdir(clone)
        assert composition.configs_folder(Settings(), None) is None
        assert composition.tools_folder(clone / "configs", None) is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "mine.yaml").write_text(AGENT)
    assert composition.configs_folder(Settings(), None) == tmp_path / "configs"


def test_the_tools_folder_is_the_one_given_or_the_one_beside_the_agent_files(tmp_path: Path) -> None:
    assert composition.tools_folder(None, None) is None
    assert composition.tools_folder(tmp_path / "configs", None) is None
    (tmp_path / "tools").mkdir()
    assert composition.tools_folder(tmp_path / "configs", None) == tmp_path / "tools"
    assert composition.tools_folder(tmp_path / "configs", tmp_path / "other") == tmp_path / "other"
