"""Log lines beside a chat: never between its words."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

import structlog

from cirkelline.configs.settings import Settings
from cirkelline.runtime import logs
from cirkelline.runtime.cli import console

FILE: Final = "chat.log"
_LARGEST: Final = 1_000_000  # bytes; a longer log is begun anew


@contextmanager
def logging_beside(settings: Settings, environ: Mapping[str, str]) -> Generator[None]:
    """Send log lines, and what an author's tools print, to `chat.log` in the home while a terminal shows the chat.

    Where stderr goes elsewhere they go there: errors, or as much as CIRKELLINE_LOG_LEVEL says. What concerns the person
    is said to them anyway.
    """
    before = structlog.get_config() if structlog.is_configured() else None
    with _log(settings, environ) as (stream, chosen):
        logs.configure(chosen, environ, stream=stream)
        try:
            with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
                yield
        finally:
            logging.basicConfig(handlers=[logging.NullHandler()], force=True)
            structlog.configure(**before) if before else structlog.reset_defaults()


@contextmanager
def _log(settings: Settings, environ: Mapping[str, str]) -> Generator[tuple[TextIO, Settings]]:
    if sys.stderr is not None and not console.on_terminal(sys.stderr):  # pyright: ignore[reportUnnecessaryComparison] - closed by whoever started us
        level = settings.log_level if "CIRKELLINE_LOG_LEVEL" in environ else "error"
        yield sys.stderr, settings.model_copy(update={"log_level": level})
        return
    with _file(settings.home / FILE) as file:
        yield file, settings


@contextmanager
def _file(path: Path) -> Generator[TextIO]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = not path.exists() or path.stat().st_size > _LARGEST
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if fresh else os.O_APPEND), 0o600)
    except OSError:  # a home that cannot be written to is no reason not to talk
        descriptor = os.open(os.devnull, os.O_WRONLY)
    with os.fdopen(descriptor, "a", encoding="utf-8", errors="replace", buffering=1) as file:
        yield file
