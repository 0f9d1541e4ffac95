"""What an operator sets: environment variables, read once, checked, and shown with their secrets masked."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import platformdirs
from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from cirkelline.configs import durations, errors, fields, models, scalars, secrecy, wording
from cirkelline.configs.fields import refuse
from cirkelline.configs.scalars import Expanded

PREFIX: Final = "CIRKELLINE_"
_FOR_TESTS: Final = "CIRKELLINE_TEST_"
_SCHEMES: Final = ("postgresql", "postgres", "postgresql+psycopg")
_MODULE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


def _database_url(value: object) -> SecretStr:
    """Return the URL in libpq's own form; nothing but its scheme is ever repeated, as the rest may hold a password."""
    url = (value.get_secret_value() if isinstance(value, SecretStr) else fields.text(value)).strip()
    scheme, separator, rest = url.partition("://")
    if not separator or not rest or scheme.lower() not in _SCHEMES:
        what = f"begins with {wording.shown(scheme + '://')}" if separator and len(scheme) <= 20 else "is no such URL"  # noqa: PLR2004
        raise refuse(f"must be a URL such as postgresql://user:password@host:5432/database, but it {what}")
    if not url.isprintable() or " " in url:
        raise refuse("holds a space or another character that no URL has: write it as %20 and the like")
    return SecretStr(f"postgresql://{rest}")


def _path(value: object) -> Path:
    text = str(value) if isinstance(value, Path) else fields.text(value)
    try:
        return Path.cwd() / Path(text).expanduser()
    except RuntimeError:
        raise refuse(f"names a home folder that is not there, {wording.shown(text)}: write the whole path") from None


def _modules(value: object) -> tuple[str, ...]:
    given = value if scalars.is_list(value) else fields.text(value).split(",")
    modules = tuple(fields.text(module).strip() for module in given)
    named = tuple(dict.fromkeys(module for module in modules if module))
    if bad := next((module for module in named if not _MODULE.fullmatch(module)), None):
        raise refuse(f"must be module names with commas between, such as billing,crm.tools, not {wording.shown(bad)}")
    return named


def _choice(*choices: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        text = fields.text(value).strip().lower()
        if text not in choices:
            raise refuse(f"must be {wording.listed(choices, 'or')}, not {wording.shown(text)}")
        return text

    return read


def _system_user() -> str:
    if name := os.environ.get("LOGNAME") or os.environ.get("USER"):
        return name
    try:
        import pwd  # noqa: PLC0415  # not on every platform

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):  # a container often runs under a number that nobody has named
        return "user"


class Settings(BaseSettings):
    """The settings of one process. `Settings()` holds the defaults alone; `load_settings` reads an environment."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=PREFIX, populate_by_name=True)

    database_url: Annotated[SecretStr, BeforeValidator(_database_url)] | None = Field(
        default=None,
        validation_alias="DATABASE_URL",
        description="The PostgreSQL database (15 or later, with pgvector); without it an embedded server is used.",
    )
    home: Annotated[Path, BeforeValidator(_path)] = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("cirkelline", appauthor=False)),
        description="The folder of the embedded server's data and of pulled model weights.",
    )
    configs: Annotated[Path, BeforeValidator(_path)] | None = Field(
        default=None, description="The folder of agent files; without it ./configs, if it holds any."
    )
    user: Annotated[str, BeforeValidator(fields.line(255, "ivo@example.com"))] = Field(
        default_factory=_system_user, description="The user on whose behalf commands act; by default the system's user."
    )
    tool_modules: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_modules)] = Field(
        default=(),
        description="Python modules, with commas between, from which agents may call functions besides the tools folder.",
    )
    tool_role: Annotated[str, BeforeValidator(fields.line(63, "tool_writer"))] | None = Field(
        default=None,
        description="The database role under which transactional tools work; by default that of the connection itself.",
    )
    concurrency: Annotated[int, BeforeValidator(fields.integer(1, 1000))] = Field(
        default=8, description="How many tasks one worker runs at once."
    )
    chat_slots: Annotated[int, BeforeValidator(fields.integer(0, 999))] = Field(
        default=0,
        description="How many of those are kept free for turns of conversations; one always remains for the rest.",
    )
    state_limit: Annotated[int, BeforeValidator(fields.integer(1024, 16_777_216))] = Field(
        default=65_536, description="The largest state an agent may keep, in bytes of JSON."
    )
    lease: Annotated[float, BeforeValidator(fields.seconds(0.5, 300))] = Field(
        default=3.0, description="How long a silent worker keeps its tasks before another takes them over."
    )
    poll: Annotated[float, BeforeValidator(fields.seconds(0.05, 60))] = Field(
        default=2.0, description="How often an idle worker looks for tasks of which no notification reached it."
    )
    model_pause: Annotated[float, BeforeValidator(fields.seconds(0.05, 600))] = Field(
        default=1.0,
        description="How long a model that failed is left alone at first; it doubles up to 60 times as long.",
    )
    free_disk: Annotated[int, BeforeValidator(fields.integer(0, 1_000_000))] = Field(
        default=1000,
        description="Megabytes that must be free where the home and the embedded server's data are; below it no task is claimed.",
    )
    grace: Annotated[float, BeforeValidator(fields.seconds(0, 3600))] = Field(
        default=30.0, description="How long a stopping worker lets running tasks finish."
    )
    keep_completed: Annotated[int, BeforeValidator(fields.integer(0, 36_500))] = Field(
        default=90, description="Days for which completed tasks are kept; 0 for ever."
    )
    keep_failed: Annotated[int, BeforeValidator(fields.integer(0, 36_500))] = Field(
        default=0, description="Days for which failed and cancelled tasks are kept; 0 for ever."
    )
    keep_states: Annotated[int, BeforeValidator(fields.integer(0, 36_500))] = Field(
        default=30, description="Days for which snapshots of agents are kept; 0 for ever; the newest one always stays."
    )
    keep_versions: Annotated[int, BeforeValidator(fields.integer(0, 1_000_000_000))] = Field(
        default=0, description="How many snapshots of an agent are kept at most; 0 for any number."
    )
    keep_runs: Annotated[int, BeforeValidator(fields.integer(0, 36_500))] = Field(
        default=0,
        description="Days for which records of ended workflow runs are kept, at least as long as their tasks; 0 for ever.",
    )
    local_threads: Annotated[int, BeforeValidator(fields.integer(1, 256))] | None = Field(
        default=None, description="Threads of the embedded language model; by default chosen for the machine."
    )
    local_model: Annotated[str, BeforeValidator(fields.line(500, "qwen2.5-coder-1.5b"))] | None = Field(
        default=None, description="The embedded language model's name or GGUF file; by default chosen for the memory."
    )
    embedding_threads: Annotated[int, BeforeValidator(fields.integer(1, 256))] | None = Field(
        default=None, description="Threads of the embedding model; by default half the processors, at most 4."
    )
    document_limit: Annotated[int, BeforeValidator(fields.integer(1024, 1_073_741_824))] = Field(
        default=52_428_800, description="The largest document that is read, in bytes."
    )
    optimize_after: Annotated[int, BeforeValidator(fields.integer(0, 1_000_000))] = Field(
        default=200, description="New memories of a user after which memory_optimization begins by itself; 0 for never."
    )
    optimize_model: Annotated[str, BeforeValidator(models.read_label)] | None = Field(
        default=None,
        description="The model that decides in those runs; without one only exact restatements are merged.",
    )
    prices: Annotated[Path, BeforeValidator(_path)] | None = Field(
        default=None, description="A file of what models cost; it goes before the price list that is shipped."
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], BeforeValidator(_choice("debug", "info", "warning", "error"))
    ] = Field(default="info", description="The least important log lines to show: debug, info, warning or error.")
    log_format: Annotated[Literal["auto", "pretty", "json"], BeforeValidator(_choice("auto", "pretty", "json"))] = (
        Field(default="auto", description="The form of log lines; auto is pretty on a terminal and JSON elsewhere.")
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take nothing from the process by itself: what `load_settings` was given is all there is."""
        return (init_settings,)


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable that means something; `setting` is the field it sets, None where others read it."""

    name: str
    description: str
    setting: str | None = None
    secret: bool = False


_OTHERS: Final = (
    Variable(
        "GOOGLE_API_KEY",
        "The key of `gemini:` models and embeddings; `model: auto` takes Gemini when it is set.",
        secret=True,
    ),
    Variable("OPENAI_API_KEY", "The key of `openai:` models; the second choice of `model: auto`.", secret=True),
    Variable("OPENAI_BASE_URL", "The address of another OpenAI-compatible server, such as Ollama or vLLM."),
    Variable("CIRKELLINE_OPENAI_MODEL", "The model that `model: auto` takes from an OpenAI-compatible server."),
    Variable("CIRKELLINE_DEBUG", "1 shows the traceback behind an error of a command."),
)


def variables() -> tuple[Variable, ...]:
    """Return every environment variable that is read, in the order in which they are shown and documented."""
    own = tuple(
        Variable(_variable(name), field.description or "", name) for name, field in Settings.model_fields.items()
    )
    return own + _OTHERS


def _variable(setting: str) -> str:
    alias = Settings.model_fields[setting].validation_alias
    return alias if isinstance(alias, str) else f"{PREFIX}{setting.upper()}"


class _Environment(EnvSettingsSource):
    """pydantic's own reader of environment variables, over the mapping it is given instead of the process's."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(Settings)
        known = (variable.name for variable in variables() if variable.setting)
        self.env_vars = {name.lower(): Expanded(environ[name].strip()) for name in known if _given(environ, name)}


def _given(environ: Mapping[str, str], name: str) -> bool:
    return bool(environ.get(name, "").strip())  # an empty variable is how shells and compose files say "unset"


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Return the settings an environment holds; raises UsageError that names each bad variable, its value and the remedy."""
    try:
        return Settings(**_Environment(environ)())
    except ValidationError as error:
        faults = [f"{_named(details['loc'][0])} {details['msg']}" for details in error.errors(include_url=False)]
        raise errors.UsageError(f"{'; '.join(faults)}: correct it or unset it") from None


def _named(location: str | int) -> str:
    return _variable(str(location)) if location in Settings.model_fields else str(location)


def describe(settings: Settings, environ: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return each variable's name, the value in force with its secrets masked, and the value's source.

    The source is `environment`, `default`, or `command line` where an option of the command replaced the setting.
    """
    loaded = load_settings(environ)
    return [_row(variable, settings, loaded, environ) for variable in variables()]


def _row(variable: Variable, settings: Settings, loaded: Settings, environ: Mapping[str, str]) -> tuple[str, str, str]:
    source = "environment" if _given(environ, variable.name) else "default"
    if variable.setting is None:
        value = environ.get(variable.name, "").strip()
        return variable.name, _masked(value, secret=variable.secret), source
    value = getattr(settings, variable.setting)
    if value != getattr(loaded, variable.setting):
        source = "command line"
    return variable.name, _masked(value), source


def _masked(value: object, *, secret: bool = False) -> str:
    if value in (None, "", ()):
        return "not set"
    if isinstance(value, SecretStr):
        return secrecy.mask_url(value.get_secret_value())
    if scalars.is_list(value):
        return ",".join(map(str, value))
    if isinstance(value, float):
        return durations.render(value)
    return secrecy.HIDDEN if secret else secrecy.mask_url(str(value))


def unknown_variables(environ: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """Return the variables that begin like ours but are none, each with the one that was probably meant.

    They are no error, as another release may read them; `doctor` warns, because a mistyped setting is silently a default.
    """
    known = {variable.name.removeprefix(PREFIX): variable.name for variable in variables()}
    ours = {name for name in environ if name.startswith(PREFIX) and not name.startswith(_FOR_TESTS)}
    meant = {name: wording.nearest(name.removeprefix(PREFIX), list(known)) for name in ours - set(known.values())}
    return [(name, known[short] if short else None) for name, short in sorted(meant.items())]
