"""The way of one command: parse, run, show, and an exit code whatever happens."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from cirkelline.runtime.cli import console, failures
from cirkelline.runtime.cli.answers import Answer
from cirkelline.runtime.cli.frame import Call
from cirkelline.runtime.cli.root import root


def main() -> int:
    """Run the command that the process was started with and return its exit code."""
    return run(sys.argv[1:])


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong use, 3 unfinished, 4 waits, 130 interrupted."""
    outcome: Answer | failures.Failure
    try:
        outcome = _outcome(arguments)
    except BaseException as error:  # noqa: BLE001 - the boundary: a person gets one sentence, whatever went wrong
        outcome = failures.explain(error)
        _trace(error)
    try:
        _show(outcome, as_json=_wants_json(arguments))
    except BrokenPipeError:
        _silence()  # whoever read has seen enough: that is no failure of the command
    except OSError as error:  # a full disk behind a redirect
        console.complain(f"cannot write the output: {error.strerror}")
        _silence()
        return failures.FAILED
    return outcome.exit_code


def _outcome(arguments: Sequence[str]) -> Answer:
    parsed: Any = root.main(list(arguments), prog_name="cirkelline", standalone_mode=False)
    if isinstance(parsed, Call):
        import asyncio

        # An author's module that prints while it is imported must not end up in the answer.
        with contextlib.nullcontext() if parsed.owns_stdout else contextlib.redirect_stdout(sys.stderr):
            return asyncio.run(parsed.work)
    return Answer(None, exit_code=int(parsed or 0))  # --help and --version have said all there is


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether --json was given, also where the rest could not be parsed."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def _show(outcome: Answer | failures.Failure, *, as_json: bool) -> None:
    if isinstance(outcome, Answer):
        console.show(outcome, as_json=as_json and outcome.document is not None)
        return
    if as_json:
        console.write_document(outcome.document)
    if outcome.help:
        console.note(outcome.help)
    elif outcome.exit_code == failures.INTERRUPTED:
        console.note("interrupted")
    else:
        console.complain(outcome.message)


def _trace(error: BaseException) -> None:
    if os.environ.get("CIRKELLINE_DEBUG", "") not in {"", "0"}:
        import traceback

        traceback.print_exception(error)


def _silence() -> None:
    """Let the interpreter's last flush go nowhere instead of failing once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
