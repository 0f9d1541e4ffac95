"""`cirkelline db`."""

from __future__ import annotations

import click

from cirkelline.runtime.cli.answers import Work
from cirkelline.runtime.cli.frame import Group


@click.group("db", cls=Group)
def command() -> None:
    """Reach, migrate and adopt the database."""


@command.add("url", example='psql "$(cirkelline db url)"')
def url() -> Work:
    """Print the URL of the database in use, with its password, for psql and other programs.

    It sets the search_path so that SQL without schema names finds runtime, ai and public.
    """
    from cirkelline.runtime.cli.actions import db

    return db.url()


@command.add("status", example="cirkelline db status")
def status() -> Work:
    """Show which database is in use and whether it is up to date."""
    from cirkelline.runtime.cli.actions import db

    return db.status()


@command.add("migrate", example="cirkelline db migrate")
def migrate() -> Work:
    """Bring the database to this release's schema, in one transaction."""
    from cirkelline.runtime.cli.actions import db

    return db.migrate()


@command.add("adopt", example="cirkelline db adopt --release")
@click.option("--release", is_flag=True, help="Let the pending tasks that were there before cirkelline run.")
@click.option(
    "--from", "from_schema", type=click.Choice(["public"]), help="Move the agents database's tables out of this schema."
)
def adopt(release: bool, from_schema: str | None) -> Work:
    """Show what was in the database before cirkelline, and take it in.

    Without an option nothing is changed: such rows are kept as they are and such tasks are held.
    """
    from cirkelline.runtime.cli.actions import db

    return db.adopt(release=release, from_public=from_schema is not None)


@command.add("retention", example="cirkelline db retention --dry-run")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def retention(*, dry_run: bool) -> Work:
    """Remove ended tasks and snapshots of agents that are older than they are kept; daemons do so by themselves.

    CIRKELLINE_KEEP_COMPLETED, …_FAILED, …_STATES (days) and …_VERSIONS say for how long. An agent's newest snapshot stays, what
    was said in a session stays, and so does everything that was there before cirkelline.
    """
    from cirkelline.runtime.cli.actions import retention

    return retention.sweep(dry=dry_run)


@command.add("stop", example="cirkelline db stop")
@click.option("--force", is_flag=True, help="Although other processes use it.")
def stop(force: bool) -> Work:
    """Stop the embedded database server; it starts again with the next command that needs it."""
    from cirkelline.runtime.cli.actions import db

    return db.stop(force=force)
