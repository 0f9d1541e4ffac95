"""Short ways to load an agent from a text, for the tests of this room."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from cirkelline.configs import loading
from cirkelline.configs.loading import Definition, Loaded
from cirkelline.configs.schema import AgentSpec

MINIMAL = "name: helper\ninstructions: Help.\n"


def load_text(text: str | bytes, environ: Mapping[str, str] | None = None) -> Loaded:
    """Return what a file of this content gives."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agent.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return loading.load([path], environ or {})


def definition(text: str, environ: Mapping[str, str] | None = None) -> Definition:
    """Return the one definition a text holds; what is wrong with it fails the test."""
    loaded = load_text(text, environ)
    assert [problem.message for problem in loaded.problems] == []
    (found,) = loaded.definitions
    return found


def spec(text: str, environ: Mapping[str, str] | None = None) -> AgentSpec:
    return definition(text, environ).spec


def with_lines(lines: str, environ: Mapping[str, str] | None = None) -> AgentSpec:
    """Return the agent that some lines make of a minimal one."""
    return spec(f"{MINIMAL}{lines}\n", environ)


def problems(text: str | bytes, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return `line:column: message` of each fault of a text."""
    return [f"{each.line}:{each.column}: {each.message}" for each in load_text(text, environ).problems]
