"""What a tool sees as `ctx.state` and `ctx.session_state`: kept work, and the record of what this run did to it."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Collection, ItemsView, Iterable, Iterator, Mapping, MutableMapping, ValuesView
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypedDict, TypeGuard, cast

from cirkelline.configs.errors import CirkellineError

DEEPEST: Final = 100  # levels; PostgreSQL's own parser gives up at a few thousand, Python's json at about a thousand
WIDEST_INTEGER: Final = 4096  # bits; Python refuses to print integers of more than 4,300 digits

Op = Literal["set", "remove", "increment", "append"]


class StateError(CirkellineError):
    """What was asked of the state cannot be kept as JSON, or does not fit the value that is there."""


class Operation(TypedDict):
    """One thing a run did to a state, exactly as it is stored; `value` is None for `remove`."""

    op: Op
    key: str
    value: Any


class Placed(Operation):
    """An operation with its place among all of the run: what calls that ran at the same time did stays in that order."""

    at: int


@dataclass(frozen=True, slots=True)
class _Entry:
    by: object
    operation: Placed


@dataclass(slots=True)
class _Ledger:
    """The one copy of the work and its operations that every view of a run's state shares."""

    name: str
    base: Mapping[str, Any]
    work: dict[str, Any]
    entries: list[_Entry] = field(default_factory=list[_Entry])
    next: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)


class State(MutableMapping[str, Any]):
    """A mapping over kept work that records every write as an operation.

    Values are JSON: str, int, float, bool, None, and lists and dicts of them. Reading gives a copy, so a change counts
    only when it is written back: `items = state["items"]; items.append(1); state["items"] = items`, or better
    `state.append("items", 1)`. Runs of one agent overlap: when a run ends, its operations are folded onto whatever the
    latest state is then. `increment` and `append` therefore lose nothing; `state["n"] += 1` overwrites what others did.

    Safe to use from several threads. `ctx.state` is the agent's and shared by all its users, `ctx.session_state` belongs
    to one session; `name` is what errors call it.
    """

    __slots__ = ("_closed", "_ledger")

    def __init__(self, work: Mapping[str, Any] | None = None, *, name: str = "state") -> None:
        base = copy.deepcopy(dict(work or {}))
        self._ledger = _Ledger(name, base, copy.deepcopy(base))
        self._closed: str | None = None

    @property
    def operations(self) -> list[Operation]:
        """Return a copy of what was done so far, by all views, in the order it was done."""
        with self._ledger.lock:
            return [_plain(entry.operation) for entry in self._ledger.entries]

    @property
    def own(self) -> list[Placed]:
        """Return a copy of what was done through this very view, each with its place among all."""
        with self._ledger.lock:
            return [copy.deepcopy(entry.operation) for entry in self._ledger.entries if entry.by is self]

    def replay(self, operations: Iterable[Placed]) -> None:
        """Do again what an earlier attempt did, in its order; what does not fit the work any more is only recorded."""
        with self._ledger.lock:
            for operation in sorted(operations, key=lambda each: each["at"]):
                self._ledger.entries.append(_Entry(None, copy.deepcopy(operation)))
                self._ledger.next = max(self._ledger.next, operation["at"] + 1)
                _apply(self._ledger.work, operation)

    def discard(self, places: Collection[int]) -> None:
        """Take back the operations at these places, as if they had never been."""
        with self._ledger.lock:
            ledger = self._ledger
            ledger.entries = [entry for entry in ledger.entries if entry.operation["at"] not in places]
            ledger.work = copy.deepcopy(dict(ledger.base))
            for entry in ledger.entries:
                _apply(ledger.work, entry.operation)

    def view(self) -> State:
        """Return another door to the same work and operations, which can be closed by itself."""
        return copy.copy(self)

    def close(self, reason: str) -> None:
        """Refuse every later write through this view, saying `reason`; reading goes on."""
        with self._ledger.lock:
            self._closed = reason

    def __getitem__(self, key: str) -> Any:
        with self._ledger.lock:
            return copy.deepcopy(self._ledger.work[key])

    def __setitem__(self, key: str, value: Any) -> None:
        key = self._plain_key(key)
        kept = _json(value, self._place(key))
        with self._ledger.lock:
            self._record("set", key, kept)
            self._ledger.work[key] = kept

    def __delitem__(self, key: str) -> None:
        with self._ledger.lock:
            if key not in self._ledger.work:
                raise KeyError(key)
            self._record("remove", key, None)
            del self._ledger.work[key]

    def __iter__(self) -> Iterator[str]:
        with self._ledger.lock:
            return iter(list(self._ledger.work))

    def __len__(self) -> int:
        with self._ledger.lock:
            return len(self._ledger.work)

    def __contains__(self, key: object) -> bool:
        with self._ledger.lock:
            return key in self._ledger.work

    def __repr__(self) -> str:
        with self._ledger.lock:
            return f"State({self._ledger.work!r}, {len(self._ledger.entries)} operations)"

    def increment(self, key: str, by: float = 1) -> int | float:
        """Add `by` to the number at `key` (0 when absent) and return what this run now sees there.

        Raises StateError when the value there is not a number. Other runs may have written meanwhile: the number that is
        kept is decided when the run ends.
        """
        key = self._plain_key(key)
        step = _json(by, f"the step of {self._place(key)}")
        if not _is_number(step):
            raise StateError(f"cannot increment {self._place(key)} by {_kind(step)}; give a number")
        with self._ledger.lock:
            there = self._ledger.work.get(key, 0)
            if not _is_number(there):
                raise StateError(f"cannot increment {self._place(key)}: it holds {_kind(there)}, not a number")
            total = _sum(there, step, self._place(key))
            self._record("increment", key, step)
            self._ledger.work[key] = total
            return total

    def append(self, key: str, value: Any) -> None:
        """Add `value` at the end of the list at `key` (an empty list when absent); StateError when it is not a list."""
        key = self._plain_key(key)
        kept = _json(value, self._place(key))
        with self._ledger.lock:
            there: Any = self._ledger.work.get(key, [])
            if not isinstance(there, list):
                raise StateError(f"cannot append to {self._place(key)}: it holds {_kind(there)}, not a list")
            self._record("append", key, kept)
            items: list[Any] = self._ledger.work.setdefault(key, [])
            items.append(kept)

    def items(self) -> ItemsView[str, Any]:
        """Return a copy of every key with its value, taken in one moment."""
        return self._copy().items()

    def values(self) -> ValuesView[Any]:
        """Return a copy of every value, taken in one moment."""
        return self._copy().values()

    # The mixin methods are made of several reads and writes; under the lock no other thread comes between them.

    def pop(self, key: str, *default: Any) -> Any:
        """Remove `key` and return what it held."""
        with self._ledger.lock:
            return super().pop(key, *default)

    def popitem(self) -> tuple[str, Any]:
        """Remove and return some key with its value."""
        with self._ledger.lock:
            return super().popitem()

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return what `key` holds, after setting it to `default` when absent."""
        with self._ledger.lock:
            return super().setdefault(key, default)

    def clear(self) -> None:
        """Remove every key."""
        with self._ledger.lock:
            super().clear()

    def update(self, *other: Any, **values: Any) -> None:
        """Set every key of a mapping or of pairs, as dict.update does; nothing is set when one value is not JSON."""
        checked = {
            self._plain_key(key): _json(value, self._place(key)) for key, value in dict(*other, **values).items()
        }
        with self._ledger.lock:
            for key, value in checked.items():
                self[key] = value

    def _place(self, key: str) -> str:
        return f"{self._ledger.name}[{key!r}]"

    def _plain_key(self, key: object) -> str:
        if not isinstance(key, str):
            raise StateError(f"a {self._ledger.name} key must be a string, not {_kind(key)} ({key!r})")
        return str.__str__(key)

    def _copy(self) -> dict[str, Any]:
        with self._ledger.lock:
            return copy.deepcopy(self._ledger.work)

    def _record(self, op: Op, key: str, value: Any) -> None:
        if self._closed is not None:
            raise StateError(f"cannot write {self._place(key)}: {self._closed}")
        # A copy of its own: the value in `work` may be read while operations are being stored.
        placed: Placed = {"op": op, "key": key, "value": copy.deepcopy(value), "at": self._ledger.next}
        self._ledger.entries.append(_Entry(self, placed))
        self._ledger.next += 1


def _plain(operation: Placed) -> Operation:
    return {"op": operation["op"], "key": operation["key"], "value": copy.deepcopy(operation["value"])}


def _apply(work: dict[str, Any], operation: Operation) -> None:
    key, value = operation["key"], copy.deepcopy(operation["value"])
    there = work.get(key)
    match operation["op"]:
        case "set":
            work[key] = value
        case "remove":
            work.pop(key, None)
        case "increment" if there is None or _is_number(there):
            work[key] = (there or 0) + value
        case "append" if there is None or isinstance(there, list):
            work[key] = [*_items(there), value]
        case _:
            pass


def _items(value: Any) -> list[Any]:
    return list(value) if value is not None else []


def _json(value: Any, place: str, depth: int = 0) -> Any:
    """Return a plain copy of `value` in exact JSON types; StateError names the place of what is not JSON."""
    if depth > DEEPEST:
        raise StateError(f"{place[:80]}… nests deeper than {DEEPEST} levels or contains itself; keep it flatter")
    match value:
        case None | bool():
            return value
        case str():
            return str.__str__(value)
        case int() if value.bit_length() > WIDEST_INTEGER:
            raise StateError(f"{place} is an integer of more than {WIDEST_INTEGER} bits; keep it as a string")
        case int():
            return int(value)
        case float() if not math.isfinite(value):
            raise StateError(f"{place} is {float(value)}, which JSON does not have; keep None or a string instead")
        case float():
            return float(value)
        case _ if _is_list(value):
            return [_json(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value)]
        case _ if _is_object(value):
            return {_key(key, place): _json(item, f"{place}[{key!r}]", depth + 1) for key, item in value.items()}
        case _:
            raise StateError(
                f"{place} is {_kind(value)}; state keeps JSON only (str, int, float, bool, None, list, dict)"
            )


def _key(key: object, place: str) -> str:
    if not isinstance(key, str):
        raise StateError(f"{place} has the key {key!r}, {_kind(key)}; the keys of a JSON object are strings")
    return str.__str__(key)


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_object(value: object) -> TypeGuard[dict[Any, Any]]:
    return isinstance(value, dict)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sum(there: float, step: float, place: str) -> int | float:
    try:
        return cast("int | float", _json(there + step, place))
    except OverflowError as error:
        raise StateError(f"cannot increment {place}: {error}") from error


def _kind(value: object) -> str:
    names: dict[type, str] = {type(None): "null", bool: "a boolean", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), f"a value of type {type(value).__name__}")
