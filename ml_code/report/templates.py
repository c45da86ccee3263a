"""What the pages have in common: their templates' settings, filters and style."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from report.formats import FILTERS

_HERE = Path(__file__).parent


def environment() -> Environment:
    """For HTML, with the filters that write numbers; a name that a template does not know is an error."""
    made = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= FILTERS
    return made


def style() -> Markup:
    """The style sheet, to stand in a page."""
    return Markup((_HERE / "style.css").read_text(encoding="utf-8"))  # ruff: ignore[unsafe-markup-use] - our own file
