"""A prepared model gives the model's own labels, whatever the batch, and says what was done to it."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_core.calibrate import calibrate
from deeplab_core.compiled import compile_for
from deeplab_core.config import ModelConfig
from deeplab_core.int8 import computes_in_int8
from deeplab_core.metadata import CheckpointMetadata
from deeplab_core.model import build_model
from deeplab_core.multiscale import MultiScale
from deeplab_core.packed import can_pack
from deeplab_core.prepare import prepare_for_inference
from deeplab_core.prepared import PreparedModel
from deeplab_core.segmenter import Segmenter
from tests.deeplab_core.random_models import random_images, randomised, relative_difference
from tests.deeplab_core.tiny_segmenter import TinySegmenter


def model_of(**options: Any) -> Segmenter:
    torch.manual_seed(0)
    return randomised(
        build_model(ModelConfig(**({"backbone": "resnet18", "classes": ("a", "b", "c")} | options)))
    )


def processor_flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Gives what our own code said; torch's compiler keeps a diary of its own."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("deeplab_core")]


class TestSameResult:
    @pytest.mark.parametrize(
        "options",
        [{}, {"backbone": "mobilenet_v3_large", "in_channels": 5}, {"arch": "deeplabv3", "aux_head": True}],
        ids=str,
    )
    @pytest.mark.parametrize("channels_last", [True, False])
    def test_in_fp32_it_is_the_models_own(self, options: dict[str, Any], channels_last: bool) -> None:
        model = model_of(**options)
        images_NCHW = random_images(3, model.config.in_channels, 65, 65)
        prepared = prepare_for_inference(
            model, precision="fp32", compile=False, channels_last=channels_last, size_px=65
        )
        with torch.inference_mode():
            expected = model.lattice(images_NCHW)
        assert relative_difference(prepared.lattice(images_NCHW), expected) < 1e-5

    @pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
    def test_in_half_precision_it_is_close(self, precision: Any, dtype: torch.dtype) -> None:
        model, images_NCHW = model_of(), random_images(2, 3, 65, 65)
        prepared = prepare_for_inference(model, precision=precision, compile=False, size_px=65)
        with torch.inference_mode():
            expected = model.lattice(images_NCHW)
        got = prepared.lattice(images_NCHW)
        assert got.dtype == dtype
        assert 0 < (got.float() - expected).abs().mean() < 0.03 * expected.abs().mean()

    def test_multiscale_runs_on_it(self) -> None:
        model, images_NCHW = model_of(), random_images(2, 3, 65, 65)
        prepared = prepare_for_inference(
            model, precision="fp32", compile=False, size_px=65, scales=(0.5, 1.0)
        )
        with torch.inference_mode():
            expected = MultiScale(model, scales=(0.5, 1.0), flips="d4")(images_NCHW)
            got = MultiScale(prepared, scales=(0.5, 1.0), flips="d4")(images_NCHW)
        assert got.dtype == torch.float32
        assert relative_difference(got, expected) < 1e-5

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_a_crop_has_the_same_bits_in_any_batch(self, precision: Any) -> None:
        images_NCHW = random_images(5, 3, 65, 65)
        prepared = prepare_for_inference(model_of(), precision=precision, compile=False, size_px=65, batch=3)
        together = prepared.lattice(images_NCHW)
        for first, last in ((0, 1), (1, 3), (4, 5), (1, 5)):
            assert torch.equal(prepared.lattice(images_NCHW[first:last]), together[first:last])
        assert prepared.lattice(images_NCHW[:0]).shape == (0, 3, 17, 17)

    def test_input_layout_and_type_make_no_difference(self) -> None:
        images_NCHW = random_images(2, 3, 65, 65).bfloat16()
        prepared = prepare_for_inference(model_of(), precision="bf16", compile=False, size_px=65)
        expected = prepared.lattice(images_NCHW)
        strided_NCHW = images_NCHW.repeat_interleave(2, dim=3)[..., ::2]
        for same in (images_NCHW.double(), images_NCHW.to(memory_format=torch.channels_last), strided_NCHW):
            assert torch.equal(prepared.lattice(same), expected)


class TestTheModelItself:
    def test_it_stays_as_it_was(self) -> None:
        model = model_of().train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        prepare_for_inference(model, precision="bf16", compile=False, size_px=33)
        assert model.training
        assert all(parameter.requires_grad for parameter in model.parameters())
        after = model.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert all(after[name].dtype == value.dtype for name, value in before.items())

    def test_a_model_in_half_precision_is_prepared_in_any(self) -> None:
        model = model_of().bfloat16()
        prepared = prepare_for_inference(model, precision="fp32", compile=False, size_px=33)
        assert prepared.lattice(random_images(1, 3, 33, 33)).dtype == torch.float32

    def test_what_it_says_of_itself_is_kept(self) -> None:
        model = model_of(in_channels=2)
        model.metadata = CheckpointMetadata(
            config=model.config,
            colors=((0, 0, 0), (1, 1, 1), (2, 2, 2)),
            bands=("vv", "vh"),
            mean=(0.0, 0.0),
            std=(1.0, 1.0),
            sha256="0" * 64,
        )
        prepared = prepare_for_inference(model, compile=False, size_px=33)
        assert prepared.config == model.config
        assert prepared.metadata == model.metadata
        assert (prepared.lattice_stride, prepared.input_multiple_px) == (4, 16)


class TestPreparation:
    def test_the_record_says_what_was_done(self) -> None:
        prepared = prepare_for_inference(model_of(), precision="bf16", compile=False, size_px=33, batch=8)
        assert asdict(prepared.preparation) == {
            "precision": "bf16",
            "float_precision": "bf16",
            "device": "cpu",
            "channels_last": True,
            "crops_per_call": 1,
            "folded": 29,
            "unfolded": (),
            "fast_decoder": True,
            "quantised": 0,
            "packed": 31,  # the 29 folded ones, the taps and the logits
            "compiled": False,
            "reason": "not asked for",
        }
        assert json.dumps(asdict(prepared.preparation))

    @pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="asks Linux what the processor can do")
    def test_automatic_precision_is_bf16_where_the_processor_has_it(self) -> None:
        has_bf16 = bool(processor_flags() & {"avx512_bf16", "amx_bf16", "bf16", "svebf16"})
        prepared = prepare_for_inference(TinySegmenter(), compile=False, size_px=33)
        assert prepared.preparation.precision == ("bf16" if has_bf16 else "fp32")

    def test_elsewhere_than_on_cpu_and_cuda_it_is_not_compiled_unasked(self) -> None:
        preparation = prepare_for_inference(TinySegmenter(), device="meta", size_px=33, batch=8).preparation
        assert (preparation.precision, preparation.crops_per_call) == ("fp32", 8)
        assert not preparation.compiled
        assert preparation.reason == "not known to help on meta; ask for it with compile=True"

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"batch": 0}, "batch must be at least 1, got 0"),
            ({"precision": "int4"}, "precision must be one of auto, fp32, bf16, fp16, int8, got 'int4'"),
            ({"size_px": 64}, r"crop size must be k·16 \+ 1 px"),
            ({"scales": (1.0, 1.1)}, r"got scale 1\.1 for crops of 65 px.*use 1\.0 or 1\.25"),
            ({"scales": ()}, "scales must be one or more"),
        ],
    )
    def test_settings_that_do_not_fit_are_refused(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            prepare_for_inference(TinySegmenter(), **({"size_px": 65, "compile": False} | settings))


class TestCompiled:
    def test_compiled_shapes_give_the_same_result_and_never_compile_again(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        scales = (1.0, 1.5)
        model = TinySegmenter(in_channels=1)
        prepared = prepare_for_inference(
            model, precision="fp32", compile=True, size_px=65, scales=scales, batch=2
        )
        assert prepared.preparation.compiled, prepared.preparation.reason
        images_NCHW = random_images(3, 1, 65, 65)
        with torch.inference_mode():
            expected = MultiScale(model, scales=scales)(images_NCHW)
        with torch.compiler.set_stance("fail_on_recompile"):
            assert relative_difference(MultiScale(prepared, scales=scales)(images_NCHW), expected) < 1e-5
            with torch.inference_mode():
                got = MultiScale(prepared, scales=scales)(images_NCHW.clone())
                single = prepared.lattice(images_NCHW[1:2].transpose(-2, -1))
        assert relative_difference(got, expected) < 1e-5
        assert torch.equal(single, prepared.lattice(images_NCHW.transpose(-2, -1))[1:2])
        assert not messages(caplog)

    def test_another_shape_runs_uncompiled_and_says_so_once(self, caplog: pytest.LogCaptureFixture) -> None:
        model = TinySegmenter()
        prepared = prepare_for_inference(model, precision="fp32", compile=True, size_px=65)
        images_NCHW = random_images(2, 3, 33, 49)
        with caplog.at_level(logging.WARNING):
            got = [prepared.lattice(images_NCHW) for _ in range(2)]
        with torch.inference_mode():
            assert relative_difference(got[0], model.lattice(images_NCHW)) < 1e-5
        assert messages(caplog) == [
            "crops of 33×49 px run uncompiled, because only 65×65 px were prepared; name their scale or "
            "size_px in prepare_for_inference"
        ]

    def test_a_tenth_shape_is_compiled_like_the_first(self) -> None:
        # torch by itself gives up after eight shapes of one function, and runs it uncompiled.
        def double(values: Tensor) -> Tensor:
            return values * 2.0

        examples = [torch.ones(size) for size in range(1, 11)]
        with torch.no_grad():
            compiled = [compile_for(double, example) for example in examples]
            with torch.compiler.set_stance("fail_on_recompile"):
                for function, example in zip(compiled, examples, strict=True):
                    assert torch.equal(function(example), example * 2.0)

    def test_what_is_no_single_graph_is_refused(self) -> None:
        def breaks(values: Tensor) -> Tensor:
            return values + 1 if float(values.sum()) > 0 else values

        with pytest.raises(RuntimeError), torch.no_grad():
            compile_for(breaks, torch.ones(3))

    def test_without_a_compiler_it_runs_and_says_why_once(self, tmp_path: Path) -> None:
        program = """
import json, logging
from dataclasses import asdict
import torch
from deeplab_core.prepare import prepare_for_inference
from tests.deeplab_core.random_models import random_images
from tests.deeplab_core.tiny_segmenter import TinySegmenter

records = []
handler = logging.Handler()
handler.emit = records.append
logging.getLogger("deeplab_core").addHandler(handler)
model, images = TinySegmenter(), random_images(1, 3, 65, 65)
settings = dict(precision="fp32", size_px=65)
prepared = prepare_for_inference(model, compile=True, scales=(1.0, 1.25), **settings)
same = torch.equal(
    prepared.lattice(images), prepare_for_inference(model, compile=False, **settings).lattice(images)
)
told = [(record.levelname, record.getMessage()) for record in records]
print(json.dumps({"told": told, "same": same, **asdict(prepared.preparation)}))
"""
        environment = os.environ | {
            "CXX": str(tmp_path / "no-compiler"),
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        report = json.loads(done.stdout.splitlines()[-1])
        assert report["same"]
        assert not report["compiled"]
        assert "No working C++ compiler found" in report["reason"]
        [(level, message)] = report["told"]
        assert level == "WARNING"
        assert "runs uncompiled" in message
        assert "No working C++ compiler found" in message


def scenes(num: int, size_px: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy discs, diamonds and squares on ground: images_NCHW and labels_NHW."""
    rows, columns = torch.meshgrid(torch.arange(size_px), torch.arange(size_px), indexing="ij")
    colors_KC = torch.tensor([[-1.0, -0.5, 0.5], [1.0, -0.5, 0.0], [0.0, 1.0, -0.5], [0.3, 0.3, 1.0]])
    labels_NHW = torch.zeros(num, size_px, size_px, dtype=torch.long)
    for labels_HW in labels_NHW:
        for shape in (1, 2, 3) * 2:
            row, column = torch.randint(0, size_px, (2,), generator=generator).tolist()
            radius = int(torch.randint(10, 30, (1,), generator=generator))
            down, right = (rows - row).abs(), (columns - column).abs()
            distance = [(down**2 + right**2).sqrt(), down + right, torch.maximum(down, right)][shape - 1]
            labels_HW[distance < radius] = shape
    noise_NCHW = torch.randn(num, 3, size_px, size_px, generator=generator)
    return colors_KC[labels_NHW].permute(0, 3, 1, 2) + 0.3 * noise_NCHW, labels_NHW


def train(model: Segmenter, *, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimiser, steps, 0.9)
    model.train()
    for _ in range(steps):
        images_NCHW, labels_NHW = scenes(8, 97, generator)
        loss = F.cross_entropy(model(images_NCHW), labels_NHW)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    model.eval()


@pytest.fixture(scope="module")
def trained() -> Segmenter:
    torch.manual_seed(0)
    model = build_model(ModelConfig(backbone="resnet18", classes=("ground", "disc", "diamond", "square")))
    train(model, steps=100)
    crops_NCHW, _ = scenes(24, 257, torch.Generator().manual_seed(7))
    model.calibration = calibrate(model, crops_NCHW.split(1))
    return model


@pytest.fixture(scope="module")
def trained_labels(trained: Segmenter) -> tuple[Tensor, Tensor]:
    """Scenes that were neither trained nor calibrated on, and the model's own labels of them."""
    images_NCHW, labels_NHW = scenes(24, 257, torch.Generator().manual_seed(99))
    found_NHW = labels_of(trained, images_NCHW)
    assert (found_NHW == labels_NHW).float().mean() > 0.98, "labels of an untrained model prove nothing"
    return images_NCHW, found_NHW


def labels_of(model: Segmenter | PreparedModel, images_NCHW: Tensor) -> Tensor:
    with torch.inference_mode():
        probabilities_NKHW = F.interpolate(
            MultiScale(model, scales=(1.0,), flips=())(images_NCHW),
            images_NCHW.shape[-2:],
            mode="bilinear",
            align_corners=True,
        )
    return probabilities_NKHW.argmax(dim=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("precision", "compile_choice", "done"),
    [
        ("bf16", True, {"compiled": True, "packed": 0}),
        pytest.param(
            "bf16",
            "auto",
            {"compiled": False, "packed": 31},
            marks=pytest.mark.skipif(not can_pack(), reason="this build of torch has no oneDNN"),
        ),
        pytest.param(
            "int8",
            "auto",
            {"compiled": False, "quantised": 28},
            marks=pytest.mark.skipif(
                not computes_in_int8(torch.device("cpu")),
                reason="this processor does not multiply bytes (no VNNI)",
            ),
        ),
    ],
    ids=["compiled", "packed", "int8"],
)
def test_a_trained_models_labels_survive(
    trained: Segmenter,
    trained_labels: tuple[Tensor, Tensor],
    precision: Any,
    compile_choice: Any,
    done: dict[str, object],
) -> None:
    images_NCHW, expected_NHW = trained_labels
    prepared = prepare_for_inference(trained, precision=precision, compile=compile_choice, size_px=257)
    assert asdict(prepared.preparation).items() >= done.items(), prepared.preparation.reason
    assert (labels_of(prepared, images_NCHW) == expected_NHW).float().mean() >= 0.999
