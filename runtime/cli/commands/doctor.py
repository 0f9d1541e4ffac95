"""`cirkelline doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from cirkelline.runtime.cli import frame
from cirkelline.runtime.cli.answers import Work
from cirkelline.runtime.cli.parameters import FOLDER


@frame.command("doctor", example="cirkelline doctor")
@click.option("--configs", type=FOLDER, help="Folder of agent files; by default $CIRKELLINE_CONFIGS, or ./configs.")
@click.option(
    "--tools", type=FOLDER, help="Folder of the agents' Python tools; by default `tools` beside the agent files."
)
def command(configs: Path | None, tools: Path | None) -> Work:
    """Check everything this installation needs, and say the remedy.

    Every line is checked at this moment; nothing is changed. Exit code 1 if something is broken.
    """
    from cirkelline.runtime.cli.actions import checkup

    return checkup.run(configs, tools)
