"""The only room with SQL: the pool, the migrations and every table."""
