"""Compare codecs on photographs: `python -m gnl.experiments.codec_benchmark --images DIR --lpips DIR --out FILE`.

Every codec gets the same centre squares. Rates are of the whole file or prompt as it would be sent, headers included;
for JPEG the rate of the entropy-coded scan alone is given too. JPEG is 4:2:0 with optimised Huffman tables. "At equal
bpp" interpolates a baseline's mean (bpp, LPIPS) curve linearly; where the curve does not reach down to the codec's
rate, the baseline's lowest point, of more bits, is stated instead.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable, Optional, Sequence

import numpy as np
from gnl.experiments.quality import PerceptualDistance, mse_normalised, psnr_db
from gnl.node_apps.codecs.interface import Codec
from gnl.node_apps.codecs.photos import find_photos, read_photo, square_view
from gnl.node_apps.codecs.registry import GENERATIVE_CODEC_IDS, WEIGHTS_DIR, load_codec, read_sidecar
from gnl.topologies.errors import CodecError, GnlError

JPEG_QUALITIES = (1, 2, 4, 6, 8, 10, 13, 17, 22, 30, 40)
WEBP_QUALITIES = (1, 3, 6, 10, 15, 20, 30, 40)
_SPEED_IMAGES = 24


@dataclass(frozen=True)
class Row:
    """One codec's means (and standard deviations) over the photographs."""

    codec: str
    bpp: float
    bpp_sd: float
    bpp_without_header: Optional[float]
    psnr_db: float
    psnr_db_sd: float
    mse_normalised: float
    lpips: Optional[float]
    lpips_sd: Optional[float]


@dataclass(frozen=True)
class Speed:
    """Images per second of one codec on so many CPU threads, at the benchmark's size."""

    codec: str
    threads: int
    encode_per_s: float
    decode_per_s: float
    decode_batch_per_s: float


def measure_codec(codec: Codec, images: Sequence[np.ndarray], lpips: Optional[Callable] = None) -> Row:
    """Encode and decode every image, and measure."""
    bpps, bare, psnrs, normalised, distances = [], [], [], [], []
    for image in images:
        prompt = codec.encode(image)
        shown = codec.decode(prompt)
        pixels = image.shape[0] * image.shape[1]
        bpps.append(8 * prompt.size_bytes / pixels)
        psnrs.append(psnr_db(image, shown))
        normalised.append(mse_normalised(image, shown))
        if codec.facts.name.startswith("jpeg"):
            bare.append(8 * _jpeg_scan_bytes(prompt.slices[0]) / pixels)
        if lpips is not None:
            distances.append(lpips(image, shown))
    return Row(
        codec.facts.name,
        *_mean_and_sd(bpps),
        statistics.fmean(bare) if bare else None,
        *_mean_and_sd(psnrs),
        statistics.fmean(normalised),
        *(_mean_and_sd(distances) if distances else (None, None)),
    )


def at_equal_bpp(bpp: float, curve: Sequence[Row]) -> Optional[float]:
    """LPIPS of a baseline at `bpp`, linear between its measured means; None beyond its ends."""
    points = sorted((row.bpp, row.lpips) for row in curve if row.lpips is not None)
    if not points or not points[0][0] <= bpp <= points[-1][0]:
        return None
    return float(np.interp(bpp, [x for x, _ in points], [y for _, y in points]))


def measure_speed(name: str, images: Sequence[np.ndarray], threads: int) -> Speed:
    """Images per second on `threads` CPU threads, after a warm-up; batches of eight for the last figure."""
    codec = load_codec(name, "cpu", threads)
    prompts = [codec.encode(image) for image in images]
    batches = [prompts[start : start + 8] for start in range(0, len(prompts), 8)]
    codec.decode_batch(batches[0])
    codec.decode(prompts[0])

    def rate(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return len(images) / (time.perf_counter() - start)

    return Speed(
        name,
        threads,
        rate(lambda: [codec.encode(image) for image in images]),
        rate(lambda: [codec.decode(prompt) for prompt in prompts]),
        rate(lambda: [codec.decode_batch(batch) for batch in batches]),
    )


def compare(rows: Sequence[Row], names: Sequence[str]) -> list[dict]:
    """For each named codec, each baseline's LPIPS at the codec's rate, and the ratio codec / baseline."""
    found = []
    for row in (row for row in rows if row.codec in names and row.lpips is not None):
        for family in ("jpeg", "webp"):
            curve = [other for other in rows if other.codec.startswith(family + ":") and other.lpips is not None]
            baseline = at_equal_bpp(row.bpp, curve)
            lowest = min(curve, key=lambda other: other.bpp, default=None)
            found.append(
                {
                    "codec": row.codec,
                    "bpp": row.bpp,
                    "lpips": row.lpips,
                    "baseline": family,
                    "baseline_lpips_at_equal_bpp": baseline,
                    "ratio": row.lpips / baseline if baseline else None,
                    "baseline_lowest": lowest and {"codec": lowest.codec, "bpp": lowest.bpp, "lpips": lowest.lpips},
                }
            )
    return found


def record_figures(sidecar: Path, row: Row, count: int, size_px: int) -> None:
    """Put a codec's measured means into the record beside its weights, where `describe` finds its operating point."""
    document = read_sidecar(sidecar)
    document["operating_points_bpp"] = [round(row.bpp, 4)]
    document["measured"] = {
        "images": f"{count} photographs outside the training set, centre squares of {size_px} pixels",
        **{name: value if isinstance(value, str) else round(value, 5) for name, value in asdict(row).items() if value},
    }
    sidecar.write_text(json.dumps(document, indent=1) + "\n")


def _mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _jpeg_scan_bytes(data: bytes) -> int:
    """Bytes behind the start-of-scan header of a baseline JPEG: the entropy-coded picture alone."""
    position = 2
    while data[position + 1] != 0xDA:
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return len(data) - position - 2 - int.from_bytes(data[position + 2 : position + 4], "big")


def _table(rows: Sequence[Row]) -> str:
    lines = [f"{'codec':<16}{'bpp':>8}{'sd':>8}{'PSNR dB':>9}{'sd':>6}{'MSE norm':>10}{'LPIPS':>8}{'sd':>8}"]
    for row in rows:
        distance = "" if row.lpips is None else f"{row.lpips:8.4f}{row.lpips_sd:8.4f}"
        lines.append(
            f"{row.codec[-16:]:<16}{row.bpp:8.4f}{row.bpp_sd:8.4f}{row.psnr_db:9.2f}{row.psnr_db_sd:6.2f}"
            f"{row.mse_normalised:10.5f}{distance}"
        )
    return "\n".join(lines)


def _sentence(one: dict) -> str:
    start = f"{one['codec']}: LPIPS {one['lpips']:.4f} at {one['bpp']:.3f} bpp; {one['baseline']}"
    if one["ratio"] is not None:
        return f"{start} at equal bpp {one['baseline_lpips_at_equal_bpp']:.4f}, ratio {one['ratio']:.2f}"
    lowest = one["baseline_lowest"]
    return f"{start} has no point there, at its lowest rate {lowest['bpp']:.3f} bpp {lowest['lpips']:.4f}"


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser("python -m gnl.experiments.codec_benchmark", description=__doc__.split("\n")[0])
    parser.add_argument("--images", nargs="+", required=True, metavar="DIR", help="folders of photographs")
    parser.add_argument("--lpips", metavar="DIR", help="folder with the LPIPS weights; without it, LPIPS is left out")
    parser.add_argument("--limit", type=int, help="evenly spaced subset of so many photographs")
    parser.add_argument("--size", type=int, default=256, help="side of the centre squares in pixels (256)")
    parser.add_argument("--codec", action="append", metavar="NAME", help="codecs to compare (gnl-low)")
    parser.add_argument("--no-speed", action="store_true", help="leave out the timing")
    parser.add_argument("--record", action="store_true", help="put the codecs' figures beside their weights")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except GnlError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status


def _run(options: argparse.Namespace) -> int:
    if options.size < 32 or (options.limit is not None and options.limit < 1):
        raise CodecError(f"size {options.size}, limit {options.limit}: size is at least 32, limit at least 1")
    paths = find_photos(options.images)
    if options.limit is not None and options.limit < len(paths):
        paths = [paths[index * len(paths) // options.limit] for index in range(options.limit)]
    images = [square_view(read_photo(path), options.size) for path in paths]
    names = options.codec or ["gnl-low"]
    baselines = [f"jpeg:{quality}" for quality in JPEG_QUALITIES] + [f"webp:{quality}" for quality in WEBP_QUALITIES]
    lpips = PerceptualDistance(options.lpips) if options.lpips else None
    rows = []
    for name in [*names, *baselines]:
        rows.append(measure_codec(load_codec(name, "cpu"), images, lpips))
        print(_table(rows[-1:]).splitlines()[-1] if len(rows) > 1 else _table(rows), flush=True)
    for row in rows[: len(names)] if options.record else ():
        if row.codec not in GENERATIVE_CODEC_IDS:
            raise CodecError(f"--record: {row.codec} has no record, only {', '.join(GENERATIVE_CODEC_IDS)} have one")
        record_figures(WEIGHTS_DIR / f"{row.codec}.json", row, len(images), options.size)
    comparison = compare(rows, names)
    for one in comparison:
        print(_sentence(one))
    speeds = []
    if not options.no_speed:
        speeds = [measure_speed(name, images[:_SPEED_IMAGES], threads) for name in names for threads in (1, 2)]
        for one in speeds:
            print(
                f"{one.codec}, {one.threads} threads: encode {one.encode_per_s:.1f}/s, "
                f"decode {one.decode_per_s:.1f}/s, in batches of 8 {one.decode_batch_per_s:.1f}/s"
            )
    if options.out:
        document = {
            "images": {"count": len(images), "size_px": options.size},
            "rows": [asdict(row) for row in rows],
            "at_equal_bpp": comparison,
            "speed": [asdict(one) for one in speeds],
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
