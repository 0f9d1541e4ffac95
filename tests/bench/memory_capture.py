"""What of a chat is remembered, and how much of that is junk: `python tests/bench/memory_capture.py`.

Fifty small dialogues (data/memory_dialogues.yaml) with the facts that are worth keeping and what an eager model proposes
beside them. `scripted` lets a model propose all of both, so that the gate alone decides: `junk_rate` is the part of what is
kept that is junk, `kept` the part of the facts that is, `junk_proposed` what the rate would be without a gate.
`--model LABEL` (such as local:NAME; `embedded` is the small embedded model, which the tests run as well, and
`embedded-default` the one that users get) has a model look
through the dialogues as the product does; what it then keeps counts as a fact when it has most words of one, and as junk
else. `junk_proposed` is what the rate would be without a gate, `s` the seconds that a look takes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "agents"))

import yaml
from local_weights import labelled

from cirkelline.agents import asking, capturing
from cirkelline.agents.models import ModelPool
from cirkelline.configs.errors import CirkellineError
from cirkelline.tools import builtins
from cirkelline.tools.capturing import Fact, NotKept, gate, may_tell
from cirkelline.tools.remembering import Heard, NotRemembered, checked

DATA = Path(__file__).parent / "data" / "memory_dialogues.yaml"
SHARED = 0.6


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def kept(fact: Fact, said: str) -> str | None:
    """None when a fact is kept, else why not."""
    try:
        gate(fact, [Heard(1, said)])
        checked(fact.fact)
    except (NotKept, NotRemembered) as refused:
        return str(refused)
    return None


def scripted(dialogues: list[dict[str, Any]], *, explain: bool) -> dict[str, Any]:
    facts = [
        (Fact(fact=text, quote=quote), each["said"], True) for each in dialogues for text, quote in each.get("keep", [])
    ]
    facts += [
        (Fact(fact=text, quote=quote), each["said"], False)
        for each in dialogues
        for text, quote in each.get("junk", [])
    ]
    outcomes = [(fact, said, good, kept(fact, said)) for fact, said, good in facts]
    for fact, said, good, why in outcomes:
        if explain and (why is None) != good:
            say(json.dumps({"fact": fact.fact, "said": said, "worth_it": good, "refused": why}, ensure_ascii=False))
    good = [why is None for _, _, worth, why in outcomes if worth]
    junk = [why is None for _, _, worth, why in outcomes if not worth]
    asked = [each for each in dialogues if may_tell(each["said"])]
    return {
        "model": "scripted",
        "dialogues": len(dialogues),
        "looked_through": len(asked),
        "needlessly": sum(not each.get("keep") for each in asked),
        "missed": sum(bool(each.get("keep")) for each in dialogues if each not in asked),
        "kept": round(sum(good) / len(good), 3),
        "junk_rate": round(sum(junk) / max(1, sum(junk) + sum(good)), 3),
        "junk_proposed": round(len(junk) / len(outcomes), 3),
    }


async def by_model(dialogues: list[dict[str, Any]], label: str, *, explain: bool = False) -> dict[str, Any]:
    found, wanted, good, junk, proposed, worth, looks, failed = 0, 0, 0, 0, 0, 0, 0, 0
    began = time.monotonic()
    async with ModelPool(os.environ) as pool:
        for each in dialogues:
            facts = [text for text, _ in each.get("keep", [])]
            wanted += len(facts)
            if not may_tell(each["said"]):
                continue
            looks += 1
            try:
                question = capturing.question(None, [("user", each["said"])])
                said = await asking.ask(
                    pool, label, capturing.INSTRUCTIONS, question, builtins.KEEP_FACTS, examples=capturing.SHOWN
                )
            except CirkellineError as error:
                failed += 1
                if explain:
                    say(json.dumps({"said": each["said"], "failed": str(error)}, ensure_ascii=False))
                continue
            proposed += len(said["facts"])
            worth += sum(any(_same(fact.fact, text) for text in facts) for fact in said["facts"])
            chosen = [fact.fact for fact in said["facts"] if kept(fact, each["said"]) is None]
            hits = [any(_same(text, fact) for fact in facts) for text in chosen]
            if explain:
                told = [(fact.fact, fact.quote, kept(fact, each["said"])) for fact in said["facts"]]
                say(json.dumps({"said": each["said"], "worth_it": facts, "told": told}, ensure_ascii=False))
            good, junk = good + sum(hits), junk + len(hits) - sum(hits)
            found += sum(any(_same(text, fact) for text in chosen) for fact in facts)
    return {
        "model": label,
        "proposed": proposed,
        "kept": round(found / wanted, 3),
        "junk_rate": round(junk / max(1, junk + good), 3),
        "junk_proposed": round(1 - worth / max(1, proposed), 3),
        "failed": failed,
        "s": round((time.monotonic() - began) / max(1, looks), 1),
    }


def _same(one: str, other: str) -> bool:
    first, second = (
        set(re.findall(r"\w+", text.lower())) - {"the", "a", "is", "user", "of", "in"} for text in (one, other)
    )
    return len(first & second) >= SHARED * min(len(first), len(second))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model",
        help="such as local:NAME or gemini:NAME; embedded for the small embedded model, embedded-default for the default one",
    )
    parser.add_argument("--dialogues", type=int, help="only the first so many")
    parser.add_argument("--explain", action="store_true", help="show what was decided wrongly")
    options = parser.parse_args()
    dialogues = yaml.safe_load(DATA.read_text(encoding="utf-8"))[: options.dialogues]
    say(json.dumps(scripted(dialogues, explain=options.explain)))
    if options.model:
        found = asyncio.run(by_model(dialogues, labelled(options.model), explain=options.explain))
        say(json.dumps(found | {"model": options.model}))


if __name__ == "__main__":
    main()
