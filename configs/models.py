"""How a definition names a language model: `auto`, `provider:NAME`, or a mapping with `use:`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args
from urllib.parse import urlsplit

from cirkelline.configs import fields, scalars, secrecy, wording
from cirkelline.configs.fields import refuse, unknown_key

Provider = Literal["auto", "gemini", "openai", "local", "scripted"]
PROVIDERS: Final[tuple[Provider, ...]] = get_args(Provider)
NEEDS_NAME: Final = frozenset({"openai", "scripted"})
PATTERN: Final = r"^(auto|gemini|local|(gemini|openai|local|scripted):\S(.*\S)?)$"
BASE_URL_PATTERN: Final = r"^https?://[^\s/?#@]+([/?#]\S*)?$"
VARIABLE_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_]*$"
_LONGEST: Final = 500
_WHOLE: Final = "gemini:NAME, openai:NAME, local:NAME or scripted:FILE"
_FORMS: Final = f"auto, {_WHOLE}"

# What people write when they leave the provider out.
_GUESSES: Final = (
    (re.compile(r"\.gguf$|^qwen|^llama|^phi|^smollm|^mistral", re.IGNORECASE), "local"),
    (re.compile(r"^gemini", re.IGNORECASE), "gemini"),
    (re.compile(r"^(gpt-|o[1-9]|chatgpt|text-)", re.IGNORECASE), "openai"),
    (re.compile(r"\.ya?ml$", re.IGNORECASE), "scripted"),
)


@dataclass(frozen=True, slots=True)
class BadUse:
    """A `use` that names no model; it takes the provider's place so that the other keys' faults are reported as well."""

    message: str


def read(value: object, folder: Path | None) -> dict[str, Any]:
    """Return the fields of a model spec from what an author wrote; files are resolved against the definition's folder."""
    if isinstance(value, str) and not _is_nothing(value):
        return _named(value, folder)
    if not scalars.is_mapping(value):
        what = "has no value" if _is_nothing(value) else f"must name a model, not {fields.described(value)}"
        raise refuse(f"{what}: write {_FORMS}, or {{use: …}} with options")
    mapping = dict(value)
    if stray := next((key for key in ("provider", "name") if key in mapping), None):
        raise unknown_key(stray, "write provider and name as one, such as use: openai:NAME")
    named = (
        _named(mapping.pop("use"), folder) if "use" in mapping else {"provider": BadUse(f"needs use: with {_FORMS}")}
    )
    return named | mapping


def read_label(value: object) -> str:
    """Return the name of one model where no definition stands around it: `provider:NAME`, a file by its absolute path."""
    named = _named(value, None, forms=_WHOLE)
    if isinstance(named["provider"], BadUse):
        raise refuse(named["provider"].message)
    if not named["name"]:
        raise refuse(f"{wording.shown(str(value))} is no model's whole name: write {_WHOLE}")
    return str(value)


def _is_nothing(value: object) -> bool:
    return isinstance(value, scalars.Plain) and scalars.kind_of(value) == "nothing"


def _named(value: object, folder: Path | None, *, forms: str = _FORMS) -> dict[str, Any]:
    if not isinstance(value, str):
        return {"provider": BadUse(f"must be one of {forms}, not {fields.described(value)}")}
    provider, colon, name = str(value).partition(":")
    if fault := _fault(str(value), provider, colon, name, forms):
        return {"provider": BadUse(fault)}
    if provider == "scripted" or (provider == "local" and name.lower().endswith(".gguf")):
        path = _file(name, folder)
        return {"provider": path if isinstance(path, BadUse) else provider, "name": str(path)}
    return {"provider": provider, "name": name or None}


def _fault(text: str, provider: str, colon: str, name: str, forms: str) -> str | None:
    if provider.strip() != provider or name.strip() != name:
        return f"{wording.shown(text)} has spaces around a part of it: write '{provider.strip()}{colon}{name.strip()}'"
    if provider not in PROVIDERS:
        return _unknown(text, provider, colon, name, forms)
    if provider == "auto" and colon:
        return "auto takes no name: write auto alone, or name a provider"
    if not name and (colon or provider in NEEDS_NAME):
        what = "the path of a script" if provider == "scripted" else "a model's name"
        return f"'{provider}:' needs {what} after the colon"
    if len(name) > _LONGEST or not name.isprintable():
        return f"the name after '{provider}:' must be one line of at most {_LONGEST} characters"
    return None


def _unknown(text: str, provider: str, colon: str, name: str, forms: str) -> str:
    if colon and (meant := wording.nearest(provider, PROVIDERS)):
        return f"unknown model provider {wording.shown(provider)}; did you mean '{meant}:{name}'?"
    if not colon and (meant := wording.nearest(provider, ("auto", "gemini", "local"))):
        return f"{wording.shown(text)} names no model; did you mean '{meant}'?"
    guess = next((provider for pattern, provider in _GUESSES if pattern.search(text)), None)
    if guess and not colon:
        return f"{wording.shown(text)} names no provider; did you mean '{guess}:{text}'?"
    return f"{wording.shown(text)} names no model this runtime knows: write {forms}"


def _file(name: str, folder: Path | None) -> Path | BadUse:
    try:
        path = Path(name).expanduser()
    except RuntimeError:
        return BadUse(f"{wording.shown(name)} names a home folder that is not there: write the whole path")
    if path.is_absolute():
        return path
    if folder is None:
        return BadUse(f"{wording.shown(name)} must be an absolute path here, where no file says what it is relative to")
    # Not resolve(): following symlinks would store another path, and so another version, wherever one is re-pointed.
    return Path(os.path.abspath(folder / path))  # noqa: PTH100


def read_base_url(value: object) -> str:
    """Return the http(s) address of a server; one that carries a password or a key is refused, unshown."""
    url = fields.line(_LONGEST, "http://localhost:11434/v1")(value)
    if secrecy.looks_secret(url) or secrecy.has_password(url):
        raise refuse("must not hold a password or key: name its environment variable in api_key_env")
    try:
        parts = urlsplit(url)
        fits = bool(re.fullmatch(BASE_URL_PATTERN, url) and parts.hostname) and parts.port != 0
    except ValueError:  # a bad port or a bad IPv6 address
        fits = False
    if not fits:
        raise refuse(f"must be an address such as http://localhost:11434/v1, not {wording.shown(url)}")
    return url


def read_api_key_env(value: object) -> str:
    """Return the name of the environment variable that holds a key; a key itself is refused, unshown."""
    name = fields.text(value)
    if secrecy.looks_secret(name) or not re.fullmatch(VARIABLE_PATTERN, name) or len(name) > _LONGEST:
        # Whatever stands here may be a key, so it is never repeated.
        raise refuse("must be the name of an environment variable such as OPENAI_API_KEY, never the key itself")
    return name
