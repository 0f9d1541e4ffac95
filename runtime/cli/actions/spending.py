"""Seeing what was spent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from cirkelline.runtime.cli import display, opening
from cirkelline.runtime.cli.answers import Answer, Block, Cell, Table, Text
from cirkelline.state import usage
from cirkelline.state.usage import By, Usage


async def show(by: Sequence[str], since: date | None, user: str | None) -> Answer:
    """Show what was spent from a day on, added up by these."""
    wanted = list(dict.fromkeys(By(each) for each in by))
    async with opening.database() as opened, opening.rows_of(opened.db, user) as conn:
        found = await usage.find(conn, wanted, since=since)
    total = _added(found)
    document = {
        "since": since.isoformat() if since else None,
        "by": [each.value for each in wanted],
        "usage": [_document(each, wanted) for each in found],
        "total": total,
    }
    first = f" since {since}" if since else ""
    headings = (*(each.value for each in wanted), "calls", "tokens in", "out", "cost")
    blocks: list[Block] = [Table(headings, [_row(each, wanted) for each in found], f"no model was called{first}")]
    if len(found) > 1:
        blocks.append(Text(_summary(total), apart=True))
    return Answer(document, blocks)


def _document(spent: Usage, by: Sequence[By]) -> dict[str, Any]:
    who: dict[str, Any] = {}
    for each in by:
        match each:
            case By.DAY:
                who["day"] = spent.day.isoformat() if spent.day else None
            case By.AGENT:
                who |= {"agent": spent.agent, "agent_id": spent.agent_id}
            case By.USER:
                who |= {"user": spent.user, "user_id": spent.user_id}
            case By.MODEL:
                who["model"] = spent.model
    return who | _added([spent])


def _added(found: Sequence[Usage]) -> dict[str, Any]:
    return {
        "calls": sum(each.calls for each in found),
        "input_tokens": sum(each.input_tokens for each in found),
        "output_tokens": sum(each.output_tokens for each in found),
        "cost": display.amount(sum((each.cost for each in found), Decimal(0))),
        "calls_of_unknown_cost": sum(each.unpriced for each in found),
    }


def _row(spent: Usage, by: Sequence[By]) -> Sequence[Cell]:
    names = {
        By.DAY: str(spent.day),
        By.AGENT: _name(spent.agent, spent.agent_id),
        By.USER: _name(spent.user, spent.user_id),
        By.MODEL: spent.model or "-",
    }
    return (
        *(names[each] for each in by),
        f"{spent.calls:,}",
        f"{spent.input_tokens:,}",
        f"{spent.output_tokens:,}",
        display.paid(spent.cost, calls=spent.calls, unknown=spent.unpriced),
    )


def _name(now: str | None, identity: UUID | None) -> str:
    return now or (f"removed, {display.short(identity)}" if identity else "none")


def _summary(total: dict[str, Any]) -> str:
    paid = display.paid(Decimal(total["cost"]), calls=total["calls"], unknown=total["calls_of_unknown_cost"])
    return (
        f"in all: {display.count(total['calls'], 'call')}, {total['input_tokens']:,} tokens in,"
        f" {total['output_tokens']:,} out, {paid}"
    )
