"""The model as training finds it: random, with a pretrained encoder, or an earlier model."""

import torch

from deeplab_core.checkpoint import load_checkpoint
from deeplab_core.metadata import CheckpointError
from deeplab_core.model import build_model
from deeplab_core.segmenter import Segmenter
from pipeline.errors import ModelError
from pipeline.storage import Folder, redact
from pipeline.train.job import TrainJob


def initial_model(job: TrainJob) -> Segmenter:
    """The model before the first step, the same in every process.

    Args:
        job: What is trained.
    """
    if job.train.init is None:
        torch.manual_seed(job.train.seed)
        return build_model(job.model)
    folder = Folder.at(job.train.init)
    try:
        model = load_checkpoint(redact(folder.url), read_bytes=folder.read)
    except CheckpointError as error:
        raise ModelError(f"train.init: {error}") from error
    if model.metadata is None or model.metadata.sha256 != job.parent:
        raise ModelError(
            f"train.init: the checkpoint {redact(folder.url)} must be the one that training began with, "
            f"{job.parent}, but was replaced; put it back or start over with --overwrite"
        )
    return model
