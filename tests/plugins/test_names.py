import re

from hypothesis import given
from hypothesis import strategies as st

from evergreen import names

# CreateTrainingJob's pattern for names.
PATTERN = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")


@given(st.from_regex(r"[a-z][a-zA-Z0-9_. -]{0,80}", fullmatch=True), st.text(), st.integers(0, 20))
def test_names_fit_sagemaker(base: str, run: str, attempt: int) -> None:
    for length in (names.JOB_NAME_LENGTH, names.TUNING_JOB_NAME_LENGTH):
        name = names.resource(base, run, length=length, attempt=attempt)
        assert len(name) <= length
        assert PATTERN.fullmatch(name)


@given(st.from_regex(r"[A-Za-z0-9_-]{1,100}", fullmatch=True).filter(names.slug), st.integers(0, 20))
def test_a_jobs_name_ends_with_its_task_however_long_the_pipelines_is(pipeline: str, attempt: int) -> None:
    for task, length in (("tune", names.TUNING_JOB_NAME_LENGTH), ("extract_features", names.JOB_NAME_LENGTH)):
        base = names.job(pipeline, task, length)
        name = names.resource(base, "run", length=length, attempt=attempt)
        assert name.startswith(f"{base}-")
        assert re.search(rf"-{names.slug(task)}-[0-9a-f]{{10}}(-\d+)?$", name)
        assert PATTERN.fullmatch(name)


def test_names_differ_by_run_and_attempt_and_stay_the_same_otherwise() -> None:
    made = {names.resource("digits-tune", run, attempt=n) for run in ("a", "b") for n in range(3)}
    assert len(made) == 6
    assert names.resource("digits-tune", "a") == names.resource("digits-tune", "a")


def test_a_run_folder_is_readable_and_free_of_what_s3_urls_escape() -> None:
    folder = names.run_folder("retrain_digits", "manual__2026-11-21T09:46:20.984634+00:00")
    assert re.fullmatch(r"manual-2026-11-21T09-46-20-984634-00-00-[0-9a-f]{10}", folder)
