import pytest
from airflow.sdk.exceptions import ParamValidationError

from evergreen import params
from evergreen.settings import validate

DOCUMENT = {"dataset": {"source": "somewhere"}, "tuning": {"lr": {"min": 0.01, "max": 0.2}}}


def test_the_form_shows_the_pipeline_files_values() -> None:
    form = params.build(validate(DOCUMENT, "x.yaml"))
    assert form["lr_min"].resolve() == pytest.approx(0.01)
    assert form["batch_size"].resolve() == [32, 64, 128]
    assert form["arch"].schema["enum"][0] == "resnet18"


def test_every_parameter_has_a_title_help_a_section_and_a_type() -> None:
    for name, param in params.build(validate(DOCUMENT, "x.yaml")).items():
        assert {"title", "section", "type"} <= set(param.schema), name
        assert param.description, name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", [0]),
        ("batch_size", [32.5]),
        ("max_jobs", 0),
        ("max_jobs", "many"),
        ("lr_min", 0),
        ("arch", "resnet1"),
        ("tail", "head"),
        ("minimum_accuracy", 1.1),
    ],
)
def test_values_out_of_bounds_are_refused(name: str, value: object) -> None:
    with pytest.raises(ParamValidationError):
        params.build(validate(DOCUMENT, "x.yaml"))[name].resolve(value=value)


def test_a_runs_parameters_replace_the_files_values() -> None:
    merged = params.apply(DOCUMENT, {"lr_min": 0.05, "max_jobs": 3, "arch": "resnet50", "force": True})
    pipeline = validate(merged, "x.yaml")
    assert (pipeline.tuning.lr.min, pipeline.tuning.lr.max) == pytest.approx((0.05, 0.2))
    assert pipeline.tuning.max_jobs == 3
    assert pipeline.model.arch == "resnet50"
    assert DOCUMENT["tuning"] == {"lr": {"min": 0.01, "max": 0.2}}
