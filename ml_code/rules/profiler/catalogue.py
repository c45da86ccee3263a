"""The profiler rules that there are."""

from typing import Any

from rules.profiler.report import RULES, ProfilerReport

PROFILER_RULES: tuple[type[Any], ...] = (*RULES, ProfilerReport)
