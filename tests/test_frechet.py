"""The distance against closed forms and scipy's matrix root; tiles by hand; the network's preprocessing by a double."""

import numpy as np
import pytest
import torch
from gnl.experiments.features import EfficientNetLite2
from gnl.experiments.frechet import FeatureStatistics, frechet_distance, tiles
from gnl.node_apps.codecs import classifier
from gnl.topologies.errors import UsageError
from scipy.linalg import sqrtm

RNG = np.random.default_rng(5)


def white(n, d):
    """(n, d) features whose mean is 0 and whose covariance is the unit matrix, but for rounding."""
    centred = RNG.normal(size=(n, d))
    centred -= centred.mean(0)
    return np.linalg.qr(centred)[0] * np.sqrt(n - 1)


@pytest.mark.parametrize("n", [9, 200])
def test_diagonal_gaussians_have_a_closed_form(n):
    d = 8
    (m1, m2), (s1, s2) = RNG.normal(size=(2, d)), RNG.uniform(0.1, 3, (2, d))
    found = frechet_distance(white(n, d) * s1 + m1, white(n + 5, d) * s2 + m2)
    assert found == pytest.approx(np.square(m1 - m2).sum() + np.square(s1 - s2).sum(), rel=1e-9)


def test_correlated_features_agree_with_the_root_of_the_matrix():
    first, second = RNG.normal(size=(90, 12)) @ RNG.normal(size=(12, 12)), RNG.normal(size=(70, 12)) + 0.3
    s1, s2 = np.cov(first.T), np.cov(second.T)
    shift = first.mean(0) - second.mean(0)
    expected = shift @ shift + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_fewer_features_than_dimensions_still_agree_with_the_eigenvalues_of_the_product():
    first, second = RNG.normal(size=(7, 40)), RNG.normal(size=(6, 40)) * 2
    s1, s2 = np.cov(first.T), np.cov(second.T)
    root = np.sqrt(np.clip(np.linalg.eigvals(s1 @ s2).real, 0, None)).sum()
    shift = first.mean(0) - second.mean(0)
    expected = shift @ shift + np.trace(s1) + np.trace(s2) - 2 * root
    # Eigenvalues that should be 0 are 1e-16, and their roots 1e-8.
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n", [5, 60])
def test_equal_sets_are_at_zero_and_a_shift_is_its_square(n):
    features = RNG.normal(size=(n, 20)).astype(np.float32)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(features, features[::-1]) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(features.astype(float), features + 3.0) == pytest.approx(9 * 20, rel=1e-6)


def test_it_is_symmetric_and_turns_and_scales_with_the_features():
    first, second = RNG.normal(size=(30, 10)), RNG.normal(size=(25, 10)) * 1.7 + 0.2
    turn = np.linalg.qr(RNG.normal(size=(10, 10)))[0]
    distance = frechet_distance(first, second)
    assert frechet_distance(second, first) == pytest.approx(distance)
    assert frechet_distance(first @ turn, second @ turn) == pytest.approx(distance)
    assert frechet_distance(3 * first, 3 * second) == pytest.approx(9 * distance)


@pytest.mark.parametrize("first, second", [((1, 4), (5, 4)), ((5, 4), (5, 3)), ((5,), (5,))])
def test_what_has_no_covariance_is_refused(first, second):
    with pytest.raises(UsageError, match="n at least 2"):
        frechet_distance(np.zeros(first), np.zeros(second))


def test_tiles_lie_on_two_grids_half_a_tile_apart():
    rows, columns = np.mgrid[0:480, 0:640]
    image = np.stack([rows // 2, columns // 3, rows % 2], -1).astype(np.uint8)
    corners = [(0, 0), (0, 256), (128, 128), (128, 384)]
    found = tiles(image)
    assert len(found) == len(corners)
    assert all(np.array_equal(one, image[t : t + 256, l : l + 256]) for one, (t, l) in zip(found, corners))


@pytest.mark.parametrize("size", [(256, 256), (255, 900), (40, 30)])
def test_a_square_and_a_small_image_are_their_own_tile(size):
    image = np.zeros((*size, 3), np.uint8)
    (only,) = tiles(image)
    assert only.shape == image.shape


class Echo(torch.nn.Module):
    """In place of the network: its features are what it was given."""

    def forward(self, x):
        assert x.shape[1:] == (3, 260, 260)
        return [x.mean((2, 3)) - 1, x.mean((2, 3))]


def test_images_reach_the_network_in_its_size_and_in_8_bit_values(monkeypatch):
    monkeypatch.setattr(classifier, "EfficientNetLite", lambda number: {classifier.JUDGING_NUMBER: Echo()}[number])
    levels = [(0, 127, 255), (255, 64, 10)] * 20
    images = [np.full((64 + n, 80, 3), level, np.uint8) for n, level in enumerate(levels)]
    found = EfficientNetLite2()(images)
    assert found.shape == (40, 3) and found == pytest.approx(np.array(levels), abs=1e-3)


def test_the_real_network_tells_photographs_apart():
    extract = EfficientNetLite2()
    smooth = np.tile(np.linspace(0, 255, 256, dtype=np.uint8)[:, None, None], (1, 256, 3))
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    a, near, far = extract([smooth, np.clip(smooth.astype(int) + 4, 0, 255).astype(np.uint8), noise])
    assert a.shape == (1280,) and np.linalg.norm(a - near) < np.linalg.norm(a - far) / 4


class TestFeatureStatistics:
    @staticmethod
    def of(features, cuts=()):
        found = FeatureStatistics(features.shape[1])
        for batch in np.split(features, cuts):
            found.add(batch)
        return found

    def test_batches_of_any_size_give_what_numpy_gives_of_all(self):
        features = RNG.normal(size=(60, 12)) @ RNG.normal(size=(12, 12)) + 1e4  # far from 0, where sums of squares fail
        found = self.of(features.astype(np.float64), (1, 1, 7, 40))
        assert found.count == 60 and found.mean == pytest.approx(features.mean(0))
        assert found.covariance == pytest.approx(np.cov(features.T), rel=1e-7, abs=1e-7)

    @pytest.mark.parametrize("n", [7, 90])
    def test_the_distance_is_that_of_the_features(self, n):
        first, second = RNG.normal(size=(n, 20)), RNG.normal(size=(n + 4, 20)) * 1.5 + 0.2
        found = self.of(first, (3,)).distance(self.of(second, (5,)))
        assert found == pytest.approx(frechet_distance(first, second), rel=1e-6)
        assert self.of(first).distance(self.of(first)) == pytest.approx(0, abs=1e-5)

    def test_the_state_goes_on_where_it_stopped(self, tmp_path):
        features = RNG.normal(size=(30, 5))
        np.savez(tmp_path / "state.npz", **self.of(features[:11]).arrays())
        with np.load(tmp_path / "state.npz") as arrays:
            found = FeatureStatistics.of_arrays(dict(arrays))
        found.add(features[11:])
        assert found.count == 30 and found.covariance == pytest.approx(np.cov(features.T))

    def test_features_can_be_taken_out_again(self):
        features = RNG.normal(size=(30, 5)) + 3
        left = self.of(features).without(features[20:])
        assert left.count == 20 and left.mean == pytest.approx(features[:20].mean(0))
        assert left.covariance == pytest.approx(np.cov(features[:20].T))
        assert self.of(features).without(features).count == 0

    def test_what_cannot_be_meant_is_refused(self):
        with pytest.raises(UsageError, match="at least 2"):
            self.of(np.ones((1, 5))).covariance
        for wrong in (np.ones((3, 4)), np.full((2, 5), np.nan), np.ones(5)):
            with pytest.raises(UsageError, match=r"finite values, \(n, 5\)"):
                FeatureStatistics(5).add(wrong)
