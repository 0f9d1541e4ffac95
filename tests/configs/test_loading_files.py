from __future__ import annotations

import os
from pathlib import Path

import pytest
from agent_files import MINIMAL

from cirkelline.configs import loading
from cirkelline.configs.positions import Problem


def _agent(path: Path, name: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(MINIMAL.replace("helper", name or path.stem))


def _names(*paths: Path) -> list[str]:
    loaded = loading.load(paths, {})
    assert loaded.problems == ()
    return [each.spec.name for each in loaded.definitions]


def _only(problems: tuple[Problem, ...], path: Path) -> str:
    (problem,) = problems
    assert (problem.path, problem.line, problem.column) == (path, 1, 1)
    return problem.message


def test_a_folder_gives_the_yaml_files_of_all_folders_below_in_order_of_name(tmp_path: Path) -> None:
    for name in (
        "b.yaml",
        "a.yml",
        "deep/er/c.yaml",
        "d.txt",
        "e.json",
        ".hidden.yaml",
        ".git/f.yaml",
        "x.script.yaml",
    ):
        _agent(tmp_path / name, Path(name).name.strip(".").split(".")[0])
    assert _names(tmp_path) == ["a", "b", "c"]


def test_a_file_that_is_named_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    _agent(tmp_path / "agent.txt")
    assert _names(tmp_path / "agent.txt") == ["agent"]


def test_a_file_is_read_once_however_often_it_is_reached(tmp_path: Path) -> None:
    _agent(tmp_path / "real" / "a.yaml")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "b.yaml").symlink_to("a.yaml")
    assert _names(tmp_path / "real" / "a.yaml", tmp_path, tmp_path / "real") == ["a"]


def test_folders_that_contain_themselves_by_a_link_come_to_an_end(tmp_path: Path) -> None:
    _agent(tmp_path / "a.yaml")
    (tmp_path / "again").symlink_to(tmp_path)
    assert _names(tmp_path) == ["a"]


def test_links_to_files_elsewhere_are_followed(tmp_path: Path) -> None:
    _agent(tmp_path / "..data" / "a.yaml")  # as Kubernetes mounts them
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    assert _names(tmp_path) == ["a"]


def test_an_empty_folder_is_no_problem(tmp_path: Path) -> None:
    assert loading.load([tmp_path], {}) == loading.Loaded((), ())


def test_no_paths_give_nothing() -> None:
    assert loading.load([], {}) == loading.Loaded((), ())


@pytest.mark.parametrize("name", ["missing", "missing.yaml", "a.yaml/below.yaml"])
def test_what_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    _agent(tmp_path / "a.yaml")
    assert _only(loading.load([tmp_path / name], {}).problems, tmp_path / name) == "there is no such file or folder"


def test_a_dangling_link_is_told_from_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("gone.yaml")
    for given in (tmp_path, tmp_path / "a.yaml"):
        assert "this link leads nowhere" in _only(loading.load([given], {}).problems, tmp_path / "a.yaml")


def test_a_dangling_link_to_something_else_is_not_our_business(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").symlink_to("gone.txt")
    assert loading.load([tmp_path], {}).problems == ()


def test_a_link_to_itself_is_one_problem(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("a.yaml")
    assert "cannot be read" in _only(loading.load([tmp_path], {}).problems, tmp_path / "a.yaml")


@pytest.mark.parametrize("given", ["folder", "file"])
def test_a_named_pipe_is_refused_and_not_waited_for(given: str, tmp_path: Path) -> None:
    pipe = tmp_path / "a.yaml"
    os.mkfifo(pipe)
    paths = [tmp_path if given == "folder" else pipe]
    assert "this is not a file" in _only(loading.load(paths, {}).problems, pipe)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    _agent(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").chmod(0)
    assert "permissions" in _only(loading.load([tmp_path], {}).problems, tmp_path / "a.yaml")


@pytest.mark.parametrize("refused", ["stat", "open"])
def test_a_refusal_of_the_system_is_a_sentence_about_permissions(
    refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may read everything, so the refusal is made; the file system is not what is under test.
    _agent(tmp_path / "a.yaml")
    original = getattr(Path, refused)

    def deny(path: Path, *args: object, **options: object) -> object:
        if path.name == "a.yaml":
            raise PermissionError(13, "denied", str(path))
        return original(path, *args, **options)

    monkeypatch.setattr(Path, refused, deny)
    assert "permissions" in _only(loading.load([tmp_path], {}).problems, tmp_path / "a.yaml")


def test_a_file_name_that_is_no_text_still_prints(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.yaml"))
    path.write_text("name: [")
    (problem,) = loading.load([tmp_path], {}).problems
    assert str(problem).encode("utf-8").endswith(b".yaml:1:7: " + problem.message.encode())


def test_a_path_that_cannot_exist_is_a_problem() -> None:
    (problem,) = loading.load([Path("a\0b.yaml")], {}).problems
    assert "cannot be read" in problem.message


def test_a_file_that_is_cut_off_defines_nothing_even_before_the_cut(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{MINIMAL}---\nname: b\ninstructions: 'Be")
    loaded = loading.load([tmp_path], {})
    assert loaded.definitions == ()
    assert [(each.line, each.column) for each in loaded.problems] == [(5, 15)]


def test_two_agents_of_one_name_are_both_left_out_and_only_the_later_is_reported(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        _agent(tmp_path / f"{name}.yaml", "same")
    _agent(tmp_path / "d.yaml")
    loaded = loading.load([tmp_path], {})
    assert [each.spec.name for each in loaded.definitions] == ["d"]
    assert [(each.path.name, each.line, each.column) for each in loaded.problems] == [
        ("b.yaml", 1, 7),
        ("c.yaml", 1, 7),
    ]
    assert all(f"{tmp_path / 'a.yaml'}:1:7" in each.message for each in loaded.problems)


def test_a_name_is_taken_even_by_a_definition_with_another_fault(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: same\n")
    _agent(tmp_path / "b.yaml", "same")
    loaded = loading.load([tmp_path], {})
    assert loaded.definitions == ()
    assert [each.path.name for each in loaded.problems] == ["a.yaml", "b.yaml"]


def test_names_are_compared_after_variables_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: ${WHO}\ninstructions: x\n")
    _agent(tmp_path / "b.yaml", "same")
    assert len(loading.load([tmp_path], {"WHO": "same"}).problems) == 1


def test_a_relative_path_is_reported_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text("nome: x\nname: a\ninstructions: b\n")
    monkeypatch.chdir(tmp_path)
    (problem,) = loading.load([Path("a.yaml")], {}).problems
    assert str(problem) == "a.yaml:1:1: unknown key 'nome'; did you mean 'name'?"
