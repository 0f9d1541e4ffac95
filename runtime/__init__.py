"""The scheduler, the worker, the command line and the chat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cirkelline.runtime.api import Runtime

__all__ = ["Runtime"]


def __getattr__(name: str) -> Any:
    # At first use: the command line imports this package too, and `--help` must not pay for agents and a database.
    if name == "Runtime":
        from cirkelline.runtime.api import Runtime  # noqa: PLC0415

        return Runtime
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
