"""The database for a script: `from cirkelline.database import db`, then `db.query(…)` and `db.execute(…)`.

`%s` stands for a parameter, as everywhere in psycopg. Tables of all three schemas are found without naming the schema.
The database is `DATABASE_URL`'s, or the embedded one.
"""

from __future__ import annotations

from cirkelline.state.plain import PlainDatabase

__all__ = ["db"]

db = PlainDatabase()
