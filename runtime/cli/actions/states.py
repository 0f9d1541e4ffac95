"""Looking at agents' snapshots and going back to one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from cirkelline.configs import scalars
from cirkelline.configs.errors import UsageError
from cirkelline.runtime.cli import display, opening
from cirkelline.runtime.cli.answers import Answer, Block, Facts, Table, Text, Tone
from cirkelline.state import agents, snapshots
from cirkelline.state.snapshots import Snapshot, SnapshotNotFound

_TONES: Final[dict[str, Tone]] = {"+": "good", "-": "bad", "~": "busy"}


class NothingToCompare(UsageError):
    """An agent has fewer than two snapshots."""


def _document(snapshot: Snapshot) -> dict[str, Any]:
    state = snapshot.state
    return {"version": snapshot.version, "time": snapshot.timestamp, "work": state["work"], "stats": state["stats"]}


async def find(agent: str, limit: int) -> Answer:
    """List an agent's newest snapshots."""
    async with opening.connected() as conn:
        found = await agents.get(conn, agent)
        listed = await snapshots.find(conn, found.id, limit=limit)
    document = {"agent": found.label, "states": [_document(snapshot) for snapshot in listed]}
    rows = [
        (
            str(snapshot.version),
            display.ago(snapshot.timestamp),
            display.count(len(snapshot.state["work"]), "key"),
            display.value(snapshot.state["stats"], 100),
        )
        for snapshot in listed
    ]
    empty = f"agent {found.label} has no state yet: each task it ends leaves a version"
    return Answer(document, [Table(("version", "made", "work", "stats"), rows, empty)])


async def show(agent: str, version: int | None) -> Answer:
    """Show one snapshot, the newest by default."""
    async with opening.connected() as conn:
        found = await agents.get(conn, agent)
        snapshot = await snapshots.get(conn, found.id, version) if version else await snapshots.latest(conn, found.id)
    if snapshot is None:
        raise SnapshotNotFound(f"agent {found.label} has no state yet: each task it ends leaves a version")
    document = {"agent": found.label, **_document(snapshot)}
    blocks: list[Block] = [
        Facts([("agent", found.label), ("version", str(snapshot.version)), ("made", display.when(snapshot.timestamp))])
    ]
    for part in ("work", "stats"):
        content = json.dumps(snapshot.state[part], indent=2, ensure_ascii=False, sort_keys=True)
        blocks.append(Text(f"{part.capitalize()}:\n{content}", apart=True))
    return Answer(document, blocks)


async def diff(agent: str, first: int | None, second: int | None) -> Answer:
    """Compare two snapshots: the last two by default, one that is named with the newest."""
    async with opening.connected() as conn:
        found = await agents.get(conn, agent)
        newest = await snapshots.find(conn, found.id, limit=2)
        if len(newest) < 2 and (first is None or second is None):  # noqa: PLR2004 - it takes two to differ
            raise NothingToCompare(
                f"agent {found.label} has {display.count(len(newest), 'state version')}: it takes two"
            )
        old = await snapshots.get(conn, found.id, first) if first else newest[1]
        new = await snapshots.get(conn, found.id, second) if second else newest[0]
    changes = list(changed(old.state, new.state))
    document = {
        "agent": found.label,
        "from": old.version,
        "to": new.version,
        "changes": [
            {"change": sign, "path": path, "old": before, "new": after} for sign, path, before, after in changes
        ],
    }
    blocks: list[Block] = [Text(f"agent {found.label}, state version {old.version} to {new.version}", tone="quiet")]
    blocks += [Text(_line(*change), tone=_TONES[change[0]]) for change in changes]
    if not changes:
        blocks.append(Text("no difference"))
    return Answer(document, blocks)


def changed(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, str, Any, Any]]:
    """Yield each difference of two JSON values as (+, - or ~; where; old; new), as deep as both are of one kind."""
    if scalars.is_mapping(old) and scalars.is_mapping(new):
        for key in sorted({*old, *new}):
            inner = f"{path}.{key}" if path else str(key)
            yield from _compared(old, new, key, inner)
    elif scalars.is_list(old) and scalars.is_list(new):
        for index in range(max(len(old), len(new))):
            inner = f"{path}[{index}]"
            if index >= len(new):
                yield "-", inner, old[index], None
            elif index >= len(old):
                yield "+", inner, None, new[index]
            else:
                yield from changed(old[index], new[index], inner)
    elif old != new or type(old) is not type(new):
        yield "~", path, old, new


def _compared(old: dict[str, Any], new: dict[str, Any], key: str, path: str) -> Iterator[tuple[str, str, Any, Any]]:
    if key not in old:
        yield "+", path, None, new[key]
    elif key not in new:
        yield "-", path, old[key], None
    else:
        yield from changed(old[key], new[key], path)


def _line(sign: str, path: str, before: Any, after: Any) -> str:
    old, new = (display.value(json.dumps(value, ensure_ascii=False), 120) for value in (before, after))
    return f"{sign} {display.line(path, 200)}: " + {"+": new, "-": old, "~": f"{old} → {new}"}[sign]


async def roll_back(agent: str, version: int) -> Answer:
    """Make an older snapshot's work the newest version; the counters go on."""
    async with opening.connected() as conn:
        found = await agents.get(conn, agent)
        made = await snapshots.roll_back(conn, found.id, version)
    document = {"agent": found.label, "version": made, "restored_version": version}
    return Answer(document, [Text(f"agent {found.label} has the work of version {version} again, as version {made}")])
