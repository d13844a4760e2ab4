"""Frozen batch normalisation: running statistics whatever mode the model is put in."""

import copy

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from deeplab_core.freeze_bn import freeze_batchnorm
from deeplab_core.sync_bn import convert_sync_batchnorm


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 5, 1), BatchNormAct2d(5)
    )
    for _ in range(3):
        model(torch.randn(4, 3, 8, 8) * 2 + 1)
    return model


@pytest.mark.parametrize("synchronised", [False, True])
def test_training_uses_and_keeps_the_running_statistics(synchronised: bool) -> None:
    model = make_model()
    images = torch.randn(2, 3, 8, 8) * 5
    expected, state = copy.deepcopy(model).eval()(images), copy.deepcopy(model.state_dict())
    if synchronised:
        convert_sync_batchnorm(model)
    frozen = freeze_batchnorm(model)
    assert frozen is model
    model.train()
    assert model.training
    model[2].eval()  # dropout is another matter
    assert torch.equal(model(images), expected)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())


def test_a_copy_made_before_train_stays_frozen_as_well() -> None:
    model = copy.deepcopy(freeze_batchnorm(make_model())).train()
    assert not model[1].training
    assert not model[4].training
    assert model[2].training


@pytest.mark.parametrize("train_affine", [False, True])
def test_gamma_and_beta_learn_only_if_asked_to(train_affine: bool) -> None:
    model = freeze_batchnorm(freeze_batchnorm(make_model()), train_affine=train_affine).train()
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    model(images).sum().backward()
    assert images.grad is not None
    assert model[0].weight.grad is not None
    for norm in (model[1], model[4]):
        assert norm.weight.requires_grad == norm.bias.requires_grad == train_affine
        assert (norm.weight.grad is not None) == train_affine


def test_what_cannot_be_frozen_is_refused_by_name() -> None:
    without = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False))
    with pytest.raises(ValueError, match=r"got none in \['1'\]"):
        freeze_batchnorm(without)
    with pytest.raises(TypeError, match="got BatchNorm1d at 'the root'"):
        freeze_batchnorm(nn.BatchNorm1d(3))
