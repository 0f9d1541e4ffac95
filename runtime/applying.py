"""From loaded definitions to the `agents` table: a plan that shows what would change, and its one transaction."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import yaml

from cirkelline.agents import models
from cirkelline.configs import names, schema
from cirkelline.configs.errors import CirkellineError, UsageError
from cirkelline.configs.loading import Definition, DefinitionError, Loaded, Problem, parse_config
from cirkelline.configs.schema import AgentSpec, ModelSpec
from cirkelline.state import agents
from cirkelline.state.connection import Conn, Database
from cirkelline.tools.contract import ToolDefinitionError
from cirkelline.tools.toolbox import Toolbox, ToolNotFound


class Action(StrEnum):
    """What applying a definition does; OLDER: the agent's history has this content, another version is current: kept."""

    CREATE = "create"
    UPDATE = "update"
    UNCHANGED = "unchanged"
    OLDER = "older"


@dataclass(frozen=True, slots=True)
class PlanItem:
    """What becomes of one definition. `diff` are unified diff lines for an update; `retired` agents stay retired."""

    name: str
    action: Action
    definition: Definition
    model: ModelSpec
    current_version: int | None
    same_as_version: int | None
    diff: tuple[str, ...]
    retired: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What applying would do; `missing` names the agents that came from a file which no file defines any more."""

    items: tuple[PlanItem, ...]
    problems: tuple[Problem, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done to one agent; `version` is its current definition version, None when it was retired."""

    name: str
    action: Action | None
    version: int | None
