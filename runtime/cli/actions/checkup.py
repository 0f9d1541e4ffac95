"""The doctor's findings as an answer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cirkelline.runtime import doctor
from cirkelline.runtime.cli import display, failures
from cirkelline.runtime.cli.answers import Answer, Block, Cell, Facts, Mark, Text, Tone
from cirkelline.runtime.doctor import Finding, Verdict

_TONES: Final[dict[Verdict, Tone]] = {Verdict.FINE: "good", Verdict.NOTICE: "busy", Verdict.BROKEN: "bad"}


async def run(configs: Path | None, tools: Path | None) -> Answer:
    """Check everything; exit code 1 if anything is broken."""
    diagnosis = await doctor.examine(os.environ, configs=configs, tools=tools)
    amounts = {verdict: sum(each.verdict is verdict for each in diagnosis.findings) for verdict in Verdict}
    document = {
        "ok": not diagnosis.broken,
        "checks": [
            {"topic": each.topic, "verdict": each.verdict.value, "says": each.says, "remedy": each.remedy}
            for each in diagnosis.findings
        ],
        "settings": [{"name": name, "value": value, "source": source} for name, value, source in diagnosis.settings],
    }
    blocks: list[Block] = [Facts([(finding.topic, _cell(finding)) for finding in diagnosis.findings])]
    if diagnosis.settings:
        blocks.append(Text("Settings:", apart=True))
        blocks.append(Facts([(name, f"{value}  ({source})") for name, value, source in diagnosis.settings]))
    complaint = f"{display.count(amounts[Verdict.BROKEN], 'thing')} to put right" if diagnosis.broken else None
    return Answer(document, blocks, failures.FAILED if diagnosis.broken else 0, complaint)


def _cell(finding: Finding) -> Cell:
    remedy = f"\n→ {finding.remedy}" if finding.remedy else ""
    mark = {Verdict.FINE: "ok", Verdict.NOTICE: "note", Verdict.BROKEN: "BROKEN"}[finding.verdict]
    return Mark(f"{mark:<6}  {finding.says}{remedy}", _TONES[finding.verdict])
