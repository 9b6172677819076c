"""JPEG and WebP within given bytes, against trying every quality; a JPEG's parts against a second way of counting."""

import io

import numpy as np
import pytest
from gnl.experiments.baseline_files import CURVES, FAMILIES, BaselineFiles, curve_labels, jpeg_picture_bytes, up_to
from PIL import Image


def picture(seed, side=96):
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (11, 11, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("family, quality", [("jpeg", 12), ("webp", 0.3), ("webp", 40)])
def test_the_quality_that_fits_fits_and_the_next_does_not(family, quality):
    files = BaselineFiles(family, picture(1))
    budget = files.prompt(quality).size_bytes
    fitting, larger = files.at_most(budget), files.at_least(budget)
    assert files.prompt(fitting).size_bytes <= budget <= files.prompt(larger).size_bytes
    assert files.prompt(files.at_least(budget + 1)).size_bytes > budget
    every = {q: files.prompt(q).size_bytes for q in (*CURVES[family], quality)}
    assert max(size for size in every.values() if size <= budget) <= files.prompt(fitting).size_bytes


@pytest.mark.parametrize("family, lowest", [("jpeg", 1), ("webp", 0)])
def test_beyond_its_range_a_family_gives_its_end(family, lowest):
    files = BaselineFiles(family, picture(2))
    assert files.at_most(10) == lowest == files.at_least(10)
    assert files.at_most(10**7) == 100 == files.at_least(10**7)


def test_webp_goes_below_its_quality_1():
    files = BaselineFiles("webp", picture(3, 256))
    sizes = [files.prompt(quality).size_bytes for quality in (0, 0.03, 0.3, 1)]
    assert sizes == sorted(sizes) and sizes[0] < 0.8 * sizes[-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shot_is_the_decoded_file_with_its_size(family):
    files = BaselineFiles(family, picture(4))
    shot = files.shot(30)
    data = files.prompt(30).slices[0]
    assert shot.size_bytes == len(data)
    assert np.array_equal(shot.image, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert (shot.picture_bytes is None) == (family == "webp")


def test_a_curve_goes_two_points_beyond_the_rate_that_is_asked_for():
    images = [picture(seed) for seed in range(3)]

    def bpp(family, quality):
        return np.mean([8 * BaselineFiles(family, one).prompt(quality).size_bytes / 96**2 for one in images])

    for family, qualities in CURVES.items():
        middle = bpp(family, qualities[5])
        assert list(up_to(middle, images)[family]) == list(qualities[:8])
        assert list(up_to(middle - 1e-9, images)[family]) == list(qualities[:7])
        assert list(up_to(1000.0, images)[family]) == list(qualities)
        assert list(up_to(1e-9, images)[family]) == list(qualities[:2])


def test_curve_labels_name_the_qualities():
    assert curve_labels("webp")[:3] == ["webp:0", "webp:0.03", "webp:0.3"] and curve_labels("jpeg")[0] == "jpeg:1"


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize("seed", range(3))
def test_the_bytes_of_a_jpegs_picture(options, seed):
    out = io.BytesIO()
    Image.fromarray(picture(seed)).save(out, "JPEG", quality=60, **options)
    data = out.getvalue()
    # Everything that is not the two ends or a segment of a marker with its length.
    rest, segments = data[2:], 4
    while rest[:2] != b"\xff\xd9":
        if rest[0] == 0xFF and rest[1] not in (0, *range(0xD0, 0xD8)):
            length = 2 + int.from_bytes(rest[2:4], "big")
            segments, rest = segments + length, rest[length:]
        else:
            rest = rest[1 if rest[0] != 0xFF else 2 :]
    assert jpeg_picture_bytes(data) == len(data) - segments > 0
