"""The names in a definition: of agents, of built-in tools, of Python functions."""

from __future__ import annotations

import keyword
import re
from typing import Final

from cirkelline.configs import fields, wording
from cirkelline.configs.fields import refuse

AGENT_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$"
AGENT_RULE: Final = "lower-case letters, digits, - and _, at most 63, beginning with a letter or digit"
TOOL_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
FUNCTION_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$"


def _fits(pattern: str, text: str) -> bool:
    return bool(re.fullmatch(pattern, text)) and "\n" not in text  # `$` alone allows a newline at the end


def read_agent(value: object) -> str:
    """Return an agent's name as YAML gives it."""
    name = fields.text(value)
    if _fits(AGENT_PATTERN, name):
        return name
    better = re.sub(r"[^a-z0-9_]+", "-", name.strip().lower()[:200]).strip("-_")[:63]
    hint = f"; try '{better}'" if better else ""
    raise refuse(f"{wording.shown(name)} does not fit: use {AGENT_RULE}{hint}")


def read_tool(value: object) -> str:
    """Return a built-in tool's name."""
    name = fields.text(value)
    if _fits(TOOL_PATTERN, name):
        return name
    function = name.removeprefix("python:").strip()
    if _fits(FUNCTION_PATTERN, function):
        raise refuse(f'{wording.shown(name)} is no built-in tool: write {{python: "{function}"}} for a Python function')
    raise refuse(f"{wording.shown(name)} cannot be a tool's name: use letters, digits and _, such as calculate")


def read_function(value: object) -> str:
    """Return a Python function's `module:function`."""
    text = fields.text(value)
    if _fits(FUNCTION_PATTERN, text):
        words = re.split("[.:]", text)
        if reserved := next((word for word in words if keyword.iskeyword(word)), None):
            raise refuse(f"{wording.shown(text)} holds '{reserved}', which is a word of the Python language")
        if words[-2] != "py":
            return text
    better = text.strip().replace(".py:", ":").replace("/", ".").strip(".")
    hint = f'; did you mean "{better}"?' if better != text and _fits(FUNCTION_PATTERN, better) else ""
    example = "" if hint else ' such as "billing:charge_card"'
    raise refuse(f'must be "module:function"{example}, not {wording.shown(text)}{hint}')
