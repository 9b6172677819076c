"""Pictures of a report: the difference is what it says, and a page stays small whatever the pictures are."""

import base64
import io
import random

from gnl.experiments.report_images import MAX_TRIPLETS, load_gallery
from PIL import Image
from report_run import make_run, page_of, synthetic_pair, write_triplets


def uri_picture(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")


def test_difference_is_the_absolute_difference_times_the_stated_factor(tmp_path):
    write_triplets(tmp_path, [synthetic_pair(seed) for seed in range(2)])
    gallery = load_gallery(tmp_path)
    assert gallery.webp_quality is None and gallery.factor in (1, 2, 4, 8, 16)
    for triplet in gallery.triplets:
        sent, received, difference = (
            uri_picture(triplet.uris[kind]).tobytes() for kind in ("sent", "received", "difference")
        )
        expected = bytes(min(255, abs(a - b) * gallery.factor) for a, b in zip(sent, received))
        assert difference == expected


def test_factor_clips_at_most_one_percent(tmp_path):
    flat = Image.new("RGB", (64, 64), (100, 100, 100))
    for offset, factor in ((1, 16), (15, 16), (16, 8), (60, 4), (64, 2), (128, 1), (155, 1)):
        write_triplets(tmp_path, [(flat, Image.new("RGB", (64, 64), (100 + offset, 100 + offset, 100 + offset)))])
        assert load_gallery(tmp_path).factor == factor, offset


def test_noise_pictures_stay_within_the_size_of_a_page(tmp_path):
    rng = random.Random(3)
    noise = [(Image.frombytes("RGB", (512, 512), rng.randbytes(512 * 512 * 3)),) * 2 for _ in range(2)]
    folder = make_run(tmp_path / "run", series=False, pairs=noise * (MAX_TRIPLETS // 2 + 1))
    page = page_of(folder)
    assert sum(tag == "img" for tag, _ in page.tags) == 3 * MAX_TRIPLETS
    assert f"{MAX_TRIPLETS} of {len(noise) * (MAX_TRIPLETS // 2 + 1)} triplets" in page.text
    assert "made smaller for this page" in page.text and "WebP of quality" in page.text
    assert (folder / "report.html").stat().st_size < 5_000_000
