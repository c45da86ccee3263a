"""Writes ProfilerReport as AWS does.

OUTPUT/profiler-output/profiler-report.html
OUTPUT/profiler-output/profiler-reports/<Rule>.json
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from report.document import finite, write_json
from report.profiler_page import render_profile
from rules.profiler.finding import ProfilerFinding
from rules.profiler.profile import Profile
from rules.profiler.report import ProfilerReport, summary
from rules.profiler.savings import changes
from rules.verdict import NotEvaluatedError, build_rule


def write_report(
    profile: Profile, output: Path, parameters: Mapping[str, str] | None = None
) -> ProfilerFinding:
    """Evaluate every profiler rule, write page and reports below `output`, and return what ProfilerReport finds.

    `parameters` are `<Rule>_<parameter>`, as strings. Raises ValueError for one that there is not, and
    NotEvaluatedError, after writing, when no rule could be evaluated.
    """
    rule: Any = build_rule(ProfilerReport, parameters or {})
    results = rule.results(profile)
    ranked = changes(profile, {one.name: one.finding for one in results})
    folder = output / "profiler-output"
    (folder / "profiler-reports").mkdir(parents=True, exist_ok=True)
    for one in results:
        document, _ = finite(one.report())
        write_json(folder / "profiler-reports" / f"{one.name}.json", document)
    (folder / "profiler-report.html").write_text(render_profile(profile, results, ranked), encoding="utf-8")
    return summary(results, ranked)


def write_where_possible(folder: Path | None, output: Path, parameters: Mapping[str, str]) -> Path | None:
    """The page for a profiler folder, or None where there is nothing to report: ProfilerReport's verdict says why."""
    if folder is None:
        return None
    page = output / "profiler-output" / "profiler-report.html"
    try:
        write_report(Profile(folder), output, parameters)
    except (NotEvaluatedError, ValueError):
        return page if page.exists() else None
    return page
