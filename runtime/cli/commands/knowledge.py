"""`cirkelline knowledge`."""

from __future__ import annotations

from datetime import date
from typing import Final

import click

from cirkelline.runtime.cli.answers import Work
from cirkelline.runtime.cli.frame import Group
from cirkelline.runtime.cli.parameters import ANY_TEXT, DAY, NAME, Name

_TAG: Final = Name(100)
_TYPES: Final = ("text", "markdown", "html", "pdf", "docx", "csv")
_user: Final = click.option("--user", type=NAME, help="Whose; by default $CIRKELLINE_USER, or the system's user.")


@click.group("knowledge", cls=Group)
def command() -> None:
    """Give documents to agents, and search them."""


@command.add("search", example="cirkelline knowledge search 'how many days of leave' --tag handbook")
@click.argument("words", nargs=-1, required=True, type=ANY_TEXT)
@_user
@click.option("--tag", "tags", multiple=True, type=_TAG, help="Only documents with this tag; again for one more.")
@click.option("--type", "types", multiple=True, type=click.Choice(_TYPES), help="Only documents of this type.")
@click.option("--since", type=DAY, help="Only documents added since this day: 2026-03-01, or 30d for 30 days ago.")
@click.option("--until", type=DAY, help="Only documents added until this day.")
@click.option(
    "--document", "documents", multiple=True, type=ANY_TEXT, help="Only this document: its id, name or source."
)
@click.option("--limit", type=click.IntRange(1, 1000), default=6, show_default=True, help="How many passages at most.")
@click.option(
    "--mode",
    type=click.Choice(["hybrid", "vector", "words", "rrf"]),
    default="hybrid",
    show_default=True,
    help="What ranks: meaning and words, meaning alone, words alone, or the ranks by both.",
)
@click.option("--threshold", type=click.FloatRange(0, 1), help="Leave out what scores less.")
def search(
    *,
    words: tuple[str, ...],
    user: str | None,
    tags: tuple[str, ...],
    types: tuple[str, ...],
    since: date | None,
    until: date | None,
    documents: tuple[str, ...],
    limit: int,
    mode: str,
    threshold: float | None,
) -> Work:
    """Search a user's documents and those that are everybody's, best passages first.

    Shows for each passage its score, how near it is in meaning, what its words weigh (BM25), and where it stands.
    """
    if not " ".join(words).strip():
        raise click.UsageError("say what to look for", click.get_current_context())
    if since and until and since > until:
        raise click.UsageError(f"--since {since} is after --until {until}", click.get_current_context())
    from cirkelline.runtime.cli.actions import searching

    return searching.search(
        " ".join(words),
        user=user,
        tags=tags,
        types=types,
        since=since,
        until=until,
        documents=documents,
        limit=limit,
        mode=mode,
        threshold=threshold,
    )
