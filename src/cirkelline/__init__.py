"""Cirkelline: a runtime for many AI agents on one PostgreSQL."""

__version__ = "0.1.0"
