import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inti_models import schedule_for_budget
from inti_models.models.schedules import check_schedule, default_schedule, mean_frames


@pytest.mark.parametrize("depth", [12, 24])
def test_five_of_eight_frames_give_the_default_schedule(depth):
    assert schedule_for_budget(depth, 8, 5.0) == default_schedule(depth)


@given(st.integers(1, 40), st.integers(1, 300), st.floats(0.01, 1.5))
def test_budget_is_met_as_closely_as_moving_all_compressions_together_can(depth, frames, share):
    budget = share * frames
    try:
        schedule = schedule_for_budget(depth, frames, budget)
    except ValueError:
        assert mean_frames((0,) * max(0, math.ceil(math.log2(frames)) - 1), depth, frames) > budget
        return
    assert check_schedule(schedule, depth) == schedule
    assert mean_frames(schedule, depth, frames) <= budget
    if schedule:
        left = -(-frames // 2 ** len(schedule))
        assert left == (1 if frames == 2 ** len(schedule) else 2)
        later = tuple(min(depth, place + 1) for place in schedule)
        assert mean_frames(later, depth, frames) > budget or later == schedule


@given(st.integers(1, 40), st.integers(3, 300), st.floats(2.0, 300), st.floats(2.0, 300))
def test_a_larger_budget_costs_no_less(depth, frames, a, b):
    small, large = (mean_frames(schedule_for_budget(depth, frames, budget), depth, frames) for budget in sorted((a, b)))
    assert small <= large


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((12, 64, 1.9), "budget=1.9 is below the minimum for 64 frames, 2 per block"),
        ((12, 0, 5.0), "frames=0 is not a positive integer"),
        ((12.0, 8, 5.0), "depth=12.0 is not a positive integer"),
        ((12, 8, math.nan), "budget=nan is not a number of frames"),
        ((12, 8, "5"), "budget='5' is not a number of frames"),
    ],
)
def test_bad_argument_is_told_in_a_sentence(args, message):
    with pytest.raises(ValueError, match=message):
        schedule_for_budget(*args)
