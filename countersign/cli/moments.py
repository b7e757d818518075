"""Moments as people type them (`15m` ago, or ISO 8601) and as they are shown: one form, in UTC."""

import re
from datetime import UTC, datetime, timedelta

import typer

_AGO = re.compile(r"(?P<count>\d{1,6})(?P<unit>[smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment_of(text: str, now: float) -> str:
    """ISO 8601 with an offset. `now` is Unix seconds; a time without an offset is UTC.

    Raises:
        typer.BadParameter: Neither form.
    """
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            span = timedelta(**{_UNITS[ago["unit"]]: int(ago["count"])})
            return (datetime.fromtimestamp(now, UTC) - span).isoformat()
        when = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        message = f"{text!r} is neither a span such as 15m, 2h or 7d nor a time such as 2026-01-31"
        raise typer.BadParameter(message) from error
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).isoformat()


def shown_moment(moment: str | float) -> str:
    """As every table shows a time: RFC 3339, UTC, whole seconds.

    `moment` is ISO 8601 as the admin API writes it, or Unix seconds.
    """
    if isinstance(moment, str):
        when = datetime.fromisoformat(moment)
    else:
        when = datetime.fromtimestamp(moment, UTC)
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
