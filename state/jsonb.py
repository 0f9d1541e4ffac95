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
            return {clean_text(str(key)): _clean(item) for key, item in cast("Mapping[Any, Any]", value).items()}
        case list() | tuple():
            return [_clean(item) for item in cast("list[Any]", value)]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value


def dumps(value: Any) -> str:
    """Return `value` as JSON text that jsonb accepts: NUL and lone surrogates become U+FFFD, NaN and infinities null.

    Raises: TypeError, ValueError for what is not JSON at all.
    """
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        text = json.dumps(_clean(value), allow_nan=False)
    return json.dumps(_clean(value), allow_nan=False) if _SUSPECT.search(text) else text
