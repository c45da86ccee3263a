"""When a count parameter is cut, and when it is not."""

import pytest

from rules.debug.short_runs import cut
from rules.verdict import NotEvaluatedError


def ask(value: int, points: int, least: int = 3) -> tuple[int, str]:
    return cut("patience", value, default=10, needs=value + 1, points=points, unit="passes", least=least)


def test_a_parameter_that_can_take_effect_is_kept() -> None:
    assert ask(10, points=11) == (10, "")
    assert ask(2, points=3) == (2, "")


@pytest.mark.parametrize(("points", "short"), [(10, 5), (9, 4), (6, 3), (4, 3)])
def test_half_of_what_there_is_takes_the_place_of_the_default(points: int, short: int) -> None:
    assert ask(10, points) == (short, f"patience 10 cut to {short}: the run has {points} passes")


def test_a_handful_of_points_says_nothing() -> None:
    with pytest.raises(NotEvaluatedError, match="too short: 3 passes, patience 10 needs 11"):
        ask(10, points=3)


def test_what_the_user_set_is_never_cut() -> None:
    with pytest.raises(NotEvaluatedError, match="too short: 9 passes, patience 9 needs 10"):
        ask(9, points=9)
