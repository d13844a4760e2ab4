"""The benchmark measures what it says, on a scene small enough for a test."""

import json

import pytest

from jobs.benchmark import main
from tests.pipeline.segment.scene import damage_last_tile, settings, write_config, write_model, write_scene


@pytest.fixture
def config(tmp_path):
    scene = write_scene(tmp_path / "scene.tif", 400, 500, holes=False)
    model = write_model(tmp_path / "model")
    return write_config(tmp_path / "run.yaml", settings(scene, model, tmp_path / "unused"))


@pytest.fixture
def briefly(monkeypatch):
    monkeypatch.setattr("pipeline.segment.benchmark.BARE_SECONDS", 0.3)


@pytest.mark.usefixtures("briefly")
def test_its_figures_hang_together(config, tmp_path, capsys):
    assert main(["--config", str(config), "--no-peers", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    pace = report["crops"] / report["seconds"]
    assert report["efficiency"] == pytest.approx(pace / report["bare_crops_per_s"], rel=0.01)
    assert report["mpx_per_s"] == pytest.approx(report["pixels"] / 1e6 / report["seconds"], rel=0.01)
    assert report["pixels"] == 400 * 500
    assert 0.1 < report["efficiency"] < 1.5
    assert set(report["stages"]) == {"read", "compute", "write"}
    assert report["peers"] == {}
    assert not (tmp_path / "unused").exists()


@pytest.mark.usefixtures("briefly")
def test_a_block_that_fails_is_no_fast_block(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.segment.executor.RETRY_DELAY_S", 0.01)
    damage_last_tile(tmp_path / "scene.tif")
    assert main(["--config", str(config), "--no-peers", "--json"]) == 1
    assert "every block must be done to be measured" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("briefly")
@pytest.mark.filterwarnings("ignore")
def test_peers_agree_on_the_labels(config, capsys):
    assert main(["--config", str(config), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(report["peers"]) == {"plain_loop", "monai_documented", "monai_tuned"}
    for peer in report["peers"].values():
        assert peer["times_faster_ours"] > 0
        assert peer["label_agreement"] > 0.9
