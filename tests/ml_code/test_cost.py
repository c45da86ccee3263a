"""What assess adds to the context's cost and lineage."""

from typing import Any

import pytest

from report.cost import with_assessment
from report.lineage import with_artefacts


def cost(rate: float | None, tuning: float | None = 0.5) -> dict[str, Any]:
    stage = {"instances": 2, "rate_per_hour": rate, "reason": "later"}
    return {
        "currency": "USD",
        "stages": [
            {**stage, "stage": "tuning", "seconds": 1, "cost": tuning},
            {**stage, "stage": "assessment", "seconds": None, "cost": None},
        ],
        "total": None,
        "serving": {"rate_per_hour": rate, "per_1000_predictions": None},
    }


def test_the_assessment_adds_its_seconds_and_the_total() -> None:
    found = with_assessment(cost(3.6), 10, 50)
    assert found
    assert found["stages"][1]["cost"] == pytest.approx(0.02)
    assert "until the report was written" in found["stages"][1]["reason"]
    assert found["total"] == pytest.approx(0.52)
    assert found["serving"]["per_1000_predictions"] == pytest.approx(20 * 3.6 / 3600)


def test_a_total_with_an_unknown_part_is_unknown() -> None:
    for given in (cost(None), cost(3.6, tuning=None)):
        found = with_assessment(given, 10, 50)
        assert found
        assert found["total"] is None
        assert found["stages"][1]["seconds"] == 10
    without = with_assessment(cost(None), 10, 50)
    assert without
    assert without["serving"]["per_1000_predictions"] is None


def test_a_context_without_cost_has_none() -> None:
    assert with_assessment(None, 10, 50) is None


def test_lineage_gets_libraries_and_hashes_from_the_artefacts() -> None:
    manifest = {"libraries": {"torch": "2.10"}, "sha256": "w"}
    found = with_artefacts({"code_hash": "c"}, manifest, "a", {"torch": "2.11"})
    assert found["code_hash"] == "c"
    assert found["libraries"] == {"training": {"torch": "2.10"}, "assessment": {"torch": "2.11"}}
    assert found["hashes"] == {"model_archive": "a", "weights": "w"}
    assert with_artefacts(None, {}, "a", {})["hashes"] == {"model_archive": "a", "weights": None}
