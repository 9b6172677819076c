"""Features of FID's network: the library's own, from a file of tensors alone, and a distance that is the library's."""

import numpy as np
import pytest
import torch
from gnl.experiments import feature_benchmark
from gnl.experiments.features import InceptionV3
from gnl.experiments.frechet import FeatureStatistics
from gnl.node_apps.codecs.entropy import define_vision_operators
from gnl.topologies.errors import UsageError

define_vision_operators()
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # noqa: E402
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric  # noqa: E402

RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of the right shapes: the real ones are nobody's to ship."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save({}, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        model = FeatureExtractorInceptionV3("made-up", ["2048"], str(path))
    torch.save(model.state_dict(), path)
    return path


def test_features_are_those_of_the_library(weights):
    images = list(RNG.integers(0, 256, (3, 96, 80, 3), dtype=np.uint8))
    found = InceptionV3(weights)(images)
    model = FeatureExtractorInceptionV3("own", ["2048"], str(weights))
    (expected,) = model(torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy()))
    assert found.shape == (3, InceptionV3.size) and found == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"no weights")
    torch.save({}, tmp_path / "b.pth")
    for name in ("a.pth", "b.pth"):
        with pytest.raises(UsageError, match=f"{name}: no weights of Inception .*; give weights-inception-2015"):
            InceptionV3(tmp_path / name)
    with pytest.raises(UsageError, match="No such file"):
        InceptionV3(tmp_path / "absent.pth")


@pytest.mark.parametrize("n", [40, 300])
def test_the_distance_is_the_librarys(n):
    first, second = RNG.normal(size=(n, 64)), RNG.normal(size=(n + 10, 64)) @ RNG.normal(size=(64, 64)) * 0.2 + 0.1
    statistics = [fid_features_to_statistics(torch.from_numpy(one)) for one in (first, second)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    ours = [FeatureStatistics(64) for _ in range(2)]
    for one, features in zip(ours, (first, second)):
        for batch in np.array_split(features, 7):
            one.add(batch)
    assert ours[0].distance(ours[1]) == pytest.approx(expected, rel=1e-6)


def test_the_benchmark_compares_equal_distances(monkeypatch):
    monkeypatch.setattr(feature_benchmark, "IMAGES", 6)
    monkeypatch.setattr(feature_benchmark, "FEW_IMAGES", 2)
    monkeypatch.setattr(feature_benchmark, "SIDE_PX", 64)
    found = feature_benchmark.bench_features(1)
    assert found["gnl_distance"] == pytest.approx(found["torch_fidelity_distance"], rel=1e-4)
    assert found["images"] == 12 and set(found) >= {"speed_ratio_to_torch_fidelity", "trusted"}
