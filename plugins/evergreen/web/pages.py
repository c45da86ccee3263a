"""Pages that need no script: a template's, or one sentence."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evergreen import trials

HEADERS = {
    # Pages run on the UI's origin: they may carry their own styles and pictures, and nothing else.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def page(template: str, **facts: Any) -> HTMLResponse:
    return HTMLResponse(_ENVIRONMENT.get_template(f"{template}.html.j2").render(**facts), headers=HEADERS)


def sentence(text: str, status: int) -> HTMLResponse:
    """A page that says why there is nothing else on it."""
    shown = _ENVIRONMENT.get_template("sentence.html.j2").render(text=text)
    return HTMLResponse(shown, status_code=status, headers=HEADERS)


def moment(value: Any) -> str:
    """A time, or its ISO text, as `21 November 2026, 09:20:05 UTC`; a dash for none."""
    if value is None:
        return "-"
    time = datetime.fromisoformat(value) if isinstance(value, str) else value
    time = time.astimezone(UTC)
    return f"{time.day} {time:%B %Y, %H:%M:%S} UTC"


def short(value: datetime | None) -> str:
    """A time for a table: `2026-11-21 09:20 UTC`."""
    return "-" if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "moment": moment,
        "short": short,
        "duration": duration,
        "significant": trials.significant,
    }
    return made


_ENVIRONMENT = _environment()
