"""However many decide at once, one decision is kept, and the task goes on once."""

from __future__ import annotations

import asyncio
from collections import Counter

import scene

from cirkelline.state import journal, parking
from cirkelline.state.connection import Conn, Database
from cirkelline.state.journal import Fence, Step
from cirkelline.state.parking import Decided, Verdict

PAIRS = 1000
ASKED = Step(position=1, call=0, kind="tool", name="pay", format=1, waits={"for": "approval", "arguments": {}})


async def test_of_a_thousand_racing_pairs_of_approve_and_reject_exactly_one_counts_each(
    conn: Conn, db: Database
) -> None:
    agent = await scene.agent(conn)
    owner = await scene.worker(conn)
    await scene.submit(conn, agent, PAIRS)
    claimed = [await scene.claim_one(conn, owner, agent) for _ in range(PAIRS)]
    for claim in claimed:
        await journal.write(conn, Fence(owner, claim.id, claim.attempt), [ASKED])
    await scene.finish(conn, owner, *(scene.ended(claim, "waiting") for claim in claimed))
    (question,) = await parking.find(conn, claimed[0].id)
    outcomes: Counter[tuple[Verdict, Decided]] = Counter()
    kept: dict[object, Verdict] = {}
    wins: Counter[object] = Counter()

    async def decide(verdict: Verdict, backwards: bool) -> None:
        async with db.connection() as own:
            # From both ends, so that each is the first one half of the time, and they meet in the middle.
            for claim in reversed(claimed) if backwards else claimed:
                decided = await parking.decide(own, claim.id, question, verdict)
                outcomes[verdict, decided] += 1
                if decided is Decided.DECIDED:
                    kept[claim.id] = verdict
                    wins[claim.id] += 1

    approving = [decide(Verdict.APPROVE, backwards=False), decide(Verdict.APPROVE, backwards=True)]
    await asyncio.gather(*approving, decide(Verdict.REJECT, backwards=True), decide(Verdict.REJECT, backwards=False))
    assert set(wins.values()) == {1}
    assert len(wins) == PAIRS
    stored = await scene.rows(conn, "SELECT task_id, decision ->> 'verdict' FROM runtime.journal")
    assert dict(stored) == kept
    assert outcomes[Verdict.APPROVE, Decided.DECIDED] > 0
    assert outcomes[Verdict.REJECT, Decided.DECIDED] > 0
    assert await scene.rows(conn, "SELECT status, count(*) FROM runtime.tasks GROUP BY status") == [("pending", PAIRS)]
    assert await scene.rows(conn, "SELECT count(*) FROM runtime.queue") == [PAIRS]


async def test_what_is_due_wakes_without_reading_the_whole_journal(conn: Conn) -> None:
    await conn.execute(
        "INSERT INTO runtime.journal (task_id, position, call, attempt, format, kind, name, output)"
        " SELECT gen_random_uuid(), 1, 0, 1, 1, 'tool', 'x', '{}' FROM generate_series(1, 20000)"
    )
    await conn.execute("ANALYZE runtime.journal")
    plan = await scene.rows(
        conn,
        "EXPLAIN SELECT j.task_id FROM runtime.journal j WHERE j.until <= clock_timestamp() ORDER BY j.until LIMIT 9",
    )
    assert any("journal_until" in line for line in plan)
