"""The kinds of values that commands take; each refuses what the database or a terminal could not hold."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

NEVER: Final = "never"
"""In place of a cron expression: no more."""
LARGEST: Final = 2_147_483_647  # PostgreSQL's INTEGER
_LONGEST_NAME: Final = 255  # the documents' VARCHAR


class Name(click.ParamType[str]):
    """One line of text that names something: not empty, no control characters, at most `longest` characters."""

    name = "text"

    def __init__(self, longest: int = _LONGEST_NAME) -> None:
        self._longest = longest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text without spaces around it."""
        text = str(value).strip()
        if not text:
            self.fail("it is empty", param, ctx)
        if not text.isprintable():
            self.fail("it holds characters that cannot be shown", param, ctx)
        if len(text) > self._longest:
            self.fail(f"it is longer than {self._longest} characters", param, ctx)
        return text


class AnyText(click.ParamType[str]):
    """Text of any kind and length that is text at all."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text as it is."""
        try:
            str(value).encode()
        except UnicodeEncodeError:  # bytes of another encoding, which the system hands over as lone surrogates
            self.fail("it is not UTF-8 text", param, ctx)
        return str(value)


class Duration(click.ParamType[float]):
    """A length of time: `30s`, `5m`, `1h30m`, or a number of seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        if isinstance(value, float):
            return value
        from cirkelline.configs import durations

        text = str(value).strip()
        seconds = durations.parse(text) if not _is_number(text) else float(text)
        if seconds is None:
            self.fail(f"write {durations.EXAMPLES}", param, ctx)
        if not 0 < seconds <= 30 * 86_400:
            self.fail("it must be more than nothing and at most 30 days", param, ctx)
        return seconds


def _is_number(text: str) -> bool:
    return text.isascii() and text.replace(".", "", 1).isdigit()


class Position(click.ParamType[int]):
    """The number of a step, from 1; `last` is 0."""

    name = "step"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        if isinstance(value, int):
            return value
        text = str(value).strip()
        if text == "last":
            return 0
        if not (text.isascii() and text.isdigit() and 0 < int(text) <= LARGEST):
            self.fail(f"{text!r} is no step: give a number from 1, and the task before --prompt", param, ctx)
        return int(text)


class Day(click.ParamType[date | None]):
    """A day in UTC: `2026-03-01`, `30d` for that many days ago, `all` for the first day there is (None)."""

    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date | None:
        """Return the day."""
        text = str(value).strip()
        if text == "all":
            return None
        try:
            if text.endswith("d") and text[:-1].isascii() and text[:-1].isdigit():
                return datetime.now(UTC).date() - timedelta(days=int(text[:-1]))
            return date.fromisoformat(text)
        except (ValueError, OverflowError):
            self.fail(f"{text!r} is no day: write 2026-03-01, 30d for 30 days ago, or all", param, ctx)


class Words(click.ParamType[tuple[str, ...]]):
    """Names with commas between, each once: `research,cite`."""

    name = "a,b,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the names."""
        if not isinstance(value, str):
            return tuple(value)
        words = [Name(100).convert(word, param, ctx) for word in value.split(",")]
        return tuple(dict.fromkeys(words))


class Moment(click.ParamType[datetime]):
    """A moment: `2026-03-01T09:00` where the command runs, or with a zone: `2026-03-01T09:00+01:00`, `…Z`."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the moment with its zone."""
        text = str(value).strip()
        try:
            found = datetime.fromisoformat(text).astimezone()
        except (ValueError, OverflowError, OSError):
            found = None
        if found is None or len(text) <= len("2026-03-01"):
            self.fail(f"{text!r} is no time: write 2026-03-01T09:00, or with a zone 2026-03-01T09:00+01:00", param, ctx)
        return found


class Cron(click.ParamType[str]):
    """Five cron fields, `0 4 * * *`; or `never`."""

    name = "cron"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the fields one space apart."""
        from cirkelline.configs import schedules

        if str(value).strip() == NEVER:
            return NEVER
        try:
            return schedules.read_cron(str(value))
        except ValueError as error:
            self.fail(f"it {error}", param, ctx)


class ModelLabel(click.ParamType[str]):
    """One language model, `provider:NAME`."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the label."""
        from cirkelline.configs import models

        try:
            return models.read_label(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Zone(click.ParamType[str]):
    """The name of a time zone."""

    name = "zone"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name."""
        from cirkelline.configs import schedules

        try:
            return schedules.read_zone(str(value))
        except ValueError as error:
            self.fail(f"it {error}", param, ctx)


class FileOrFolder(click.ParamType[Path]):
    """A path of any kind; whoever reads it says what is wrong with it."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path as it was given."""
        if not str(value):
            self.fail("it is empty", param, ctx)
        return Path(value)


class Folder(click.ParamType[Path]):
    """A folder that is there."""

    name = "folder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the folder's whole path."""
        path = Path(str(value)).expanduser()
        try:
            if not path.is_dir():
                self.fail(f"{str(value)!r} is {'a file' if path.exists() else 'not there'}: name a folder", param, ctx)
        except OSError as error:  # a name too long for the file system, a folder that may not be entered
            self.fail(f"{str(value)[:80]!r} cannot be opened: {error.strerror}", param, ctx)
        return path.absolute()


NAME: Final = Name()
TASK_TYPE: Final = Name(100)
ANY_TEXT: Final = AnyText()
DURATION: Final = Duration()
POSITION: Final = Position()
DAY: Final = Day()
CRON: Final = Cron()
MODEL: Final = ModelLabel()
ZONE: Final = Zone()
MOMENT: Final = Moment()
KEY: Final = Name()
WORDS: Final = Words()
FILE_OR_FOLDER: Final = FileOrFolder()
FOLDER: Final = Folder()
VERSION: Final = click.IntRange(1, LARGEST)
PRIORITY: Final = click.IntRange(-1000, 1000)
LIMIT: Final = click.IntRange(1, 10_000)
