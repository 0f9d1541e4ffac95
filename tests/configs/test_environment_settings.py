from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from cirkelline.configs import settings
from cirkelline.configs.errors import UsageError
from cirkelline.configs.settings import Settings, describe, load_settings, unknown_variables


def _fault(**environ: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_settings(environ)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    found = load_settings({})
    assert found == Settings()
    assert found.database_url is None
    assert found.configs is None
    assert found.prices is None
    assert found.tool_modules == ()
    assert found.tool_role is None
    assert (found.concurrency, found.state_limit, found.lease, found.poll, found.grace) == (8, 65_536, 3.0, 2.0, 30.0)
    assert (found.model_pause, found.free_disk, found.chat_slots) == (1.0, 1000, 0)
    assert (found.optimize_after, found.optimize_model) == (200, None)
    assert (found.keep_completed, found.keep_failed, found.keep_states, found.keep_versions) == (90, 0, 30, 0)
    assert found.keep_runs == 0
    assert (found.local_threads, found.local_model, found.log_level, found.log_format) == (None, None, "info", "auto")
    assert found.home.is_absolute()
    assert found.home.name == "cirkelline"
    assert found.user


def test_every_variable_sets_its_own_field(tmp_path: Path) -> None:
    found = load_settings(
        {
            "DATABASE_URL": "postgresql://me:pw@host/db",
            "CIRKELLINE_HOME": str(tmp_path / "home"),
            "CIRKELLINE_CONFIGS": str(tmp_path / "agents"),
            "CIRKELLINE_USER": "ivo@example.com",
            "CIRKELLINE_TOOL_MODULES": " billing, crm.tools,,billing ",
            "CIRKELLINE_TOOL_ROLE": " tool_writer ",
            "CIRKELLINE_CONCURRENCY": "16",
            "CIRKELLINE_STATE_LIMIT": "131_072",
            "CIRKELLINE_LEASE": "10s",
            "CIRKELLINE_POLL": "0.5",
            "CIRKELLINE_GRACE": "1m30s",
            "CIRKELLINE_MODEL_PAUSE": "5s",
            "CIRKELLINE_FREE_DISK": "0",
            "CIRKELLINE_CHAT_SLOTS": "2",
            "CIRKELLINE_KEEP_COMPLETED": "1",
            "CIRKELLINE_KEEP_FAILED": "2",
            "CIRKELLINE_KEEP_STATES": "3",
            "CIRKELLINE_KEEP_VERSIONS": "4",
            "CIRKELLINE_KEEP_RUNS": "5",
            "CIRKELLINE_LOCAL_THREADS": "2",
            "CIRKELLINE_LOCAL_MODEL": "7",
            "CIRKELLINE_EMBEDDING_THREADS": "3",
            "CIRKELLINE_DOCUMENT_LIMIT": "1_000_000",
            "CIRKELLINE_OPTIMIZE_AFTER": "50",
            "CIRKELLINE_OPTIMIZE_MODEL": "local:qwen2.5-coder-1.5b",
            "CIRKELLINE_PRICES": str(tmp_path / "prices.yaml"),
            "CIRKELLINE_LOG_LEVEL": "DEBUG",
            "CIRKELLINE_LOG_FORMAT": "json",
        }
    )
    assert found == Settings(
        database_url=SecretStr("postgresql://me:pw@host/db"),
        home=tmp_path / "home",
        configs=tmp_path / "agents",
        user="ivo@example.com",
        tool_modules=("billing", "crm.tools"),
        tool_role="tool_writer",
        concurrency=16,
        state_limit=131_072,
        lease=10.0,
        poll=0.5,
        grace=90.0,
        model_pause=5.0,
        free_disk=0,
        chat_slots=2,
        keep_completed=1,
        keep_failed=2,
        keep_states=3,
        keep_versions=4,
        keep_runs=5,
        local_threads=2,
        local_model="7",
        embedding_threads=3,
        document_limit=1_000_000,
        optimize_after=50,
        optimize_model="local:qwen2.5-coder-1.5b",
        prices=tmp_path / "prices.yaml",
        log_level="debug",
        log_format="json",
    )


def test_no_field_is_without_a_test_above_and_a_description() -> None:
    assert len(Settings.model_fields) == 28
    assert all(variable.description for variable in settings.variables())


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_variable_is_an_unset_one(empty: str) -> None:
    names = [variable.name for variable in settings.variables()]
    assert load_settings(dict.fromkeys(names, empty)) == Settings()


def test_only_the_given_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRKELLINE_CONCURRENCY", "3")
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/db")
    assert load_settings({}).concurrency == 8
    assert load_settings({}).database_url is None
    assert Settings().concurrency == 8


@pytest.mark.parametrize("scheme", ["postgresql://", "postgres://", "postgresql+psycopg://", "PostgreSQL://"])
def test_each_form_of_database_url_becomes_libpqs(scheme: str) -> None:
    url = load_settings({"DATABASE_URL": f"{scheme}me:p%40w@host:5532/db?sslmode=require"}).database_url
    assert url is not None
    assert url.get_secret_value() == "postgresql://me:p%40w@host:5532/db?sslmode=require"


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:hunter2@host/db",
        "postgresql+asyncpg://me:hunter2@host/db",
        "sqlite:///hunter2.db",
        "host=localhost password=hunter2",
        "me:hunter2@host",
        "hunter2://",
        "postgresql://",
        "postgresql://me:hunter2@host/my db",
    ],
)
def test_another_database_url_is_refused_without_its_password(url: str) -> None:
    message = _fault(DATABASE_URL=url)
    assert message.startswith("DATABASE_URL ")
    assert "postgresql://user:password@host:5432/database" in message or "%20" in message
    assert "hunter2@" not in message
    assert "=hunter2" not in message


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("CIRKELLINE_CONCURRENCY", "abc", "must be a whole number from 1 to 1000, not 'abc'"),
        ("CIRKELLINE_CONCURRENCY", "0", "from 1 to 1000, not '0'"),
        ("CIRKELLINE_CONCURRENCY", "8.5", "not '8.5'"),
        ("CIRKELLINE_STATE_LIMIT", "64k", "must be a whole number from 1024 to 16_777_216, not '64k'"),
        ("CIRKELLINE_LEASE", "0", "must be between 500ms and 5m, not '0'"),
        ("CIRKELLINE_LEASE", "soon", "must be a duration such as '30s'"),
        ("CIRKELLINE_POLL", "1h", "must be between 50ms and 1m, not '1h'"),
        ("CIRKELLINE_GRACE", "-1", "must be between 0s and 1h, not '-1'"),
        ("CIRKELLINE_OPTIMIZE_MODEL", "nonsense:x", "'nonsense:x' names no model this runtime knows"),
        ("CIRKELLINE_LOCAL_THREADS", "all", "from 1 to 256, not 'all'"),
        ("CIRKELLINE_LOG_LEVEL", "loud", "must be debug, info, warning or error, not 'loud'"),
        ("CIRKELLINE_LOG_FORMAT", "xml", "must be auto, pretty or json, not 'xml'"),
        ("CIRKELLINE_TOOL_MODULES", "billing;os", "with commas between, such as billing,crm.tools, not 'billing;os'"),
        ("CIRKELLINE_TOOL_MODULES", "tools/billing.py", "not 'tools/billing.py'"),
        ("CIRKELLINE_USER", "a\nb", "must be on one line"),
    ],
)
def test_a_bad_value_is_named_with_its_variable_and_a_remedy(name: str, value: str, expected: str) -> None:
    message = _fault(**{name: value})
    assert message.startswith(f"{name} ")
    assert expected in message
    assert message.endswith(": correct it or unset it")


def test_every_bad_value_is_named_at_once() -> None:
    message = _fault(CIRKELLINE_LEASE="x", DATABASE_URL="y", CIRKELLINE_POLL="z")
    assert all(name in message for name in ("CIRKELLINE_LEASE", "DATABASE_URL", "CIRKELLINE_POLL"))


def test_paths_become_absolute_and_know_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/somebody")
    found = load_settings({"CIRKELLINE_HOME": "~/data", "CIRKELLINE_CONFIGS": "agents"})
    assert (found.home, found.configs) == (Path("/somebody/data"), tmp_path / "agents")


def test_settings_cannot_be_changed_and_refuse_strangers() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().concurrency = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="concurency"):
        Settings(concurency=3)  # type: ignore[call-arg]


def test_a_url_does_not_show_when_settings_are_printed() -> None:
    assert "hunter2" not in repr(load_settings({"DATABASE_URL": "postgresql://me:hunter2@host/db"}))


def test_the_description_says_what_holds_and_why_and_masks_secrets(tmp_path: Path) -> None:
    environ = {
        "DATABASE_URL": "postgresql://me:hunter/@2@host/db?sslpassword=hunter2&sslmode=require",
        "CIRKELLINE_HOME": str(tmp_path),
        "CIRKELLINE_TOOL_MODULES": "a,b",
        "OPENAI_API_KEY": "hunter2",
        "OPENAI_BASE_URL": "http://me:hunter2@h/v1?api_key=hunter2",
    }
    loaded = load_settings(environ).model_copy(update={"concurrency": 2})
    rows = {name: (value, source) for name, value, source in describe(loaded, environ)}
    assert "hunter" not in str(rows)
    assert rows["DATABASE_URL"] == ("postgresql://me:***@host/db?sslpassword=***&sslmode=require", "environment")
    assert rows["CIRKELLINE_HOME"] == (str(tmp_path), "environment")
    assert rows["CIRKELLINE_CONCURRENCY"] == ("2", "command line")
    assert rows["CIRKELLINE_TOOL_MODULES"] == ("a,b", "environment")
    assert rows["CIRKELLINE_LEASE"] == ("3s", "default")
    assert rows["CIRKELLINE_CONFIGS"] == ("not set", "default")
    assert rows["OPENAI_API_KEY"] == ("***", "environment")
    assert rows["OPENAI_BASE_URL"] == ("http://me:***@h/v1?api_key=***", "environment")
    assert rows["GOOGLE_API_KEY"] == ("not set", "default")
    assert list(rows) == [variable.name for variable in settings.variables()]


def test_a_mistyped_variable_is_found_with_the_one_that_was_meant() -> None:
    environ = {"CIRKELLINE_CONCURENCY": "3", "CIRKELLINE_ZZZ": "1", "CIRKELLINE_HOME": "/x", "CIRKELLINE_TEST_X": "1"}
    assert unknown_variables(environ) == [
        ("CIRKELLINE_CONCURENCY", "CIRKELLINE_CONCURRENCY"),
        ("CIRKELLINE_ZZZ", None),
    ]


def test_importing_the_settings_imports_nothing_heavy() -> None:
    heavy = {
        "agno",
        "google",
        "openai",
        "yaml",
        "psycopg",
        "sqlalchemy",
        "rich",
        "prompt_toolkit",
        "xllamacpp",
        "httpx",
    }
    code = "import sys, cirkelline.configs.settings; print(*{name.partition('.')[0] for name in sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert heavy.isdisjoint(found.split())
    assert "pydantic" in found.split()
