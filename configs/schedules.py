"""When a schedule is due: five cron fields in a time zone, read as Debian's cron reads them.

A time that a clock change skips is due right after the gap; one that it repeats is due once. A field that begins with a
star means every such hour or minute that really passes.
"""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime
from typing import Final

from cronsim import CronSim, CronSimError

from cirkelline.configs import fields, wording
from cirkelline.configs.errors import CirkellineError
from cirkelline.configs.fields import refuse

EXAMPLE: Final = "0 9 * * MON-FRI"
_FIELDS: Final = 5
_ANY_DAY: Final = datetime(2026, 1, 1, tzinfo=UTC)


def read_cron(value: object) -> str:
    """Return a cron expression, its fields one space apart."""
    text = " ".join(fields.line(100, EXAMPLE)(value).split())
    if len(text.split(" ")) != _FIELDS:
        raise refuse(
            f"must have five fields (minute, hour, day, month, weekday) such as {EXAMPLE}, not {wording.shown(text)}"
        )
    try:
        next(CronSim(text, _ANY_DAY))
    except CronSimError as error:
        reason = str(error).removeprefix("Bad ")
        raise refuse(
            f"must be a cron expression such as {EXAMPLE}; the {reason} of {wording.shown(text)} is none"
        ) from None
    except StopIteration:
        raise refuse(f"is never due: {wording.shown(text)} names a day that there is in no year") from None
    return text


def read_zone(value: object) -> str:
    """Return the name of a time zone."""
    text = fields.line(100, "Europe/Copenhagen")(value)
    try:
        zoneinfo.ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        known = sorted(zoneinfo.available_timezones())
        meant = wording.did_you_mean(text, known)
        raise refuse(f"must be a time zone such as Europe/Copenhagen, not {wording.shown(text)}{meant}") from None
    return text


class NeverDue(CirkellineError):
    """A schedule that somebody else wrote is never due, or cannot be read."""


def following(cron: str, tz: str, moment: datetime) -> datetime:
    """Return the first time after a moment at which a schedule is due, in UTC. Raises: NeverDue."""
    return _next(cron, tz, moment, reverse=False)


def latest(cron: str, tz: str, moment: datetime) -> datetime:
    """Return the last time up to a moment at which a schedule was due, in UTC. Raises: NeverDue."""
    inside = moment.replace(microsecond=moment.microsecond or 1)  # so that the moment itself counts
    return _next(cron, tz, inside, reverse=True)


def _next(cron: str, tz: str, moment: datetime, *, reverse: bool) -> datetime:
    try:
        return next(CronSim(cron, moment.astimezone(zoneinfo.ZoneInfo(tz)), reverse=reverse)).astimezone(UTC)
    except (CronSimError, StopIteration, zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise NeverDue(
            f"{cron!r} in {tz!r} is never due: {error or 'no such day'}; correct it in the agent's file"
        ) from None
