"""The profiler rules that there are."""

from typing import Any

PROFILER_RULES: tuple[type[Any], ...] = ()
