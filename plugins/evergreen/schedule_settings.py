"""The pipeline file's `schedule` and `monitor`: what starts a retraining besides a person."""

from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from evergreen.settings_base import Settings

if TYPE_CHECKING:
    from airflow.sdk.bases.timetable import BaseTimetable

# Airflow's presets that are no cron aliases.
AIRFLOW_SCHEDULES = frozenset({"@once", "@continuous", "@quarterly"})
QUARTERLY = "0 0 1 */3 *"


def schedulable(schedule: str) -> str:
    """A schedule that Airflow would refuse takes every DAG of the file away, so it is refused here."""
    # Imported for the pipelines that have a schedule: the DAG processor imports this module at each parse.
    from croniter import croniter

    if schedule not in AIRFLOW_SCHEDULES and not croniter.is_valid(schedule):
        raise ValueError(
            f"{schedule!r} is neither a cron expression nor one of Airflow's presets such as @daily"
        )
    return schedule


def an_asset(name: str) -> str:
    from airflow.sdk import Asset

    Asset(name)
    return name


Cron = Annotated[str, AfterValidator(schedulable)]


class Schedule(Settings):
    """When the pipeline runs by itself: at times, when somebody says that there is new data, or both."""

    cron: Cron | None = Field(
        default=None, description="A cron expression in UTC, or a preset such as @daily."
    )
    asset: Annotated[str, AfterValidator(an_asset)] | None = Field(
        default=None,
        description="Name or URI (such as s3://bucket/prefix) of an Airflow asset: a DAG of yours that has it as an "
        "outlet, or POST /api/v2/assets/events, starts a run.",
        min_length=1,
    )

    @model_validator(mode="after")
    def says_when(self) -> Self:
        if self.cron is None and self.asset is None:
            raise ValueError("needs cron, asset or both")
        if self.asset is not None and self.cron in {"@once", "@continuous"}:
            raise ValueError(f"{self.cron} and an asset do not go together: name times, such as @daily")
        return self

    def for_airflow(self) -> "str | list[Any] | BaseTimetable":
        """The argument `schedule` of a DAG."""
        if self.asset is None:
            assert self.cron
            return self.cron
        from airflow.sdk import Asset, AssetOrTimeSchedule, CronTriggerTimetable

        assets = [Asset(self.asset)]
        if self.cron is None:
            return assets
        cron = QUARTERLY if self.cron == "@quarterly" else self.cron
        return AssetOrTimeSchedule(timetable=CronTriggerTimetable(cron, timezone="UTC"), assets=assets)


def as_schedule(value: Any) -> Any:
    """`schedule: "@daily"` for short."""
    return {"cron": value} if isinstance(value, str) else value


class Monitor(Settings):
    """A DAG that compares what the endpoint was asked with what its model was trained on; needs data capture."""

    schedule: Cron | None = Field(default="@daily", description="When it looks; null is by hand alone.")
    psi_limit: float = Field(
        default=0.25,
        description="Population stability index above which, and above chance, a measure has drifted. Customary: up "
        "to 0.1 is small, above 0.25 is large.",
        gt=0,
    )
    minimum_images: int = Field(
        default=200,
        description="With fewer captured since the last look nothing is evaluated, and they wait for the next.",
        ge=20,
        le=500,
    )
    retrain: bool = Field(default=True, description="Trigger the retraining; otherwise only tell.")
