"""The learning-rate curve, and that a resumed run follows it to the last bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deeplab_core.schedule import PolySchedule, poly_factor


def test_deeplabs_curve_without_warm_up() -> None:
    assert poly_factor(0, 30_000) == 1.0
    assert poly_factor(15_000, 30_000) == pytest.approx(0.5**0.9)
    assert poly_factor(30_000, 30_000) == 0.0
    assert poly_factor(40_000, 30_000) == 0.0
    assert poly_factor(25, 100, power=2.0) == pytest.approx(0.75**2)


def test_the_end_factor_is_reached_and_kept() -> None:
    assert poly_factor(100, 100, end_factor=0.1) == pytest.approx(0.1)
    assert poly_factor(500, 100, end_factor=0.1) == pytest.approx(0.1)
    assert poly_factor(50, 100, power=1.0, end_factor=0.1) == pytest.approx(0.55)


def test_warm_up_rises_linearly_from_its_factor_onto_the_curve() -> None:
    curve = [poly_factor(s, 1000, warmup_steps=100, warmup_factor=0.01) for s in range(200)]
    plain = [poly_factor(s, 1000) for s in range(200)]
    assert curve[0] == pytest.approx(0.01)
    assert curve[50] == pytest.approx(plain[50] * (0.01 + 0.99 * 0.5))
    assert curve[100:] == plain[100:]


@given(
    total=st.integers(1, 5000),
    warm_up=st.floats(0, 1),
    power=st.floats(0.1, 3),
    warmup_factor=st.floats(0, 1),
    end_factor=st.floats(0, 1),
    place=st.floats(0, 1.2),
)
def test_the_factor_stays_within_zero_and_one_and_never_rises_after_the_warm_up(
    total: int, warm_up: float, power: float, warmup_factor: float, end_factor: float, place: float
) -> None:
    warmup_steps, step = int(warm_up * total), int(place * total)
    here, following = (
        poly_factor(s, total, power, warmup_steps, warmup_factor, end_factor) for s in (step, step + 1)
    )
    assert -1e-12 <= here <= 1 + 1e-12
    if step >= warmup_steps:
        assert following <= here


@pytest.mark.parametrize("arguments", [(-1, 10), (0, 0), (0, 10, 0.9, 11), (0, 10, 0.9, -1)])
def test_impossible_schedules_are_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="step ≥ 0, total ≥ 1 and 0 ≤ warmup_steps ≤ total"):
        poly_factor(*arguments)


class Training:
    """A small model whose weights show every learning rate it was trained with."""

    def __init__(self) -> None:
        head, encoder = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
        self.optimizer = torch.optim.SGD(
            [{"params": [head], "lr": 0.1}, {"params": [encoder], "lr": 0.01}], momentum=0.9
        )
        self.schedule = PolySchedule(self.optimizer, total_steps=12, warmup_steps=3, warmup_factor=0.1)
        self.weights = [head, encoder]

    def run(self, steps: int) -> list[list[float]]:
        rates = []
        for _ in range(steps):
            self.optimizer.zero_grad()
            sum((w**2).sum() for w in self.weights).backward()
            rates.append([group["lr"] for group in self.optimizer.param_groups])
            self.optimizer.step()
            self.schedule.step()
        return rates


def test_every_group_follows_the_curve_from_its_own_base_rate() -> None:
    rates = Training().run(12)
    factors = [poly_factor(step, 12, warmup_steps=3, warmup_factor=0.1) for step in range(12)]
    assert rates == [[pytest.approx(0.1 * f), pytest.approx(0.01 * f)] for f in factors]


@pytest.mark.parametrize("optimizer_first", [True, False])
@pytest.mark.parametrize("stop", [0, 2, 7])
def test_a_resumed_run_equals_an_uninterrupted_one_in_either_order_of_loading(
    stop: int, optimizer_first: bool
) -> None:
    whole = Training()
    expected = whole.run(12)

    first = Training()
    rates = first.run(stop)
    resumed = Training()
    with torch.no_grad():
        for target, source in zip(resumed.weights, first.weights, strict=True):
            target.copy_(source)
    steps = [
        lambda: resumed.optimizer.load_state_dict(first.optimizer.state_dict()),
        lambda: resumed.schedule.load_state_dict(first.schedule.state_dict()),
    ]
    for load in steps if optimizer_first else reversed(steps):
        load()
    assert resumed.schedule.get_last_lr() == [group["lr"] for group in resumed.optimizer.param_groups]
    rates += resumed.run(12 - stop)

    assert rates == expected
    for target, source in zip(resumed.weights, whole.weights, strict=True):
        assert torch.equal(target, source)


def test_a_schedule_built_after_the_optimiser_was_restored_resumes_at_the_right_rate() -> None:
    first = Training()
    first.run(7)
    resumed = Training()
    resumed.optimizer.load_state_dict(first.optimizer.state_dict())
    schedule = PolySchedule(resumed.optimizer, total_steps=12, warmup_steps=3, warmup_factor=0.1)
    schedule.load_state_dict(first.schedule.state_dict())
    rates = [group["lr"] for group in resumed.optimizer.param_groups]
    assert rates == [group["lr"] for group in first.optimizer.param_groups]
