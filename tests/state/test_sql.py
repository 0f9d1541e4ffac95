"""Every SQL constant is a statement that the migrated database accepts."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
from psycopg._queries import PostgresQuery
from psycopg.adapt import Transformer

import cirkelline.state
from cirkelline.state.connection import Conn

STARTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")


def constants() -> dict[str, str]:
    found = {}
    for module in pkgutil.iter_modules(cirkelline.state.__path__):
        loaded = importlib.import_module(f"cirkelline.state.{module.name}")
        for name, value in vars(loaded).items():
            if name.isupper() and isinstance(value, str) and value.strip().startswith(STARTS):
                found[f"{module.name}.{name}"] = value
    return found


class _AnyParameters(dict[str, None]):
    def __missing__(self, key: str) -> None:
        return None


def numbered(statement: str) -> str:
    query = PostgresQuery(Transformer())
    query.convert(statement, _AnyParameters())
    return query.query.decode()


def test_there_are_dozens_of_them() -> None:
    assert len(constants()) > 40


@pytest.mark.parametrize("name", sorted(constants()))
async def test_is_prepared_by_the_server(name: str, conn: Conn) -> None:
    await conn.execute("PREPARE checked AS " + numbered(constants()[name]), prepare=False)  # type: ignore[call-overload]
