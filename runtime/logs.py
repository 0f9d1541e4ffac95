"""Log lines: events on stderr, pretty on a terminal and JSON elsewhere, never with a secret in them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, TextIO, cast
from uuid import UUID

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from cirkelline.configs import scalars, secrecy
from cirkelline.configs.settings import Settings

_SHORTEST_SECRET: Final = 6  # a shorter "secret" would be masked inside ordinary words
_DEEPEST: Final = 6
_COLORS: Final = {"debug": "\x1b[2m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_DIM: Final = "\x1b[2m"
_BOLD: Final = "\x1b[1m"
_RESET: Final = "\x1b[0m"
_ESCAPED: Final = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))} | {10: "\n", 9: "\t"}


def configure(settings: Settings, environ: Mapping[str, str], *, stream: TextIO | None = None) -> None:
    """Send every log line of this process, also those of libraries, to `stream` (stderr), as the settings say."""
    out = stream or sys.stderr
    pretty = settings.log_format == "pretty" or (settings.log_format == "auto" and out.isatty())
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if pretty else "iso", utc=not pretty),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _plain,
        Masking(environ),
    ]
    renderer: Processor = Pretty(colors=out.isatty() and "NO_COLOR" not in environ) if pretty else _as_json()
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    _configure_libraries(shared, renderer, out, level)


def _configure_libraries(shared: list[Processor], renderer: Processor, out: TextIO, level: int) -> None:
    """Give the lines of libraries that use the standard library's logging the same form; theirs start at warning."""
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


def _as_json() -> Processor:
    as_json = structlog.processors.JSONRenderer(default=str)

    def render(logger: WrappedLogger, method: str, event: EventDict) -> str | bytes:
        first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
        return as_json(logger, method, {**first, **event})

    return render


def _plain(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if isinstance(value, UUID | os.PathLike | BaseException):
            event[key] = str(cast("object", value))
    return event


class Masking:
    """A processor that hides secrets: values of variables named like one, known keys' forms, passwords in URLs."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._secrets = sorted(
            {value for name, value in environ.items() if secrecy.names_secret(name) and len(value) >= _SHORTEST_SECRET},
            key=len,
            reverse=True,
        )

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Mask every text of a log line, wherever it is nested."""
        return {key: self._masked(key, value, 0) for key, value in event.items()}

    def _masked(self, key: str, value: Any, depth: int) -> Any:
        match value:
            case str():
                return self._text(key, value)
            case dict() | list() | tuple() if depth > _DEEPEST:
                return "…"
            case _ if scalars.is_mapping(value):
                return {inner: self._masked(str(inner), item, depth + 1) for inner, item in value.items()}
            case _ if scalars.is_list(value) or isinstance(value, tuple):
                return [self._masked(key, item, depth + 1) for item in cast("list[Any]", value)]
            case _:
                return value

    def _text(self, key: str, text: str) -> str:
        if text and (secrecy.names_secret(key) or secrecy.looks_secret(text)) and key != "event":
            return secrecy.HIDDEN
        for secret in self._secrets:
            text = text.replace(secret, secrecy.HIDDEN)
        return " ".join(secrecy.mask_url(word) if "://" in word else word for word in text.split(" "))


class Pretty:
    """A renderer for people: the time, the event, what is known about it."""

    def __init__(self, *, colors: bool) -> None:
        self._colors = colors

    def __call__(self, _logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]) -> str:
        """Return one line, and below it a traceback where there is one."""
        time, level, name = (str(event.pop(key, "")) for key in ("timestamp", "level", "event"))
        trace = event.pop("exception", None)
        facts = "  ".join(f"{self._paint(_DIM, key + '=')}{_shown(value)}" for key, value in event.items())
        mark = "" if level == "info" else f"{self._paint(_COLORS.get(level, ''), level)} "
        line = f"{self._paint(_DIM, time)} {mark}{self._paint(_BOLD, _shown_event(name))}  {facts}".rstrip()
        return f"{line}\n{str(trace).translate(_ESCAPED)}" if trace else line

    def _paint(self, color: str, text: str) -> str:
        return f"{color}{text}{_RESET}" if self._colors and color else text


def _shown_event(name: str) -> str:
    return name.translate(_ESCAPED)


def _shown(value: object) -> str:
    # Escaped: a model's or a user's words must not be able to move the cursor of whoever reads the log.
    text = str(value).translate(_ESCAPED).replace("\n", " ")
    return repr(text) if " " in text and not isinstance(value, list | tuple | dict) else text
