"""What agents can call: the tool contract and the built-in tools."""

from __future__ import annotations

from cirkelline.tools.contract import EndRun, Tool, ToolContext, tool
from cirkelline.tools.waiting import Wait

__all__ = ["EndRun", "Tool", "ToolContext", "Wait", "tool"]
