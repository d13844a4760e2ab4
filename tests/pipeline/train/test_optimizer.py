"""Rates by layer, decay where it belongs, and the curve of the rate."""

import pytest
import torch
from torch import nn

from deeplab_core import ModelConfig, build_model
from deeplab_core.schedule import PolySchedule
from pipeline.train.config import TrainSettings
from pipeline.train.steps.optimizer import (
    build_optimizer,
    plan_optimizer,
    rate_factor,
    set_rates,
    warmup_of,
)


def train_settings(**values) -> TrainSettings:
    return TrainSettings(**({"max_steps": 1000} | values))


@pytest.fixture(scope="module")
def model():
    return build_model(ModelConfig(backbone="timm/test_resnet.r160_in1k", classes=["a", "b"], separable=True))


def test_every_parameter_is_in_one_group_with_the_right_rate_and_decay(model):
    settings = train_settings(optimizer="adamw", lr=0.01, backbone_lr_factor=0.1, weight_decay=0.05)
    optimizer = build_optimizer(model, plan_optimizer(settings, pretrained=False))
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    assert len(groups) == sum(len(group["params"]) for group in optimizer.param_groups)
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
        for parameter in module.parameters(recurse=False)
    }
    for name, parameter in model.named_parameters():
        group = groups[id(parameter)]
        assert group["lr"] == pytest.approx(0.001 if name.startswith("backbone.") else 0.01), name
        is_spared = id(parameter) in norms or name.endswith(".bias")
        assert group["weight_decay"] == (0.0 if is_spared else 0.05), name


def test_frozen_parameters_are_left_out(model):
    frozen = build_model(model.config)
    frozen.backbone.requires_grad_(False)
    optimizer = build_optimizer(frozen, plan_optimizer(train_settings(), pretrained=False))
    moved = sum(len(group["params"]) for group in optimizer.param_groups)
    assert moved == sum(parameter.requires_grad for parameter in frozen.parameters())


@pytest.mark.parametrize(
    ("settings", "pretrained", "lr", "backbone_lr", "decay"),
    [
        ({"batch": 16}, False, 0.007, 0.007, 1e-4),
        ({"batch": 8}, True, 0.0035, 0.00035, 1e-4),
        ({"optimizer": "adamw"}, False, 1e-3, 1e-3, 1e-2),
        ({"optimizer": "adamw", "lr": 3e-4, "backbone_lr_factor": 0.5}, True, 3e-4, 1.5e-4, 1e-2),
    ],
)
def test_what_is_left_to_choose(settings, pretrained, lr, backbone_lr, decay):
    plan = plan_optimizer(train_settings(**settings), pretrained=pretrained)
    assert (plan.lr, plan.backbone_lr, plan.weight_decay) == pytest.approx((lr, backbone_lr, decay))


@pytest.mark.parametrize(("kind", "factor"), [("sgd", 4.0), ("adamw", 2.0)])
def test_the_rate_follows_the_batch_of_all_workers(model, kind, factor):
    plan = plan_optimizer(train_settings(optimizer=kind), pretrained=False)
    alone, grown = (build_optimizer(model, plan, batch_growth=growth) for growth in (1.0, 4.0))
    for one, four in zip(alone.param_groups, grown.param_groups, strict=True):
        assert four["base_lr"] == pytest.approx(factor * one["base_lr"])


@pytest.mark.parametrize("warmup", [0, 7])
def test_by_steps_the_curve_is_the_model_librarys(warmup):
    parameter = nn.Parameter(torch.zeros(1))
    reference = torch.optim.SGD([parameter], lr=0.3)
    schedule = PolySchedule(reference, total_steps=40, power=0.9, warmup_steps=warmup)
    for step in range(40):
        ours = 0.3 * rate_factor(step / 40, step, power=0.9, warmup_steps=warmup)
        assert ours == pytest.approx(reference.param_groups[0]["lr"], rel=1e-9), step
        reference.step()
        schedule.step()


def test_by_time_the_curve_reaches_its_end_whatever_the_number_of_steps():
    factors = [rate_factor(progress, 500, power=0.9, warmup_steps=10) for progress in (0.0, 0.5, 0.999, 1.2)]
    assert factors == sorted(factors, reverse=True)
    assert factors[0] == 1
    assert factors[-1] == 0


def test_setting_rates_keeps_the_ratio_of_the_groups(model):
    plan = plan_optimizer(train_settings(lr=0.1, backbone_lr_factor=0.1), pretrained=False)
    optimizer = build_optimizer(model, plan)
    for factor in (0.5, 0.25):
        set_rates(optimizer, factor)
        rates = {round(group["lr"], 9) for group in optimizer.param_groups}
        assert rates == {round(0.1 * factor, 9), round(0.01 * factor, 9)}


def test_a_short_run_has_a_short_warm_up():
    assert warmup_of(train_settings(warmup_steps=100)) == 100
    assert warmup_of(train_settings(warmup_steps=100, max_steps=50)) == 5
    assert warmup_of(TrainSettings(max_minutes=1, warmup_steps=100)) == 100
