"""`cirkelline knowledge`."""

from __future__ import annotations

import math
from datetime import date
from typing import Final

import click

from cirkelline.runtime.cli.answers import Work
from cirkelline.runtime.cli.frame import Group
from cirkelline.runtime.cli.parameters import ANY_TEXT, DAY, LIMIT, NAME, Name

_TAG: Final = Name(100)
_TYPES: Final = ("text", "markdown", "html", "pdf", "docx", "csv")
_user: Final = click.option("--user", type=NAME, help="Whose; by default $CIRKELLINE_USER, or the system's user.")


@click.group("knowledge", cls=Group)
def command() -> None:
    """Give documents to agents, and search them."""


@command.add("add", example="cirkelline knowledge add handbook.pdf notes/ 'reports/*.docx' --tag work")
@click.argument("sources", nargs=-1, type=ANY_TEXT)
@click.option("--shared", is_flag=True, help="For everybody: all users find them.")
@_user
@click.option("--tag", "tags", multiple=True, type=_TAG, help="A tag of these documents; may be repeated.")
@click.option("--sync", is_flag=True, help="SOURCES are folders: also remove documents whose files are gone from them.")
@click.option("--resume", is_flag=True, help="Go on with the run on this machine that was cut off last.")
@click.option("--yes", is_flag=True, help="Do not ask before many documents are removed.")
def add(
    *,
    sources: tuple[str, ...],
    shared: bool,
    user: str | None,
    tags: tuple[str, ...],
    sync: bool,
    resume: bool,
    yes: bool,
) -> Work:
    """Bring documents into the database, or up to date.

    SOURCES are files, folders, patterns in quotes, and http(s) addresses: text, Markdown, HTML, PDF, DOCX and CSV. A
    document that has not changed costs nothing; a changed one is replaced when all of it is ready, and stays as it was
    if anything goes wrong. Cut off, the same command goes on. The exit code is 1 if a document was refused or failed.
    """
    if resume and (sources or shared or user or tags or sync):
        raise click.UsageError(
            "--resume goes on with what was asked for then, so give nothing else", click.get_current_context()
        )
    if not sources and not resume:
        raise click.UsageError("name files, folders or addresses to add, or --resume", click.get_current_context())
    if shared and user:
        raise click.UsageError("documents are --shared or one --user's, not both", click.get_current_context())
    from cirkelline.runtime.cli.actions import ingesting

    if resume:
        return ingesting.resume(yes=yes)
    return ingesting.add(sources, user=user, shared=shared, tags=tags, sync=sync, yes=yes)


@command.add("list", example="cirkelline knowledge list --tag work")
@click.argument("words", nargs=-1, type=ANY_TEXT)
@click.option("--tag", type=_TAG, help="Only documents with this tag.")
@click.option(
    "--type",
    "document_type",
    type=click.Choice(_TYPES),
    help="Only documents of this type.",
)
@click.option("--shared", is_flag=True, help="Only those that are everybody's.")
@_user
@click.option("--limit", type=LIMIT, default=50, show_default=True, help="How many at most.")
def list_documents(
    *,
    words: tuple[str, ...],
    tag: str | None,
    document_type: str | None,
    shared: bool,
    user: str | None,
    limit: int,
) -> Work:
    """List a user's documents and those that are everybody's, the newest first.

    WORDS are looked for in names and sources.
    """
    from cirkelline.runtime.cli.actions import documents

    return documents.find(
        " ".join(words) or None, tag=tag, document_type=document_type, only_shared=shared, user=user, limit=limit
    )


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
    if threshold is not None and math.isnan(threshold):
        raise click.UsageError("--threshold is a number from 0 to 1", click.get_current_context())
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


@command.add("show", example="cirkelline knowledge show handbook.pdf")
@click.argument("document", type=ANY_TEXT)
@_user
def show(document: str, user: str | None) -> Work:
    """Show one document: where it is from, and its chunks.

    DOCUMENT is an id, or a name or source that only one has.
    """
    from cirkelline.runtime.cli.actions import documents

    return documents.show(document, user)


@command.add("remove", example="cirkelline knowledge remove handbook.pdf")
@click.argument("documents", nargs=-1, required=True, type=ANY_TEXT)
@click.option("--shared", is_flag=True, help="Of those that are everybody's.")
@_user
@click.option("--yes", is_flag=True, help="Do not ask before a folder's documents are removed.")
def remove(*, documents: tuple[str, ...], shared: bool, user: str | None, yes: bool) -> Work:
    """Remove documents from the database; files stay where they are.

    DOCUMENTS are ids, names, sources, and folders for all that came from them.
    """
    if shared and user:
        raise click.UsageError("documents are --shared or one --user's, not both", click.get_current_context())
    from cirkelline.runtime.cli.actions import documents as actions

    return actions.remove(documents, user=user, shared=shared, yes=yes)


@command.add("reindex", example="cirkelline knowledge reindex --embedder minilm")
@click.option("--embedder", type=NAME, help="Embed with this one from now on; by default with the one in force.")
@click.option("--language", type=NAME, help="Also read words as of this language from now on, such as danish.")
@click.option("--adopted", is_flag=True, help="Also make chunks comparable that another program wrote.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def reindex(*, embedder: str | None, language: str | None, adopted: bool, yes: bool) -> Work:
    """Embed all documents of all users anew, and say first what that takes.

    The old vectors are searched until all new ones are there. Cut off, the same command goes on.
    """
    from cirkelline.runtime.cli.actions import reindexing

    return reindexing.reindex(embedder=embedder, language=language, adopted=adopted, yes=yes)
