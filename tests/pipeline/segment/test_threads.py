"""The number of threads changes the last bits of a sum and, where a network has learnt, hardly a label."""

import numpy as np
import pytest

from pipeline.config import RunConfig
from pipeline.raster.mosaic import Mosaic
from pipeline.segment.run import segment
from pipeline.synthetic.landscape import IGNORED
from tests.pipeline.segment.fitted import fit
from tests.pipeline.segment.scene import settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("fitted"))


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_labels_agree_across_thread_counts(precision, fitted, tmp_path):
    model, scene = fitted
    classes = {}
    for threads in (1, 2):
        output = tmp_path / f"{threads}.zarr"
        document = settings(
            scene, model, output,
            crop={"size_px": 257, "stride_px": 192},
            inference={"precision": precision},
            compute={"threads_per_worker": threads},
        )  # fmt: skip
        assert segment(RunConfig.model_validate(document))["status"] == "complete"
        classes[threads] = Mosaic.open(str(output)).classes()
    known = classes[1] != 255
    agreement = (classes[1] == classes[2])[known].mean()
    labels = np.load(scene.with_suffix(".npy"))
    accuracy = (classes[1] == labels)[known & (labels != IGNORED)].mean()
    assert accuracy > 0.7, "a network that has learnt nothing would agree with itself by saying one thing"
    assert len(np.unique(classes[1][known])) >= 4
    assert agreement >= 0.9999
