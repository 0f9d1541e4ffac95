"""The border to jsonb: what PostgreSQL would refuse is cleaned or named here, before it can poison a batch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, cast

_SUSPECT = re.compile(r"\\u0000|\\ud[89a-f]", re.IGNORECASE)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def clean_text(text: str) -> str:
    """Replace NUL and lone surrogates, which PostgreSQL cannot store, by U+FFFD."""
    return _UNSTORABLE.sub(_REPLACEMENT, text)


def _clean(value: Any) -> Any:
    match value:
        case str():
            return clean_text(value)
        case dict():
            return {_key(key): _clean(item) for key, item in cast("Mapping[Any, Any]", value).items()}
        case list() | tuple():
            return [_clean(item) for item in cast("list[Any]", value)]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value


def _key(key: Any) -> Any:
    if isinstance(key, str):
        return clean_text(key)
    # json writes the others by itself (True is "true"), except these.
    return str(key) if isinstance(key, float) and not math.isfinite(key) else key


def dumps(value: Any) -> str:
    """Return `value` as JSON text that jsonb accepts: NUL and lone surrogates become U+FFFD, NaN and infinities null.

    Raises: TypeError, ValueError for what is not JSON at all.
    """
    try:
        try:
            text = json.dumps(value, allow_nan=False)
        except ValueError:  # NaN, or something worse that the next line raises once more
            text = json.dumps(_clean(value), allow_nan=False)
        return json.dumps(_clean(value), allow_nan=False) if _SUSPECT.search(text) else text
    except RecursionError as error:
        raise ValueError("it is nested too deeply, or contains itself") from error


def loads(text: str | bytes) -> Any:
    """Return what the database holds as JSON; what Python cannot take apart is handed over as its text.

    Other programs' JSON must stop nobody: jsonb takes numbers of 100,000 digits and nestings of thousands of levels.
    """
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(text, parse_int=_integer)
    except RecursionError:
        return text if isinstance(text, str) else text.decode()


def _integer(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:
        return digits
