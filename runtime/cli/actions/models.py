"""Which language models can be used here, and fetching local ones."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import psutil

from cirkelline.agents import models, weights
from cirkelline.agents.weights import Weights
from cirkelline.configs.errors import CirkellineError
from cirkelline.configs.models import Provider
from cirkelline.configs.schema import ModelSpec
from cirkelline.configs.settings import Settings
from cirkelline.runtime import pulling
from cirkelline.runtime.cli import display, opening, progressing
from cirkelline.runtime.cli.answers import Answer, Cell, Mark, Table, Text

_HOSTED: Final[tuple[tuple[Provider, str], ...]] = (("gemini", models.GEMINI_MODEL), ("openai", models.OPENAI_MODEL))


async def find() -> Answer:
    """List hosted models by provider, and the local ones with what they cost."""
    settings = opening.settings()
    rows = [_hosted(ModelSpec(provider=provider, name=name)) for provider, name in _HOSTED]
    rows += [_local(entry, settings) for entry in weights.CATALOGUE.values()]
    auto = await _auto(os.environ)
    document = {"auto": auto, "models": rows}
    table: list[Sequence[Cell]] = [
        (
            row["model"],
            display.size(row["size"]) if row["size"] else "-",
            display.size(row["memory"]) if row["memory"] else "-",
            Mark("ready", "good") if row["ready"] else Mark(row["reason"], "busy"),
        )
        for row in rows
    ]
    said = (
        f"`model: auto` stands for {auto['model']} here"
        if auto["model"]
        else f"`model: auto` finds none: {auto['reason']}"
    )
    said += f"; {auto['reason']}" if auto["model"] and auto["reason"] else ""
    columns = ("model", "download", "memory", "here")
    return Answer(document, [Table(columns, table, "no models"), Text(said, apart=True)])


def _hosted(spec: ModelSpec) -> dict[str, Any]:
    reason = models.why_not_servable(spec, os.environ)
    return {"model": spec.label, "ready": reason is None, "reason": reason, "size": None, "memory": None, "path": None}


def _local(entry: Weights, settings: Settings) -> dict[str, Any]:
    present = weights.is_present(settings.home, entry.name)
    return {
        "model": f"local:{entry.name}",
        "ready": present,
        "reason": None if present else f"`cirkelline models pull {entry.name}` fetches it",
        "size": entry.size,
        "memory": entry.memory,
        "path": weights.where(settings.home, entry.name) if present else None,
    }


async def _auto(environ: Mapping[str, str]) -> dict[str, str | None]:
    try:
        model = await models.resolve_auto(ModelSpec(), environ)
        return {"model": model.label, "reason": await asyncio.to_thread(models.why_not_servable, model, environ)}
    except CirkellineError as error:
        return {"model": None, "reason": str(error)}


async def pull(name: str | None, source: str | None) -> Answer:
    """Fetch a local model's weights, showing how far it is."""
    settings = opening.settings()
    wanted = name or _default(settings)
    with progressing.shown() as show:
        path = await pulling.pull(wanted, settings.home, source=source or "auto", tell=show)
    entry = weights.find(wanted)
    document = {"model": f"local:{entry.name}", "path": path, "size": entry.size, "sha256": entry.sha256}
    return Answer(document, [Text(f"local:{entry.name} is in {path}")])


def _default(settings: Settings) -> str:
    return settings.local_model or weights.default_name(psutil.virtual_memory().available)
