from __future__ import annotations

from pathlib import Path

from cirkelline.configs import reference, schema, settings


def test_the_page_about_agent_files_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "agents.md"
    assert page.read_text(encoding="utf-8") == reference.reference(), "run `make docs`"


def test_every_key_and_every_variable_is_explained() -> None:
    told = reference.reference()
    keys = {key for keys in schema.surface_keys().values() for key in keys}
    names = {variable.name for variable in settings.variables()}
    assert [word for word in keys | names if f"| `{word}` | " not in told or f"| `{word}` |  |" in told] == []
