"""The composition root: settings become a migrated database, the server embedded here or one that was given."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

from cirkelline.configs import files, prices
from cirkelline.configs.settings import Settings
from cirkelline.state import agents, embedded, migrations
from cirkelline.state.connection import Database, describe

if TYPE_CHECKING:
    from cirkelline.runtime.worker import Worker
    from cirkelline.tools.library import Embedders
    from cirkelline.tools.toolbox import Toolbox

EXAMPLES: Final = Path(__file__).resolve().parent.parent / "configs" / "examples"

_PACKAGED: Final = EXAMPLES.parent
_AGENT_KEY: Final = re.compile(rb"""(?m)^["']?(?:name|instructions)["']?\s*:""")
_LOOKED_INTO: Final = 65536  # bytes of a file that decide whether it defines an agent


@dataclass(frozen=True, slots=True)
class Opened:
    """An open, migrated database; `fresh` when it is the embedded one and no agent or task has ever been in it."""

    settings: Settings
    db: Database
    url: str
    embedded: bool
    fresh: bool

    @property
    def place(self) -> str:
        """Where the database is; without its password."""
        return place(self.settings)


def place(settings: Settings) -> str:
    """Say where the database is, for the first line of every daemon and chat; without its password."""
    if settings.database_url is None:
        return f"embedded database in {settings.home}"
    return describe(settings.database_url.get_secret_value())


def _ignore(_: str) -> None:
    """Tell nobody."""


@asynccontextmanager
async def open_database(
    settings: Settings, *, migrate: bool = True, connections: int = 8, progress: Callable[[str], None] = _ignore
) -> AsyncGenerator[Opened]:
    """Open the database that the settings name, or else the embedded one, and migrate it unless told not to.

    A given database that does not answer is an error, never a reason to take the embedded one. `progress` is told, from
    another thread, what takes long.
    Raises: DatabaseUnavailable, MigrationError.
    """
    async with _server(settings, progress) as (url, is_embedded):
        if migrate:
            await migrations.migrate(url)
        async with Database.open(url, connections=connections) as db:
            # Not by who migrated it: a newcomer's first command may be another than the one that greets them.
            fresh = migrate and is_embedded and await _is_empty(db)
            yield Opened(settings, db, url, is_embedded, fresh)


@asynccontextmanager
async def _server(settings: Settings, progress: Callable[[str], None]) -> AsyncGenerator[tuple[str, bool]]:
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value(), False
        return
    starting = asyncio.create_task(asyncio.to_thread(embedded.ensure, settings.home, progress=progress))
    try:
        server = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # A thread cannot be cancelled: what it starts after all has to be released, or it would run for ever.
        await asyncio.to_thread((await starting).release)
        raise
    try:
        yield server.url(), True
    finally:
        await asyncio.to_thread(server.release)


async def _is_empty(db: Database) -> bool:
    async with db.connection() as conn:
        return await agents.none_yet(conn)


def configs_folder(settings: Settings, given: Path | None) -> Path | None:
    """Return the folder of agent files: the given one, $CIRKELLINE_CONFIGS, or ./configs if it holds agent files."""
    chosen = given or settings.configs
    if chosen is not None:
        return chosen.expanduser().absolute()
    here = Path("configs").absolute()
    return here if here.is_dir() and any(_defines_agent(path) for path in _own_files(here)) else None


def tools_folder(configs: Path | None, given: Path | None) -> Path | None:
    """Return the folder of Python tools: the given one, or `tools` beside the folder of agent files if it is there.

    Our own package is never an author's folder, also when the daemon runs in a clone of its repository.
    """
    if given is not None:
        return given.expanduser().absolute()
    if configs is None:
        return None
    beside = configs.parent / "tools"
    return beside if beside.is_dir() and not _is_ours(configs.parent) else None


def _is_ours(root: Path) -> bool:
    """Whether a folder is a clone of our repository, or where it is installed: its `configs` and `tools` are packages."""
    return (root / "src" / "cirkelline" / "py.typed").is_file() or root.resolve() == _PACKAGED.parent.resolve()


def _own_files(folder: Path) -> Iterator[Path]:
    # In a clone of our repository ./configs is our package: its examples alone do not make it an author's folder.
    examples = folder / EXAMPLES.name if _is_ours(folder.parent) else None
    for path in files.find([folder]):
        if isinstance(path, Path) and examples not in path.parents:
            yield path


def _defines_agent(path: Path) -> bool:
    # One of the two is enough: an author who mistyped the other wants to be told, not ignored.
    try:
        with path.open("rb") as file:
            return bool(_AGENT_KEY.search(file.read(_LOOKED_INTO)))
    except OSError:
        return False


@asynccontextmanager
async def open_worker(
    opened: Opened,
    toolbox: Toolbox,
    environ: Mapping[str, str],
    *,
    slots: int | None = None,
    session: UUID | None = None,
    drain: bool = False,
    embedders: Embedders | None = None,
    listen: bool = True,
) -> AsyncGenerator[Worker]:
    """Put a worker together and register it: `serve` it inside the block; at the end it has left the database.

    Its agents' searches take `embedders`, by default those of the environment.
    """
    # Imported here: a command that only reads the database does without agents and tools.
    from cirkelline.agents.models import ModelPool  # noqa: PLC0415
    from cirkelline.runtime.registry import Registry  # noqa: PLC0415
    from cirkelline.runtime.worker import Worker  # noqa: PLC0415
    from cirkelline.tools.embedding import EmbedderPool  # noqa: PLC0415
    from cirkelline.tools.execution import Executor  # noqa: PLC0415

    registry = Registry(opened.db, toolbox, environ, prices=prices.load(opened.settings.prices))
    async with (
        Executor() as executor,
        ModelPool(environ) as model_pool,
        EmbedderPool(environ) as pool,
        Worker(
            opened.db,
            opened.settings,
            registry,
            executor,
            model_pool,
            embedders=embedders or pool,
            slots=slots,
            session=session,
            drain=drain,
            listen=listen,
        ) as worker,
    ):
        yield worker
