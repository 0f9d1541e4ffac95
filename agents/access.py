"""Where a hosted model is, and the key that opens it; keys come from the environment and go nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cirkelline.configs.schema import ModelSpec

OPENAI_HOME: Final = "https://api.openai.com/v1"
GEMINI_HOME: Final = "https://generativelanguage.googleapis.com"
OPENAI_KEY: Final = "OPENAI_API_KEY"
OPENAI_ADDRESS: Final = "OPENAI_BASE_URL"
GEMINI_KEY: Final = "GOOGLE_API_KEY"
GEMINI_ADDRESS: Final = "GOOGLE_GEMINI_BASE_URL"


@dataclass(frozen=True, slots=True)
class Access:
    """One server of models as one agent may use it; `key` is empty when none is sent."""

    address: str
    key_name: str
    key: str = field(repr=False)


def of(spec: ModelSpec, environ: Mapping[str, str]) -> Access:
    """Return how an `openai:` or `gemini:` model is reached.

    The key in OPENAI_API_KEY is sent only to OpenAI and to the server in OPENAI_BASE_URL, which the operator chose: a
    definition (a row anybody with the database can write) may name any other server, but gets no key it does not name.
    """
    if spec.provider == "gemini":
        name = spec.api_key_env or GEMINI_KEY
        return Access(value(environ, GEMINI_ADDRESS).rstrip("/") or GEMINI_HOME, name, value(environ, name))
    chosen = value(environ, OPENAI_ADDRESS).rstrip("/") or OPENAI_HOME
    address = (spec.base_url or chosen).rstrip("/")
    name = spec.api_key_env or OPENAI_KEY
    trusted = spec.api_key_env is not None or address in {chosen, OPENAI_HOME}
    return Access(address, name, value(environ, name) if trusted else "")


def at_home(spec: ModelSpec, environ: Mapping[str, str]) -> bool:
    """Return whether a hosted model is asked at its provider's own address, and so at its provider's prices."""
    return spec.provider in {"gemini", "openai"} and of(spec, environ).address in {OPENAI_HOME, GEMINI_HOME}


def unusable_key(spec: ModelSpec, environ: Mapping[str, str]) -> str | None:
    """Return why a hosted model cannot be called with the key there is, or None; a server of one's own may need none."""
    access = of(spec, environ)
    if not (access.key.isascii() and access.key.isprintable()):
        return f"the environment variable {access.key_name} holds characters that no key has: copy the key for {spec.label} again"
    needs_one = spec.api_key_env is not None or access.address in {OPENAI_HOME, GEMINI_HOME}
    if access.key or not needs_one:
        return None
    return f"{spec.label} needs a key in the environment variable {access.key_name}, which is not set: set it for this worker"


def value(environ: Mapping[str, str], variable: str) -> str:
    """Return a variable without the spaces and line breaks around it; empty when it is not set."""
    return environ.get(variable, "").strip()
