"""The house stands as the design says, and it can be installed in every usual way."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("runtime", "agents", "tools", "state", "configs")
SHOW_HELP = "import cirkelline.runtime.cli as cli; print(cli.__file__); cli.main()"


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_is_a_top_level_folder_reached_through_a_relative_symlink(room: str) -> None:
    link = ROOT / "src" / "cirkelline" / room
    assert link.readlink() == Path(f"../../{room}")
    assert (ROOT / room / "__init__.py").is_file()


def test_nothing_else_lives_in_the_import_package() -> None:
    ours = {path.name for path in (ROOT / "src" / "cirkelline").iterdir() if path.name != "__pycache__"}
    assert ours == {"__init__.py", "__main__.py", "py.typed", "database.py", *ROOMS}


def test_the_bare_room_names_are_not_importable() -> None:
    script = f"import importlib.util as u; print([n for n in {ROOMS!r} if u.find_spec(n)])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd="/")
    assert found.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, capture_output=True, text=True
    )
    return folder


def tracked_files() -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", *ROOMS], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return {name for name in listed if (ROOT / name).is_file()}


def test_the_wheel_holds_every_file_of_every_room(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        packed = set(wheel.namelist())
    assert {f"cirkelline/{name}" for name in tracked_files()} <= packed
    assert not [name for name in packed if not name.startswith(("cirkelline/", "cirkelline-"))]


def test_the_sdist_holds_every_file_of_every_room(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        packed = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
    assert tracked_files() <= packed


def test_an_installed_wheel_runs_from_any_folder(built: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", target, *built.glob("*.whl")],
        check=True,
    )
    shown = subprocess.run(
        [sys.executable, "-P", "-c", SHOW_HELP, "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
    )
    assert shown.stdout.splitlines()[0].startswith(str(target))
    assert "Usage" in shown.stdout
