"""What agents can call, and what workflows are made of: the contracts of both, and the built-in tools."""

from __future__ import annotations

from cirkelline.tools.contract import EndRun, Tool, ToolContext, tool
from cirkelline.tools.waiting import Wait
from cirkelline.tools.workflows import StepFailed, WorkflowRun, workflow

__all__ = ["EndRun", "StepFailed", "Tool", "ToolContext", "Wait", "WorkflowRun", "tool", "workflow"]
