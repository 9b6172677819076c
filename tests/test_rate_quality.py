"""One pass over photographs: everything is measured on the same pixels and can be found again under its name."""

import numpy as np
import pytest
from fake_scalable import FakeScalable
from gnl.experiments.baseline_files import CURVES
from gnl.experiments.quality import mse_normalised, psnr_db
from gnl.experiments.rate_quality import ORIGINAL, Contender, Judge, Photographs, matched_label, measure
from gnl.node_apps.codecs.registry import load_codec
from gnl.topologies.errors import CodecError, UsageError
from PIL import Image

SIDES = ((64, 64), (48, 80), (72, 64))


@pytest.fixture
def photographs(tmp_path):
    for number, (height, width) in enumerate(SIDES):
        coarse = Image.fromarray(np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(tmp_path / f"{number}.png")
    return Photographs(sorted(tmp_path.iterdir()), None)


class FirstPixel:
    """In place of LPIPS and of features: what they were given can be told from what they return."""

    def to_each(self, image, others):
        return [float(abs(int(image[0, 0, 0]) - int(other[0, 0, 0]))) for other in others]

    def __call__(self, images):
        return np.array([[image[0, 0, 0], image.shape[0]] for image in images], np.float32)


CODECS = {"jpeg:35": load_codec("jpeg:35"), "gnl-scalable": FakeScalable()}
CONTENDERS = [Contender("jpeg:35"), Contender("gnl-scalable", 2.5)]


def test_contenders_are_measured_on_their_own_bytes_and_pixels(photographs):
    measured = measure(photographs, CONTENDERS, CODECS, Judge(FirstPixel()))
    for contender in CONTENDERS:
        codec, label = CODECS[contender.codec], contender.label
        for number, image in enumerate(photographs):
            prompt = codec.encode(image, contender.bpp)
            shown, found = codec.decode(prompt), measured.figures[label][number]
            assert found.bpp == 8 * prompt.size_bytes / (image.shape[0] * image.shape[1])
            assert found.psnr_db == psnr_db(image, shown) and found.mse_normalised == mse_normalised(image, shown)
            assert found.lpips == abs(int(image[0, 0, 0]) - int(shown[0, 0, 0])) and found.ms_ssim is None
    assert (measured.column("gnl-scalable@2.5", "bpp") <= 2.5).all()
    assert np.isnan(measured.column("jpeg:35", "ms_ssim")).all() and measured.features == {}


def test_baselines_have_a_curve_and_a_file_at_the_bits_of_every_contender(photographs):
    measured = measure(photographs, CONTENDERS, CODECS, Judge(FirstPixel()))
    for family in ("jpeg", "webp"):
        lowest = measured.column(f"{family}:{CURVES[family][0]:g}", "bpp")
        for contender in CONTENDERS:
            own = measured.column(contender.label, "bpp")
            other = measured.column(matched_label(family, contender.label), "bpp")
            assert ((other <= own) | (other == lowest)).all() and (other > own / 2).all()
        rates = [measured.column(f"{family}:{quality:g}", "bpp").mean() for quality in CURVES[family]]
        assert rates == sorted(rates)
    assert (measured.column("jpeg:10", "bpp_without_header") < measured.column("jpeg:10", "bpp")).all()


def test_features_are_of_the_tiles_of_originals_and_of_what_became_of_them(photographs):
    features = FirstPixel()
    measured = measure(photographs, CONTENDERS, CODECS, Judge(None, features))
    assert measured.photo_of_tile == [0, 1, 2]
    assert set(measured.features) == {ORIGINAL, *measured.figures} - {
        matched_label(family, one.label) for family in ("jpeg", "webp") for one in CONTENDERS
    }
    for number, image in enumerate(photographs):
        shown = CODECS["jpeg:35"].decode(CODECS["jpeg:35"].encode(image))
        assert measured.features[ORIGINAL][number].tolist() == [image[0, 0, 0], image.shape[0]]
        assert measured.features["jpeg:35"][number].tolist() == [shown[0, 0, 0], image.shape[0]]


def test_a_row_of_pictures_has_baselines_of_at_least_the_bits(photographs):
    measured = measure(photographs, CONTENDERS, CODECS, Judge(), grid_rows=2)
    assert len(measured.shown) == 2
    first, image = measured.shown[0], next(iter(photographs))
    assert np.array_equal(first[0][1], image) and first[0][0] == ORIGINAL
    labels = [label for label, _, _ in first]
    assert labels[1] == "jpeg:35" and labels[4] == "gnl-scalable@2.5" and labels[3].startswith("webp:")
    for own in (1, 4):
        assert all(figures.bpp >= first[own][2].bpp for _, _, figures in first[own : own + 3])


def test_tiles_are_coded_by_themselves_and_their_photograph_has_the_means(tmp_path):
    for name, size in (("a", (520, 300)), ("b", (256, 260))):
        noise = np.random.default_rng(5).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(tmp_path / f"{name}.png")
    tiled = Photographs(sorted(tmp_path.iterdir()), None, tiled=True)
    measured = measure(tiled, CONTENDERS[:1], CODECS, Judge(None, FirstPixel()))
    assert measured.photo_of_tile == [0, 0, 1]
    image = next(iter(tiled))
    pieces = [image[:256, :256], image[:256, 256:512]]
    rates = [8 * CODECS["jpeg:35"].encode(piece).size_bytes / 256**2 for piece in pieces]
    assert rates[0] != rates[1] and measured.figures["jpeg:35"][0].bpp == pytest.approx(np.mean(rates))
    assert [row.tolist() for row in measured.features[ORIGINAL][:2]] == [[piece[0, 0, 0], 256] for piece in pieces]


def test_without_distortion_and_lpips_there_are_rates_and_features_only(photographs):
    measured = measure(photographs, CONTENDERS, CODECS, Judge(None, FirstPixel(), distortion=False))
    own = measured.figures["jpeg:35"][0]
    assert own.bpp > 0 and (own.psnr_db, own.mse_normalised, own.ms_ssim, own.lpips) == (None,) * 4
    assert not any(" at the bits of " in label for label in measured.figures) and measured.features["jpeg:35"]


def test_photographs_are_whole_or_centre_squares(photographs):
    assert [image.shape[:2] for image in photographs] == list(SIDES)
    assert [image.shape for image in Photographs(photographs.paths, 40)] == [(40, 40, 3)] * 3


@pytest.mark.parametrize("make", [lambda path: path.write_bytes(b"no image"), lambda path: tiny(path)])
def test_a_photograph_that_cannot_be_used_is_named(tmp_path, make):
    path = tmp_path / "bad.png"
    make(path)
    with pytest.raises(UsageError, match="bad.png.*leave it out"):
        list(Photographs([path], None))


def tiny(path):
    Image.new("RGB", (100, 20)).save(path)


def test_a_photograph_that_a_codec_refuses_is_named(photographs):
    with pytest.raises(CodecError, match="0.png: gnl-scalable: a rate must be given"):
        measure(photographs, [Contender("gnl-scalable")], CODECS, Judge())
