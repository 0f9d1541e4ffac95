"""docs/scheduling.md: its commands do what they say, in their order, for an agent called `assistant`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cirkelline.runtime.cli import entry

PAGE = (Path(__file__).parents[2] / "docs" / "scheduling.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
FILES = dict(re.findall(r"<!-- sample: (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = [line.removeprefix("$ cirkelline ") for block in BLOCKS for line in block.splitlines()]
ASSISTANT = "name: assistant\ninstructions: Help.\nmodel: openai:x\n"


def test_every_command_on_the_page_works(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assistant.yaml").write_text(ASSISTANT)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    for command in ["agents apply assistant.yaml", *COMMANDS]:
        assert entry.run(shlex.split(command)) == 0, (command, capsys.readouterr())
