"""A model made ready to infer, in one call: precision, layout, folded norms, less work, compiled.

Seconds for a crop of 513 px through a ResNet-50 v3+, measured in one run on two cores with AVX-512 bf16:

| | |
|---|---|
| the model as it is, in batches of four (one by one) | 1.05 (0.74) |
| norms folded, channels last, fast decoder, crops one by one | 0.58 |
| and in bf16 | 0.29 |
| and packed (`packed.py`) | 0.26 |
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from deeplab_core.compiled import TensorFunction, compile_for
from deeplab_core.int8 import computes_in_int8, quantise
from deeplab_core.packed import can_pack, pack
from deeplab_core.prepared import FloatPrecision, Precision, Preparation, PreparedModel, Size
from deeplab_core.scales import scaled_size_px
from deeplab_core.segmenter import Segmenter
from deeplab_core.simplify import Simplified, simplify

logger = logging.getLogger(__name__)

PrecisionChoice = Literal["auto"] | Precision
CompileChoice = Literal["auto"] | bool

# Names of torch.cpu.get_capabilities for arithmetic in bf16; elsewhere it is emulated and slower than fp32.
_NATIVE_BF16 = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")
# A batch gains nothing on CPU (measured with one and two threads: 0.98 to 1.02 times), and from about four
# crops of 513 px on, the C library maps large feature maps anew, page by page (4 to 10 % slower). Alone, a
# crop cannot feel its neighbours either: torch chooses other kernels for one image than for two.
_CPU_CROPS_PER_CALL = 1
_PRECISIONS = ("auto", *get_args(FloatPrecision), "int8")


def prepare_for_inference(
    model: Segmenter,
    *,
    precision: PrecisionChoice = "auto",
    compile: CompileChoice = "auto",  # noqa: A002 - torch's own word for it
    device: str | torch.device | None = None,
    channels_last: bool = True,
    batch: int = 4,
    size_px: int = 513,
    scales: Sequence[float] = (1.0,),
) -> PreparedModel:
    """Copies a model and makes the copy as fast as the device allows; the model itself stays as it is.

    Set the number of threads before: compiled code for CPU is made for it.

    Args:
        model: Any of our models.
        precision: `auto` is bf16 where the device computes in it, else fp32. `int8` is for processors that
            multiply bytes and for calibrated models (`calibrate.py`).
        compile: `auto` compiles on CUDA, and on CPU where convolutions cannot be packed instead, which is
            faster and at once; True everywhere, False not. It takes from seconds to a minute a scale and
            keeps the weights once more for each, so a few crops are quicker without. What cannot be compiled
            runs as it is; that and the reason are logged once and stand in `preparation`.
        device: Where to run; the model's own if left out.
        channels_last: Whether activations are stored with the bands innermost, which convolutions prefer.
        batch: Crops given at a time.
        size_px: Side of an unscaled crop.
        scales: Factors that `MultiScale` will use.

    Returns:
        The prepared model; `MultiScale` works on it.

    Raises:
        ValueError: A setting does not fit the model or the device.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if not scales:
        raise ValueError("scales must be one or more factors, got none")
    target = torch.device(device) if device is not None else next(model.parameters()).device
    chosen = _choose_precision(precision, target)
    if chosen == "int8":
        _check_that_int8_works(model, target, compile)
    sizes_px = [scaled_size_px(size_px, scale, model.input_multiple_px) for scale in scales]
    with torch.inference_mode(mode=False), torch.no_grad():
        simplified = simplify(model, target, side_px=min(sizes_px))
        replica = simplified.model
        preparation = _record(simplified, chosen, target, channels_last=channels_last, batch=batch)
        if chosen == "int8":
            preparation = replace(preparation, quantised=_quantise(replica, model, preparation, sizes_px[0]))
        replica.to(dtype=preparation.dtype).to(memory_format=preparation.memory_format)
        return _compiled(replica, preparation, compile, sizes_px)


def _record(
    simplified: Simplified, precision: Precision, device: torch.device, *, channels_last: bool, batch: int
) -> Preparation:
    """What is known before anything is exchanged or compiled."""
    return Preparation(
        precision=precision,
        float_precision=_float_precision(precision, device),
        device=str(device),
        channels_last=channels_last,
        crops_per_call=_CPU_CROPS_PER_CALL if device.type == "cpu" else batch,
        folded=len(simplified.folding.folded),
        unfolded=simplified.folding.left,
        fast_decoder=simplified.fast_decoder,
    )


def _quantise(replica: Segmenter, model: Segmenter, preparation: Preparation, side_px: int) -> int:
    assert model.calibration is not None  # noqa: S101 - it was asked for
    example_NCHW = torch.zeros((1, model.config.in_channels, side_px, side_px))
    return quantise(replica, model.calibration, example_NCHW, preparation.dtype)


def _compiled(
    model: Segmenter, preparation: Preparation, choice: CompileChoice, sizes_px: Sequence[int]
) -> PreparedModel:
    """Compiles every shape or, if one fails, none: a run shall not mix two kinds of arithmetic."""
    device_type = torch.device(preparation.device).type
    if choice is False:
        return _uncompiled(model, preparation, sizes_px)
    if choice == "auto" and preparation.precision == "int8":
        reason = "convolutions in 8 bits are faster on CPU"
        return _uncompiled(model, replace(preparation, reason=reason), sizes_px)
    if choice == "auto" and _can_be_packed(preparation):
        reason = "packed convolutions are faster on CPU; ask for it with compile=True"
        return _uncompiled(model, replace(preparation, reason=reason), sizes_px)
    if choice == "auto" and device_type not in ("cpu", "cuda"):
        reason = f"not known to help on {device_type}; ask for it with compile=True"
        return _uncompiled(model, replace(preparation, reason=reason), sizes_px)
    compiled: dict[Size, TensorFunction] = {}
    try:
        for side_px in sizes_px:
            if (side_px, side_px) not in compiled:
                compiled[side_px, side_px] = compile_for(model.lattice, _example(model, preparation, side_px))
    except RuntimeError as error:  # from which all of torch's errors of compilation derive
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        logger.warning("the model runs uncompiled, because it cannot be compiled here: %s", cause)
        return _uncompiled(model, replace(preparation, reason=f"compilation failed: {cause}"), sizes_px)
    sizes = ", ".join(str(side_px) for side_px, _ in compiled)
    reason = f"compiled for {preparation.crops_per_call} crops at a time of {sizes} px a side"
    return PreparedModel(model, replace(preparation, compiled=True, reason=reason), compiled)


def _uncompiled(model: Segmenter, preparation: Preparation, sizes_px: Sequence[int]) -> PreparedModel:
    if _can_be_packed(preparation):
        packed = pack(model, _example(model, preparation, sizes_px[0]))
        preparation = replace(preparation, packed=packed)
    return PreparedModel(model, preparation, {})


def _can_be_packed(preparation: Preparation) -> bool:
    is_cpu = torch.device(preparation.device).type == "cpu"
    return is_cpu and preparation.channels_last and preparation.precision != "fp16" and can_pack()


def _example(model: Segmenter, preparation: Preparation, side_px: int) -> Tensor:
    zeros = torch.zeros((1, model.config.in_channels, side_px, side_px))
    return preparation.stage(zeros, preparation.crops_per_call)


def _choose_precision(choice: PrecisionChoice, device: torch.device) -> Precision:
    if choice not in _PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(_PRECISIONS)}, got {choice!r}")
    if choice != "auto":
        return choice
    return "bf16" if computes_in_bf16(device) else "fp32"


def _float_precision(precision: Precision, device: torch.device) -> FloatPrecision:
    """Of what is not in 8 bits."""
    if precision != "int8":
        return precision
    return "bf16" if computes_in_bf16(device) else "fp32"


def _check_that_int8_works(model: Segmenter, device: torch.device, choice: CompileChoice) -> None:
    if not computes_in_int8(device):
        raise ValueError(
            f"precision int8 must run on a processor that multiplies bytes (VNNI), got {device}; "
            "use auto, bf16 or fp32"
        )
    if model.calibration is None:
        raise ValueError(
            "precision int8 must be given a calibrated model, got one without calibration; make one with "
            "jobs/calibrate_model.py or deeplab_core.calibrate.calibrate, or use auto"
        )
    if choice is True:
        raise ValueError(
            "compile must be auto or False with precision int8, got True; nothing is left to gain"
        )


def computes_in_bf16(device: torch.device) -> bool:
    """Whether a device has arithmetic in bf16, rather than imitating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return torch.backends.mkldnn.is_available() and any(capabilities.get(name) for name in _NATIVE_BF16)
    return False
