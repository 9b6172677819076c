"""The classifiers' features, and the distance made of them."""

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from gnl.node_apps.codecs import classifier
from gnl.node_apps.codecs.classifier import EfficientNetLite, feature_distance

NUMBERS = (classifier.TRAINING_NUMBER, classifier.JUDGING_NUMBER)


def photo(side=128):
    """One image (1, 3, side, side) of values in 0..255, neither flat nor noise."""
    rows, columns = torch.meshgrid(torch.linspace(0, 9, side), torch.linspace(0, 5, side), indexing="ij")
    return 127 + 120 * torch.stack([torch.sin(rows + columns), torch.sin(rows * columns), torch.cos(3 * rows)])[None]


@pytest.mark.parametrize("number", NUMBERS)
def test_features_are_those_of_the_package_where_they_were_not_folded(number):
    oracle = EfficientNet.from_name(f"efficientnet-lite{number}")
    oracle.load_state_dict(torch.load(classifier._weights_path(number), weights_only=True))
    with torch.no_grad():
        wanted = oracle.eval().extract_features((photo(160) - 127) / 128).mean((2, 3))
    assert wanted.std() > 0.05
    torch.testing.assert_close(EfficientNetLite(number)(photo(160))[-1], wanted, rtol=1e-3, atol=1e-4)


def test_there_are_the_levels_of_four_resolutions_and_of_the_classification():
    assert [level.shape for level in EfficientNetLite(0)(photo())] == [(1, n) for n in (24, 40, 112, 320, 1280)]


def test_the_distance_counts_the_last_level_as_much_as_all_others():
    first = [torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])]
    second = [torch.tensor([[3.0, 9.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])]
    assert feature_distance(first, second).tolist() == pytest.approx([0.5 * ((1 + 0) / 2 + 0.25)], rel=1e-5)


def test_equal_images_are_at_no_distance_and_worse_ones_further_off():
    network, image = EfficientNetLite(0), photo()
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    off = [float(feature_distance(network(image), network(image + amount * noise))) for amount in (0, 2, 10, 40)]
    assert off[0] == 0 and off == sorted(off) and off[3] > 2 * off[2] > 4 * off[1] > 0


def test_a_training_learns_through_it():
    x = (photo() + 10).requires_grad_()
    network = EfficientNetLite(0)
    feature_distance(network(photo()), network(x)).sum().backward()
    assert x.grad.abs().sum() > 0 and not any(part.requires_grad for part in network.parameters())
