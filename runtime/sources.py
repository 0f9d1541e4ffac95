"""What a stored result says of its sources, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cirkelline.agents import citing
from cirkelline.configs import scalars


def lines(result: object) -> list[str]:
    """Return a stored result's sources as lines for people: what each number stands for, and which stand for nothing."""
    cited = result.get("citations") if scalars.is_mapping(result) else None
    known = [each for each in cited if scalars.is_mapping(each)] if scalars.is_list(cited) else []
    return [*map(_source, known), *(f"[{n}?] was made up: no source has that number" for n in _unknown(result))]


def _source(citation: Mapping[str, Any]) -> str:
    page = f", page {citation['page']}" if citation.get("page") is not None else ""
    heading = f" ({citation['heading']})" if citation.get("heading") else ""
    return f"[{citation.get('n')}] {citation.get('document') or 'a document without a name'}{page}{heading}"


def marked_as(result: object, output: str) -> str:
    """Return an answer with the marks that the stored result says it got."""
    unknown = _unknown(result)
    return citing.check(output, set(citing.cited(output)).difference(unknown)).text if unknown else output


def _unknown(result: object) -> list[int]:
    unknown = result.get("citations_unknown") if scalars.is_mapping(result) else None
    return [n for n in unknown if isinstance(n, int)] if scalars.is_list(unknown) else []
