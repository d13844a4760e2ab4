"""Two gloo processes with unequal batches must be one process with the whole batch.

Rank 0 runs in this process, rank 1 in one started for it, once for the whole file; the tests compare what
they return with a plain model.
"""

import copy
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.spawn import spawn

from deeplab_core.freeze_bn import freeze_batchnorm
from deeplab_core.sync_bn import GatheredBatchNorm2d, GatheredBatchNormAct2d, convert_sync_batchnorm

# Images on rank 0 and rank 1.
SPLITS = {"unequal": (3, 2), "empty second": (5, 0), "empty first": (0, 5), "one image each": (1, 1)}
Result = dict[str, Any]


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, eps=1e-3, momentum=0.3),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, bias=False),
        BatchNormAct2d(6, momentum=None),  # cumulative, with an activation of its own
        nn.Conv2d(6, 5, 1),
        nn.BatchNorm2d(5, affine=False),
        nn.Conv2d(5, 5, 1),
        nn.BatchNorm2d(5, track_running_stats=False),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_images(split: str, step: int, offset: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(100 + step)
    images = torch.randn((sum(SPLITS[split]), 3, 9, 8), generator=generator)
    return images * torch.arange(1.0, len(images) + 1)[:, None, None, None] + offset


def share(batch: Tensor, split: str, rank: int) -> Tensor:
    first = SPLITS[split][0]
    return batch[:first] if rank == 0 else batch[first:]


def train_twice(model: nn.Module, split: str, rank: int | None) -> Result:
    """Two training forwards, the second with gradients; rank None takes the whole batch."""
    take = (lambda batch: batch) if rank is None else (lambda batch: share(batch, split, rank))
    model(take(make_images(split, step=0)))
    images = take(make_images(split, step=1)).clone().requires_grad_()
    outputs = model(images)
    generator = torch.Generator().manual_seed(7)
    weights = torch.randn((sum(SPLITS[split]), *outputs.shape[1:]), generator=generator)
    (outputs * take(weights)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {
        "outputs": outputs.detach(),
        "images": images.grad,
        "parameters": gradients,
        "state": model.state_dict(),
    }


def normalise(images: Tensor, norm: nn.Module) -> Result:
    """One normalisation alone, with its input gradient."""
    images = images.clone(memory_format=torch.preserve_format).requires_grad_()
    outputs = norm(images)
    (outputs.float() ** 3).sum().backward()
    return {"outputs": outputs.detach(), "images": images.grad, "state": norm.state_dict()}


def autocast_step(norm: nn.Module, images: Tensor) -> Result:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return normalise(images.bfloat16(), norm)


def step_of_ddp(rank: int) -> dict[str, Tensor]:
    """One SGD step in DistributedDataParallel, whose mean over ranks is undone in the loss."""
    model = convert_sync_batchnorm(make_model())
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
    images = share(make_images("unequal", step=0), "unequal", rank)
    (2 * (parallel(images) ** 3).sum() / 1000).backward()
    optimizer.step()
    return model.state_dict()


def affine_gradients(norm: nn.Module, images: Tensor) -> dict[str, Tensor | None]:
    """Gradients of gamma and beta where the input itself asks for none, as in a network's first layer."""
    (norm(images) ** 3).sum().backward()
    return {name: parameter.grad for name, parameter in norm.named_parameters()}


def refusal_of_a_single_value(rank: int) -> str:
    images = torch.ones((1 - rank, 2, 1, 1))
    try:
        convert_sync_batchnorm(nn.BatchNorm2d(2))(images)
    except ValueError as error:
        return str(error)
    return "accepted"


def run_scenarios(rank: int, folder: Path) -> Result:
    """Everything that takes two processes; both run the same collectives in the same order."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),  # a missing partner is an error, not a hang
    )
    try:
        return collective_results(rank) | lonely_results(rank)
    finally:
        dist.destroy_process_group()


def collective_results(rank: int) -> Result:
    results: Result = {}
    for split in SPLITS:
        results[split] = train_twice(convert_sync_batchnorm(make_model()), split, rank)
    results["not synchronised"] = train_twice(make_model(), "unequal", rank)
    images = share(make_images("unequal", step=0), "unequal", rank)
    far_images = share(make_images("unequal", step=0, offset=3000.0), "unequal", rank)
    last_images = images.contiguous(memory_format=torch.channels_last)
    results["far from zero"] = normalise(far_images, convert_sync_batchnorm(nn.BatchNorm2d(3)))
    results["float64"] = normalise(images.double(), convert_sync_batchnorm(nn.BatchNorm2d(3).double()))
    results["autocast"] = autocast_step(convert_sync_batchnorm(nn.BatchNorm2d(3)), images)
    results["channels last"] = normalise(last_images, convert_sync_batchnorm(nn.BatchNorm2d(3)))
    results["all empty"] = normalise(torch.zeros(0, 3, 4, 4), convert_sync_batchnorm(nn.BatchNorm2d(3)))
    results["first layer"] = affine_gradients(convert_sync_batchnorm(nn.BatchNorm2d(3)), images)
    results["single value"] = refusal_of_a_single_value(rank)
    results["ddp"] = step_of_ddp(rank)
    return results


def lonely_results(rank: int) -> Result:
    """What must not wait for the other process: only rank 0 does it."""
    if rank == 1:
        return {}
    images = share(make_images("unequal", step=0), "unequal", rank)
    frozen = freeze_batchnorm(convert_sync_batchnorm(make_model()[:6])).train()
    return {"eval": convert_sync_batchnorm(make_model()).eval()[:6](images), "frozen": frozen(images)}


def run_second_process(_: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.save(run_scenarios(1, folder), folder / "rank1.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    """The results of rank 0, which runs in this process, and of rank 1."""
    folder = tmp_path_factory.mktemp("gloo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        second = spawn(run_second_process, args=(folder,), nprocs=1, join=False)
        try:
            first_results = run_scenarios(0, folder)
        finally:
            while not second.join():
                pass
    return [first_results, torch.load(folder / "rank1.pt", weights_only=True)]


def both(ranks: list[Result], scenario: str, key: str) -> Tensor:
    return torch.cat([result[scenario][key] for result in ranks])


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    """Within the tolerance of the largest value."""
    actual, expected = actual.detach(), expected.detach()
    return bool((actual - expected).abs().max() <= tolerance * max(1.0, float(expected.abs().max())))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("split", SPLITS)
def test_two_processes_equal_one_with_the_whole_batch(ranks: list[Result], split: str) -> None:
    expected = train_twice(make_model(), split, rank=None)
    assert close(both(ranks, split, "outputs"), expected["outputs"])
    assert close(both(ranks, split, "images"), expected["images"])
    for name, gradient in expected["parameters"].items():
        summed = sum(result[split]["parameters"][name] for result in ranks)
        assert close(summed, gradient), name
    for result in ranks:
        assert list(result[split]["state"]) == list(expected["state"])
        for name, value in expected["state"].items():
            assert close(result[split]["state"][name], value), name


def test_running_statistics_are_the_same_bits_on_both_processes(ranks: list[Result]) -> None:
    for name, value in ranks[0]["unequal"]["state"].items():
        assert torch.equal(value, ranks[1]["unequal"]["state"][name]), name


def test_without_synchronisation_the_same_run_differs(ranks: list[Result]) -> None:
    expected = train_twice(make_model(), "unequal", rank=None)
    assert not close(both(ranks, "not synchronised", "outputs"), expected["outputs"], tolerance=0.05)
    assert not close(both(ranks, "not synchronised", "images"), expected["images"], tolerance=0.05)
    for result in ranks:
        mean = result["not synchronised"]["state"]["1.running_mean"]
        assert not close(mean, expected["state"]["1.running_mean"], tolerance=0.01)


def test_variances_do_not_cancel_for_values_far_from_zero(ranks: list[Result]) -> None:
    images = make_images("unequal", step=0, offset=3000.0)
    expected = normalise(images.double(), nn.BatchNorm2d(3).double())
    # Float32 holds these values to 2e-4: a difference of 1e-3 from float64 is theirs, not the statistics'.
    assert close(both(ranks, "far from zero", "outputs").double(), expected["outputs"], tolerance=1e-3)
    variance = ranks[0]["far from zero"]["state"]["running_var"].double()
    assert close(variance, expected["state"]["running_var"], tolerance=1e-6)


def test_float64_keeps_its_precision(ranks: list[Result]) -> None:
    expected = normalise(make_images("unequal", step=0).double(), nn.BatchNorm2d(3).double())
    assert close(both(ranks, "float64", "outputs"), expected["outputs"], tolerance=1e-13)
    assert close(both(ranks, "float64", "images"), expected["images"], tolerance=1e-12)


def test_statistics_are_float32_under_autocast(ranks: list[Result]) -> None:
    images = make_images("unequal", step=0).bfloat16()
    expected = normalise(images.float(), nn.BatchNorm2d(3))
    outputs = both(ranks, "autocast", "outputs")
    assert outputs.dtype == torch.bfloat16
    assert close(outputs.float(), expected["outputs"], tolerance=2**-8)
    state = ranks[0]["autocast"]["state"]
    assert state["running_var"].dtype == torch.float32
    assert close(state["running_var"], expected["state"]["running_var"])
    assert close(state["running_mean"], expected["state"]["running_mean"])


def test_channels_last_stays_channels_last(ranks: list[Result]) -> None:
    expected = normalise(make_images("unequal", step=0), nn.BatchNorm2d(3))
    assert close(both(ranks, "channels last", "outputs"), expected["outputs"])
    assert close(both(ranks, "channels last", "images"), expected["images"])
    for result in ranks:
        assert result["channels last"]["outputs"].is_contiguous(memory_format=torch.channels_last)
        assert result["channels last"]["images"].is_contiguous(memory_format=torch.channels_last)


def test_gamma_and_beta_learn_where_the_input_asks_for_no_gradient(ranks: list[Result]) -> None:
    expected = affine_gradients(nn.BatchNorm2d(3), make_images("unequal", step=0))
    for name in ("weight", "bias"):
        assert close(sum(result["first layer"][name] for result in ranks), expected[name]), name


def test_no_data_anywhere_leaves_the_running_statistics_alone(ranks: list[Result]) -> None:
    for result in ranks:
        assert result["all empty"]["outputs"].shape == result["all empty"]["images"].shape == (0, 3, 4, 4)
        for name, value in nn.BatchNorm2d(3).state_dict().items():
            assert torch.equal(result["all empty"]["state"][name], value), name


def test_a_single_value_in_all_processes_is_refused_by_all(ranks: list[Result]) -> None:
    for result in ranks:
        assert "must see more than one value per channel over all processes, got 1" in result["single value"]


def test_a_step_under_ddp_equals_a_step_of_one_process(ranks: list[Result]) -> None:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ((model(make_images("unequal", step=0)) ** 3).sum() / 1000).backward()
    optimizer.step()
    assert not close(model.state_dict()["0.weight"], make_model().state_dict()["0.weight"], tolerance=1e-3)
    for result in ranks:
        for name, value in model.state_dict().items():
            assert close(result["ddp"][name], value), name


def test_evaluation_and_frozen_layers_do_not_wait_for_other_processes(ranks: list[Result]) -> None:
    images = share(make_images("unequal", step=0), "unequal", rank=0)
    expected = make_model().eval()[:6](images)
    assert close(ranks[0]["eval"], expected)
    assert close(ranks[0]["frozen"], expected)


def test_alone_it_is_plain_batch_normalisation_bit_for_bit() -> None:
    plain, synchronised = make_model(), convert_sync_batchnorm(make_model())
    expected = train_twice(plain, "unequal", rank=None)
    actual = train_twice(synchronised, "unequal", rank=None)
    assert torch.equal(actual["outputs"], expected["outputs"])
    assert torch.equal(actual["images"], expected["images"])
    assert all(torch.equal(actual["state"][name], value) for name, value in expected["state"].items())


class TestConversion:
    def test_keeps_parameters_hooks_state_keys_and_mode(self) -> None:
        model = make_model().eval()
        calls: list[nn.Module] = []
        model[1].register_forward_hook(lambda module, *_: calls.append(module))
        parameters, keys = list(model.parameters()), list(model.state_dict())
        converted = convert_sync_batchnorm(model)
        assert converted is model
        assert [type(model[i]) for i in (1, 4, 6, 8)] == [
            GatheredBatchNorm2d,
            GatheredBatchNormAct2d,
            GatheredBatchNorm2d,
            GatheredBatchNorm2d,
        ]
        assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
        assert list(model.state_dict()) == keys
        assert not any(module.training for module in model.modules())
        model(make_images("unequal", step=0))
        assert calls == [model[1]]
        make_model().load_state_dict(model.state_dict())  # strictly

    def test_converting_again_or_a_copy_changes_nothing(self) -> None:
        model = copy.deepcopy(convert_sync_batchnorm(make_model()))
        kinds = [type(module) for module in model.modules()]
        assert [type(module) for module in convert_sync_batchnorm(model).modules()] == kinds

    def test_native_layers_brought_to_the_cpu_become_ours(self) -> None:
        model = nn.Sequential(nn.SyncBatchNorm(3), SyncBatchNormAct(3))
        model[1].act = nn.ReLU()
        model[1].drop = nn.Identity()
        convert_sync_batchnorm(model)
        assert [type(layer) for layer in model] == [GatheredBatchNorm2d, GatheredBatchNormAct2d]
        assert (model(torch.randn(2, 3, 4, 4)) >= 0).all()

    def test_frozen_layers_stay_frozen(self) -> None:
        model = convert_sync_batchnorm(freeze_batchnorm(nn.Sequential(nn.BatchNorm2d(3)))).train()
        assert not model[0].training

    def test_layers_on_cuda_become_native_ones_and_a_shared_layer_stays_one(self) -> None:
        with FakeTensorMode():
            norm = nn.BatchNorm2d(4, device="cuda")
            acting = BatchNormAct2d(4, device="cuda")
            model = nn.Sequential(
                norm, nn.Sequential(norm, acting), freeze_batchnorm(nn.BatchNorm2d(4, device="cuda"))
            )
            frozen = type(model[2])
            convert_sync_batchnorm(model)
            assert type(model[0]) is nn.SyncBatchNorm
            assert model[1][0] is model[0]
            assert type(model[1][1]) is SyncBatchNormAct
            assert type(model[2]) is frozen
            assert model[0].weight is norm.weight
            again = convert_sync_batchnorm(model)
            assert again[0] is model[0]
            assert type(convert_sync_batchnorm(nn.BatchNorm2d(4, device="cuda"))) is nn.SyncBatchNorm

    def test_layers_it_cannot_synchronise_are_refused_by_name(self) -> None:
        model = nn.Sequential(nn.Sequential(nn.BatchNorm1d(3)))
        with pytest.raises(TypeError, match=r"got BatchNorm1d at '0.0'; replace the layer"):
            convert_sync_batchnorm(model)
