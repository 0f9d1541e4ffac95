"""Tables of the dispatch benchmarks: printed, and written into docs/dispatch.md in the place of the earlier ones."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[2] / "docs" / "dispatch.md"


@dataclass(frozen=True, slots=True)
class Table:
    """One table: the command that made it, what it shows, its columns and its rows."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    command: str

    def markdown(self) -> str:
        """The table with its title, and with what it was made on."""
        lines = [self.header, tuple("---" for _ in self.header), *self.rows]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        made = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        return f"{self.title}\n\n{table}\n\n`{self.command}`: {made}, Python {platform.python_version()}"


def write(table: Table) -> None:
    """Put the table between its marks on the page."""
    begin, end = f"<!-- {table.name} -->", f"<!-- /{table.name} -->"
    text = PAGE.read_text()
    if begin not in text:
        raise SystemExit(f"{PAGE} has no place for it: write {begin} and {end} where it belongs")
    new = f"{begin}\n{table.markdown()}\n{end}"
    PAGE.write_text(re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: new, text, flags=re.DOTALL))


def number(value: float | None, digits: int = 2) -> str:
    """A figure as the tables show it."""
    return "–" if value is None else f"{value:,.{digits}f}"  # noqa: RUF001 - a dash: there is no such figure
