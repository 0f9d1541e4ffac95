from __future__ import annotations

from pathlib import Path

import pytest
from malformed import MALFORMED, Malformed

from cirkelline.configs import loading


@pytest.fixture(params=MALFORMED, ids=lambda case: case.name.replace(" ", "-"))
def case(request: pytest.FixtureRequest) -> Malformed:
    found: Malformed = request.param
    return found


def _write(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_each_fault_is_one_sentence_at_its_place(case: Malformed, tmp_path: Path) -> None:
    _write(tmp_path, case.files)
    problems = loading.load([tmp_path], {}).problems
    assert [(p.path, p.line, p.column) for p in problems] == [(tmp_path / case.path, case.line, case.column)], problems
    message = problems[0].message
    assert case.expected in message
    assert message == message.strip()
    assert "\n" not in message
    assert "Traceback" not in message
    assert "sk-live" not in message
    assert "hunter2" not in message
    assert str(problems[0]) == f"{tmp_path / case.path}:{case.line}:{case.column}: {message}"


def test_a_faulty_document_defines_nothing(case: Malformed, tmp_path: Path) -> None:
    _write(tmp_path, case.files)
    bad = tmp_path / case.path
    names = {d.spec.name for d in loading.load([tmp_path], {}).definitions if d.path == bad}
    assert names <= {"a"}  # the sound first document of "a bad second document"


def test_the_table_holds_sixty_different_faults() -> None:
    assert len({case.name for case in MALFORMED}) == len(MALFORMED) >= 60
