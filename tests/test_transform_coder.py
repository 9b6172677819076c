"""The codec's networks in training: what they count as rate, what a budget lets through, what export makes of it."""

import dataclasses

import numpy as np
import pytest
import torch
from gnl.node_apps.codecs import export, quantiser
from gnl.node_apps.codecs.registry import load_codec
from gnl.node_apps.codecs.transform_coder import PlaneChooser, TransformCoder, _BoundedIndex
from gnl.topologies.errors import CodecError
from tiny_training import SHAPE


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def blurred(count=2, side=128, seed=0):
    """Smooth random images (B, 3, S, S) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, side // 8, side // 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)


@pytest.fixture(scope="module")
def model():
    """Started on blocks, with gains that differ, and so latents of many levels."""
    torch.manual_seed(0)
    found = TransformCoder(SHAPE)
    found.start_from_blocks(blurred(8, 128))
    with torch.no_grad():
        found.log_gain.add_(torch.linspace(-4, 1, SHAPE.y_channels))
    return found


def levels_of(shape=(3, 8, 16, 16), seed=0):
    return torch.randint(0, quantiser.LEVELS, shape, generator=torch.Generator().manual_seed(seed)).float()


def bits_of(planes, level):
    """Expected bits of each image, counted class by class."""
    bits, found = quantiser.class_bits(), np.zeros(len(planes))
    for image in range(len(planes)):
        for received, at in zip(planes[image].flatten().tolist(), level[image].flatten().long().tolist()):
            found[image] += bits[at, :received].sum()
    return found


class TestPlaneChooser:
    def test_what_is_received_takes_the_bits_of_the_budget(self):
        level = levels_of()
        budget = torch.tensor([300.0, 4000.0, 20000.0])
        found = bits_of(PlaneChooser()(level, budget), level)
        # the class that does not fit whole is received in random places: a few of its symbols more or less
        assert found == pytest.approx(budget.numpy(), rel=0.05, abs=60)

    def test_it_is_right_on_average(self):
        level, budget = levels_of((400, 1, 16, 16)), torch.full((400,), 333.0)
        assert bits_of(PlaneChooser()(level, budget), level).mean() == pytest.approx(333, rel=0.01)

    def test_classes_come_in_their_order_without_a_gap(self):
        level = levels_of((1, 8, 16, 16))
        planes = PlaneChooser()(level, torch.tensor([5000.0]))
        classes = [(at, plane) for at, plane in quantiser.class_order() if (level == at).any()]
        shares = [float((planes[level == at] > plane).float().mean()) for at, plane in classes]
        partial = [share for share in shares if 0 < share < 1]
        assert len(partial) <= 1 and shares == sorted(shares, reverse=True) and 1.0 in shares and 0.0 in shares

    def test_nothing_for_nothing_and_all_for_plenty(self):
        level = levels_of()
        planes = PlaneChooser()(level, torch.tensor([0.0, 1e9, 1e9]))
        assert int(planes[0].max()) == 0 and int(planes[1:].min()) == quantiser.PLANES

    def test_more_bits_never_mean_fewer_planes(self):
        level, chooser, before = levels_of(), PlaneChooser(), None
        for budget in (0.0, 100.0, 900.0, 5000.0, 30000.0):
            torch.manual_seed(3)
            planes = chooser(level, torch.full((3,), budget))
            assert before is None or bool((planes >= before).all())
            before = planes

    def test_an_image_is_not_the_business_of_another(self):
        level, chooser = levels_of(), PlaneChooser()
        torch.manual_seed(1)
        together = chooser(level, torch.tensor([300.0, 4000.0, 1e9]))
        torch.manual_seed(1)
        alone = chooser(level, torch.tensor([300.0, 0.0, 0.0]))
        assert torch.equal(together[0], alone[0])


class TestRates:
    def test_shapes(self, model):
        estimate = model(blurred())
        assert estimate.x_hat.shape == (2, 3, 128, 128) and estimate.y_hat.shape == (2, SHAPE.y_channels, 8, 8)
        assert estimate.y_bpp.shape == estimate.z_bpp.shape == (2,)

    @pytest.mark.parametrize("scalable", [False, True])
    def test_the_estimate_is_what_the_real_codec_takes(self, model, tmp_path, scalable):
        export.write_codec(model, tmp_path / "t.safetensors", {"scalable": scalable})
        codec = load_codec(f"trained:{tmp_path}/t.safetensors", "cpu")
        x = blurred(1, 256, seed=5)
        image = (x[0].permute(1, 2, 0) * 255).round().byte().numpy()
        with torch.no_grad():
            estimate = model(x) if not scalable else model(x, budget_bpp=torch.tensor([0.1]))
        bpp = float(estimate.y_bpp + estimate.z_bpp)
        if scalable:
            assert bpp == pytest.approx(0.1, rel=0.05)
        else:
            assert 8 * codec.encode(image).size_bytes / 256**2 == pytest.approx(bpp, rel=0.05)

    def test_the_picture_in_training_is_the_one_that_the_codec_makes(self, model, tmp_path):
        export.write_codec(model, tmp_path / "t.safetensors", {"scalable": False})
        codec = load_codec(f"trained:{tmp_path}/t.safetensors", "cpu")
        x = (blurred(1, 256, seed=5) * 255).round() / 255
        image = (x[0].permute(1, 2, 0) * 255).byte().numpy()
        with torch.no_grad():
            wanted = model(x).x_hat[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255
        found = codec.decode(codec.encode(image)).astype(float)
        # weights of 8 and 16 bits move some latents across the border of their cells
        assert np.abs(found - wanted).mean() < 0.2 * np.abs(found - image).mean()

    def test_a_larger_budget_costs_more_and_errs_less(self, model):
        x, found = blurred(), []
        for bpp in (0.05, 0.1, 0.2):
            with torch.no_grad():
                estimate = model(x, budget_bpp=torch.full((2,), bpp))
                error = float((estimate.y_hat - model.g_a(x)).square().mean())
            found.append((float((estimate.y_bpp + estimate.z_bpp).mean()), error))
        rates, errors = zip(*found)
        assert rates == pytest.approx((0.05, 0.1, 0.2), rel=0.1) and list(errors) == sorted(errors, reverse=True)

    def test_plane_0_is_counted_for_all_latents_whatever_was_received(self, model):
        found = []
        for bpp in (0.02, 0.2):
            torch.manual_seed(0)
            found.append(float(model(blurred(), budget_bpp=torch.full((2,), bpp)).plane0_bpp))
        assert found[0] == found[1] > 0

    def test_latents_of_the_lowest_level_are_not_coded(self, model):
        with torch.no_grad():
            y = model.g_a(blurred())
            y_hat, planes, level, _, _ = model.code(y)
        assert torch.equal(planes, (level > 0).long()) and (level == 0).any() and (level > 0).any()


def test_centroids_in_training_are_those_of_the_decoder(model):
    generator = torch.Generator().manual_seed(2)
    planes = torch.randint(1, quantiser.PLANES + 1, (500,), generator=generator)
    index = torch.randint(0, quantiser.LEVELS, (500,), generator=generator)
    finer = 3.0 ** (planes - 1)
    residual = 2 * torch.randn(500, generator=generator) * finer
    found = model._centred(residual, index.float() + quantiser.LEVELS_PER_PLANE * (planes - 1)) / finer
    symbols = torch.round(residual).int().numpy()
    wanted = quantiser.reconstruct(symbols, planes.numpy(), index.numpy(), quantiser.centroid_shifts())
    assert found.numpy() == pytest.approx(wanted, abs=1e-5)


def test_folding_the_gains_away_changes_nothing(model):
    folded, x = model.folded(), blurred(seed=3)
    with torch.no_grad():
        before, after = model(x), folded(x)
        level = [one.code(one.g_a(x))[2] for one in (model, folded)]
    assert float(folded.log_gain.detach().abs().max()) == 0 < float(model.log_gain.detach().abs().max())
    assert float((level[0] != level[1]).float().mean()) < 0.01
    assert torch.allclose(before.z_bpp, after.z_bpp, rtol=0.1) and torch.allclose(before.y_bpp, after.y_bpp, rtol=0.05)
    # a latent at the border of two cells may fall into the other by a rounding
    assert float(((before.x_hat - after.x_hat).abs() > 1e-3).float().mean()) < 0.02
    assert torch.equal(model.log_gain, model.log_gain.clone()) and model.g_a.linear[1] is not folded.g_a.linear[1]


def test_what_is_stored_can_be_trained_further(model, tmp_path):
    export.write_codec(model, tmp_path / "t.safetensors", {"scalable": True})
    found, wanted, x = export.read_codec(tmp_path / "t.safetensors"), model.folded(), blurred(seed=3)
    assert found.shape == SHAPE and float(found.log_gain.detach().abs().max()) == 0
    for (name, value), other in zip(found.named_parameters(), wanted.parameters()):
        assert torch.allclose(value, other, rtol=0.02, atol=0.02 * float(other.detach().abs().max())), name
    torch.manual_seed(0)
    before = wanted(x)
    torch.manual_seed(0)
    after = found(x)
    assert torch.allclose(before.z_bpp, after.z_bpp, rtol=0.1) and torch.allclose(before.y_bpp, after.y_bpp, rtol=0.05)


@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_what_is_not_stored_so_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "t.safetensors").write_bytes(content)
    with pytest.raises(CodecError, match="t.safetensors: .*that gnl train wrote"):
        export.read_codec(tmp_path / "t.safetensors")


def test_weights_of_another_release_are_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "LAYOUT", "gnl-older")
    export.write_codec(model, tmp_path / "t.safetensors", {})
    monkeypatch.undo()
    with pytest.raises(CodecError, match="layout 'gnl-older', this release reads"):
        export.read_codec(tmp_path / "t.safetensors")


def test_blocks_of_few_dimensions_survive_the_first_linear_transform():
    """Blocks of one colour each have three dimensions: eight latents hold them whole."""
    torch.manual_seed(0)
    model = TransformCoder(SHAPE)
    colours = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    x = colours.repeat_interleave(16, 2).repeat_interleave(16, 3)
    model.start_from_blocks(x)
    with torch.no_grad():
        y = model.g_a.linear(x - 0.5)
        assert torch.allclose(model.g_s.linear(y) + 0.5, x, atol=1e-3)
        assert y[:, :3].mean((0, 2, 3)).abs().max() < 1e-3
        assert y[:, :3].std((0, 2, 3)) == pytest.approx(np.ones(3), rel=0.01)


def test_the_networks_begin_as_small_corrections(model):
    torch.manual_seed(0)
    fresh = TransformCoder(SHAPE)
    x = blurred(8)
    fresh.start_from_blocks(x)
    with torch.no_grad():
        assert fresh.g_a.network(x - 0.5).std() < 0.3 * fresh.g_a.linear(x - 0.5).std()


def test_every_part_gets_a_gradient(model):
    copy = TransformCoder(SHAPE)
    copy.load_state_dict(model.state_dict())
    estimate = copy(blurred(), budget_bpp=torch.full((2,), 0.1))
    (estimate.x_hat.square().mean() + estimate.y_bpp.mean() + estimate.z_bpp.mean()).backward()
    for name, parameter in copy.named_parameters():
        if not name.endswith("quantiles"):  # CompressAI's auxiliary loss would train these: export sets them itself
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_a_scale_out_of_bounds_is_led_back():
    raw = torch.tensor([-1.0, -1.0, 0.5, 40.0, 40.0], requires_grad=True)
    found = _BoundedIndex.apply(raw, 31.0)
    assert found.tolist() == [0.0, 0.0, 0.5, 31.0, 31.0]
    found.backward(torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0]))
    # a step goes against the gradient: upwards from below, downwards from above
    assert raw.grad.tolist() == [0.0, -1.0, 1.0, 1.0, 0.0]


def test_half_precision_keeps_rates_and_figures_in_full(model):
    estimate = model(blurred(), half=True)
    assert estimate.x_hat.dtype == estimate.y_bpp.dtype == estimate.y_hat.dtype == torch.float32


def test_networks_of_another_shape_are_another_codec():
    wide = TransformCoder(dataclasses.replace(SHAPE, y_channels=16))
    assert wide(blurred()).y_hat.shape == (2, 16, 8, 8)
