"""What a run costs, by the table that the user edits."""

from pathlib import Path
from typing import Any

import pytest

from evergreen import cost
from evergreen.compute_settings import Compute
from evergreen.settings import SettingsError
from scripts.local_stack import REPOSITORY

PRICES = cost.Prices.model_validate(
    {
        "currency": "EUR",
        "source": "the contract",
        "prices": [{"instance_type": "ml.x", "region": "here", "per_hour": 3.6, "noted": "2026-11-01"}],
    }
)
FEATURES = {"computed": True, "job": {"seconds": 100.0, "instances": 2}}
TUNING: dict[str, Any] = {"TrainingJobs": [{"seconds": 10.0}, {"seconds": 20.5}, {"seconds": None}]}
TRAINING = {
    "TrainingTimeInSeconds": 50,
    "BillableTimeInSeconds": 50,
    "ResourceConfig": {"InstanceType": "ml.x", "InstanceCount": 3},
}


def stages(**changes: Any) -> dict[str, dict[str, Any]]:
    given = {
        "prices": PRICES, "region": "here", "compute": Compute(instance_type="ml.x"), "features": FEATURES,
        "tuning": TUNING, "training": TRAINING, "endpoint": ("ml.x", 2), "local": False,
    }  # fmt: skip
    return {stage["stage"]: stage for stage in cost.build(**{**given, **changes})["stages"]}


def test_a_stage_costs_seconds_times_instances_times_the_rate() -> None:
    found = stages()
    assert {name: stage["cost"] for name, stage in found.items()} == {
        "features": 0.2, "tuning": 0.0305, "retraining": 0.15, "assessment": None,
    }  # fmt: skip
    assert found["tuning"]["seconds"] == pytest.approx(30.5)
    assert "known when it has ended" in found["assessment"]["reason"]


@pytest.mark.parametrize(
    "changes", [{"region": "there"}, {"compute": Compute(instance_type="ml.y")}, {"prices": cost.Prices()}]
)
def test_an_unknown_rate_is_no_number(changes: dict[str, Any]) -> None:
    found = stages(**changes)
    assert {stage["cost"] for stage in found.values()} == {None}
    assert all("prices.yaml has no price of" in stage["reason"] for stage in found.values())


def test_what_was_not_computed_costs_nothing_whatever_the_rate() -> None:
    assert stages(features=None, region="there")["features"]["cost"] == 0
    assert stages(features={"computed": False, "job": None})["features"]["cost"] == 0
    assert stages(features={"computed": True, "job": None})["features"]["cost"] is None


def test_managed_spot_is_what_is_billed() -> None:
    found = stages(training={**TRAINING, "BillableTimeInSeconds": 20})["retraining"]
    assert found["cost"] == pytest.approx(0.06)
    assert found["reason"] == "managed spot: 20 of 50 s are billed"


def test_the_source_says_whether_anybody_has_checked_the_rate() -> None:
    known = cost.build(
        PRICES, "here", Compute(instance_type="ml.x"), FEATURES, TUNING, TRAINING, ("ml.x", 2), local=True
    )
    assert known["source"] == "prices.yaml: the contract; ml.x in here, looked up on 2026-11-01"
    assert known["currency"] == "EUR"
    assert "nothing is billed" in known["note"]
    shipped = cost.load(REPOSITORY / "dags")
    unchecked = cost.build(
        shipped, "us-east-1", Compute(), FEATURES, TUNING, TRAINING, ("ml.y", 1), local=False
    )
    assert unchecked["source"].endswith("ml.m5.xlarge in us-east-1, not checked by anybody")
    assert unchecked["note"] is None
    assert (known["serving"]["per_month"], known["serving"]["reason"]) == (5256.0, None)
    assert unchecked["serving"]["per_month"] is None
    assert unchecked["serving"]["reason"] == "prices.yaml has no price of ml.y in us-east-1"


def test_a_table_that_is_wrong_says_where_and_one_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert cost.load(tmp_path).prices == []
    (tmp_path / "prices.yaml").write_text("prices: [{instance_type: m5, region: here, per_hour: cheap}]")
    with pytest.raises(
        SettingsError, match=r"prices\.yaml: prices\.0\.instance_type: .*; prices\.0\.per_hour: "
    ):
        cost.load(tmp_path)
