"""What a run's jobs cost: billed seconds x instances x the rate in `dags/prices.yaml`, which is the user's to edit.

A rate that is not in the table makes a cost unknown, with the reason: no number is made up.
"""

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field

from evergreen.compute_settings import Compute
from evergreen.settings import Settings, check, read

FILE = "prices.yaml"
# 365 days, by the month.
HOURS_A_MONTH = 730


class Price(Settings):
    instance_type: str = Field(pattern=r"^ml\.")
    region: str = Field(min_length=1)
    per_hour: float = Field(ge=0)
    noted: datetime.date | None = Field(
        default=None, description="The day it was looked up; null is not checked."
    )


class Prices(Settings):
    currency: str = Field(default="USD", min_length=1)
    source: str = ""
    prices: list[Price] = Field(default=[])

    def find(self, instance_type: str, region: str) -> Price | None:
        wanted = (instance_type, region)
        return next((price for price in self.prices if (price.instance_type, price.region) == wanted), None)


def load(dags: Path) -> Prices:
    """The table beside the DAG file; an empty one where there is none.

    :raises SettingsError: when it is there and wrong.
    """
    file = dags / FILE
    return check(Prices, read(file), FILE) if file.exists() else Prices()


def build(
    prices: Prices,
    region: str,
    compute: Compute,
    features: dict[str, Any] | None,
    tuning: dict[str, Any],
    training: dict[str, Any],
    endpoint: tuple[str, int],
    *,
    local: bool,
) -> dict[str, Any]:
    """report.json's `cost`; `assess` adds its own seconds, which nobody else knows, and the total.

    :param features: what extract_features returned.
    :param tuning: what tune returned; of a trial SageMaker bills the time between its start and its end.
    :param endpoint: instance type and count of what serves the model.
    :param training: the described training job; with managed spot `BillableTimeInSeconds` is what is billed.
    """
    trials = tuning["TrainingJobs"]
    seconds, billed = training.get("TrainingTimeInSeconds"), training.get("BillableTimeInSeconds")
    stages = [
        _features(features, compute.for_features),
        _stage("tuning", sum(trial["seconds"] or 0 for trial in trials), compute.for_training),
        _stage(
            "retraining", seconds if billed is None else billed, compute.for_training,
            training["ResourceConfig"]["InstanceCount"],
            f"managed spot: {billed} of {seconds} s are billed" if billed and seconds and billed < seconds else None,
        ),
        _stage("assessment", None, compute.for_assessment, 1, "the job's seconds are known when it has ended"),
    ]  # fmt: skip
    for stage in stages:
        kind = stage["instance_type"]
        _price(stage, prices.find(kind, region), f"{FILE} has no price of {kind} in {region}")
    return {
        "currency": prices.currency,
        "source": _source(prices, dict.fromkeys(stage["instance_type"] for stage in stages), region),
        "note": (
            "The jobs ran on the local cloud, where nothing is billed: this is what their seconds would cost on AWS."
            if local
            else None
        ),
        "stages": stages,
        "total": None,
        "serving": _serving(prices, region, *endpoint),
    }


def _serving(prices: Prices, region: str, instance_type: str, instances: int) -> dict[str, Any]:
    """What the endpoint costs, busy or not; `assess` adds what a thousand predictions cost at its speed."""
    price = prices.find(instance_type, region)
    rate = price.per_hour if price else None
    return {
        "instance_type": instance_type,
        "instances": instances,
        "rate_per_hour": rate,
        "per_month": None if rate is None else round(rate * instances * HOURS_A_MONTH, 2),
        "per_1000_predictions": None,
        "reason": None if price else f"{FILE} has no price of {instance_type} in {region}",
    }


def _features(features: dict[str, Any] | None, instance_type: str) -> dict[str, Any]:
    if features is None:
        return _stage("features", 0, instance_type, 1, "nothing is frozen, so none are computed")
    if not features["computed"]:
        return _stage("features", 0, instance_type, 1, "an earlier run has computed them")
    job = features["job"]
    if job is None:
        return _stage(
            "features", None, instance_type, 1, "the job of a try that did not end is not looked up"
        )
    return _stage("features", job["seconds"], instance_type, job["instances"])


def _stage(
    name: str, seconds: float | None, instance_type: str, instances: int = 1, reason: str | None = None
) -> dict[str, Any]:
    return {
        "stage": name,
        "seconds": None if seconds is None else round(seconds, 1),
        "instance_type": instance_type,
        "instances": instances,
        "rate_per_hour": None,
        "cost": None,
        "reason": reason,
    }


def _price(stage: dict[str, Any], price: Price | None, unknown: str) -> None:
    if price:
        stage["rate_per_hour"] = price.per_hour
        if stage["seconds"] is not None:
            stage["cost"] = round(stage["seconds"] * stage["instances"] * price.per_hour / 3600, 6)
    elif stage["seconds"] == 0:
        stage["cost"] = 0.0
    else:
        stage["reason"] = "; ".join(text for text in (stage["reason"], unknown) if text)


def _source(prices: Prices, instance_types: Iterable[str], region: str) -> str:
    known = {kind: price for kind in instance_types if (price := prices.find(kind, region))}
    if not known:
        return f"{FILE}: {prices.source or 'there is none'}"
    checked = [
        f"{kind} in {region}, {f'looked up on {price.noted}' if price.noted else 'not checked by anybody'}"
        for kind, price in known.items()
    ]
    return "; ".join([f"{FILE}: {prices.source}", *checked])
