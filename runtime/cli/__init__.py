"""The command line. Only click is imported to parse it; a command imports what it needs when it runs."""

from __future__ import annotations

from cirkelline.runtime.cli.entry import main

__all__ = ["main"]
