"""What a second execution of a tool would do, and what becomes of one of which nobody knows whether it happened."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Effects(StrEnum):
    """What happens to a tool that was running when its process died.

    READ: it runs again. IDEMPOTENT: it runs again with the same `ctx.idempotency_key`. TRANSACTIONAL: its SQL through
    `ctx.connection` and the record that it ended are one transaction, so it runs exactly once. ONCE: it does not run again.
    """

    READ = "read"
    IDEMPOTENT = "idempotent"
    TRANSACTIONAL = "transactional"
    ONCE = "once"


class OnUnknown(StrEnum):
    """What becomes of a `once` tool that began and may or may not have ended: ask a person, run it again, or fail."""

    RETRY = "retry"
    ASK = "ask"
    FAIL = "fail"


DEFAULT: Final = Effects.ONCE
DEFAULT_ON_UNKNOWN: Final = OnUnknown.ASK

# What a definition may make of what the tool's code says, beside leaving it. Nothing but code can make a tool
# transactional; `once` is the safe word for all others.
_STRICTER: Final = {
    Effects.READ: (Effects.IDEMPOTENT, Effects.ONCE),
    Effects.IDEMPOTENT: (Effects.ONCE,),
    Effects.TRANSACTIONAL: (Effects.ONCE,),
    Effects.ONCE: (),
}
_CAUTION: Final = tuple(OnUnknown)
_ASKED: Final = "does not run again: the task waits until a person says what happened"


def may_become(code: Effects, wanted: Effects) -> bool:
    """Whether a definition may say `wanted` of a tool whose code says `code`: the same, or stricter."""
    return wanted is code or wanted in _STRICTER[code]


def may_decide(code: OnUnknown, wanted: OnUnknown) -> bool:
    """Whether a definition may say `wanted` where the code says `code`: the same, or more cautious."""
    return _CAUTION.index(wanted) >= _CAUTION.index(code)


def after_a_crash(effects: Effects, on_unknown: OnUnknown) -> str:
    """Say what becomes of a tool that was running when its process died, for people."""
    match effects:
        case Effects.READ:
            return "runs again"
        case Effects.IDEMPOTENT:
            return "runs again with the same ctx.idempotency_key"
        case Effects.TRANSACTIONAL:
            return "was rolled back and runs again, or had ended and does not"
        case Effects.ONCE:
            match on_unknown:
                case OnUnknown.RETRY:
                    return "runs again, as on_unknown: retry says"
                case OnUnknown.FAIL:
                    return "does not run again: the task fails"
                case OnUnknown.ASK:
                    return _ASKED
