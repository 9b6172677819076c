"""What the codec benchmark found, as tables for a terminal."""

from __future__ import annotations

import math
from typing import Optional

from .codec_speed import DECODE_TARGET, ENCODE_TARGET, GPU_DECODE_TARGET
from .cpu_load import BUSY_SHARE
from .equal_rate import EQUAL, SCALABLE_TARGET
from .frechet import FEATURES, FRECHET
from .text_table import aligned

_COLUMNS = (("bpp", "bpp", 3), ("lpips", "LPIPS", 4), ("psnr_db", "PSNR dB", 2), ("ms_ssim", "MS-SSIM", 4))


def render_view(found: dict) -> str:
    """All that is said of one view, from the document of `codec_benchmark.evaluate`."""
    parts = [f"== {found['view']}: {found['photographs']} photographs ==", _rates(found), _compared(found)]
    if found["image_by_image"]:
        parts.append(_matched(found["image_by_image"]))
    if found["scalable"]:
        parts.append(_scalable(found["scalable"]))
    return "\n\n".join(parts) + "\n"


def _rates(found: dict) -> str:
    table = [["mean, +-95%, (sd)", *(title for _, title, _ in _COLUMNS), *([FRECHET] if found["frechet"] else [])]]
    for row in found["rows"]:
        cells = [_spread(row[key], digits) for key, _, digits in _COLUMNS]
        if found["frechet"]:
            cells.append(_plus_minus(row[FRECHET], row[FRECHET + "_ci95"]))
        table.append([row["codec"], *cells])
    lines = [aligned(table)]
    if found["frechet"]:
        n = found["frechet"]["n"]
        rank = "" if n > FEATURES else f", no more than its {FEATURES} values: the covariances are singular"
        lines.append(f"Frechet distance of n = {n} tiles{rank}; compare at the same n only")
    lines += [_headers(row) for row in found["rows"] if row["bpp_without_header"]][:1]
    return "\n".join(lines)


def _headers(row: dict) -> str:
    header = row["bpp"]["mean"] - row["bpp_without_header"]["mean"]
    return f"of a JPEG's rate, {header:.3f} bpp are its headers and tables (at {row['codec']})"


def _compared(found: dict) -> str:
    titles = {"lpips": "LPIPS", FRECHET: "Frechet"}
    table = [["codec", "bpp", "against", "at", "measure", "codec's", "other's", "ratio [95%]", "target", ""]]
    for metric, title in titles.items():
        for one in (one for one in found["at_equal_bpp"] if one["metric"] == metric):
            table.append(
                [*_pair(one), title, f"{one['value']:.4g}", f"{one['baseline_value']:.4g}", _ratio(one)]
                + [f"<= {one['target']:.2f}", one["verdict"]]
            )
    note = "open: the baseline has no point at so few bits, and with its least (more) it is not beaten by as much"
    lines = ["At equal bpp, the baselines' curves interpolated in log bpp:", *([aligned(table)] if table[1:] else [])]
    return "\n".join([*lines, *([note] if any(row[-1] == "open" for row in table) else []), *_distortion(found)])


def _distortion(found: dict) -> list[str]:
    titles = {"psnr_db": "PSNR dB", "ms_ssim": "MS-SSIM"}
    by_pair: dict[tuple[str, ...], dict[str, str]] = {}
    for one in found["at_equal_bpp"]:
        if one["metric"] in titles:
            values = f"{one['value']:.4g} and {one['baseline_value']:.4g}"
            by_pair.setdefault(_pair(one), {})[one["metric"]] = values
    if not by_pair:
        return []
    head = ["codec", "bpp", "against", "at", *(f"{title} of both" for title in titles.values())]
    return [aligned([head, *([*pair, *(row.get(metric, "") for metric in titles)] for pair, row in by_pair.items())])]


def _pair(one: dict) -> tuple[str, ...]:
    where = EQUAL if one["where"] == EQUAL else f"{one['where']}, {one['baseline_bpp']:.3f}"
    return one["codec"], f"{one['bpp']:.3f}", one["baseline"], where


def _matched(found: list[dict]) -> str:
    table = [["codec", "bpp", "against", "its bpp", "given more bits", "LPIPS", "other's", "ratio [95%]", "better on"]]
    for one in found:
        table.append(
            [one["codec"], f"{one['bpp']:.3f}", one["baseline"], f"{one['baseline_bpp']:.3f}"]
            + [f"{100 * one['more_bits']:.0f}%", f"{one['lpips']:.4f}", f"{one['baseline_lpips']:.4f}"]
            + [_ratio(one), f"{100 * one['better']:.0f}%"]
        )
    head = "Photograph by photograph, the baseline with at most the codec's bits, or at its lowest quality:"
    return f"{head}\n{aligned(table)}"


def _scalable(found: list[dict]) -> str:
    table = [["codec", "bpp", "dedicated", "its bpp", "LPIPS", "its LPIPS", "ratio [95%]", "target", ""]]
    for one in found:
        table.append(
            [one["codec"], f"{one['bpp']:.3f}", one["dedicated"], f"{one['dedicated_bpp']:.3f}"]
            + [f"{one['lpips']:.4f}", f"{one['dedicated_lpips']:.4f}", _ratio(one)]
            + [f"<= {SCALABLE_TARGET}", one["verdict"]]
        )
    return f"One codec for all rates against dedicated ones:\n{aligned(table)}"


def render_speeds(found: list[dict]) -> str:
    """A line a codec and setting."""
    table = [["codec", "on", "encode/s", "decode/s", "batch", "decode/s batched", "of it latents", "others' CPU", ""]]
    for one in found:
        where = one["device"] if one["threads"] is None else f"{one['device']}, {one['threads']} threads"
        share = "" if one["latents_share"] is None else f"{100 * one['latents_share']:.0f}%"
        name = one["codec"] if one["bpp"] is None else f"{one['codec']}@{one['bpp']:g}"
        table.append(
            [name, where, f"{one['encode_per_s']:.1f}", f"{one['decode_per_s']:.1f}", str(one["batch"])]
            + [f"{one['decode_batch_per_s']:.1f}", share, f"{100 * one['others_share']:.0f}%", one["verdict"]]
        )
    note = (
        f"targets at 256 x 256: decode {DECODE_TARGET:g}/s and encode {ENCODE_TARGET:g}/s one by one on a CPU, "
        f"decode {GPU_DECODE_TARGET:g}/s in batches on a GPU"
    )
    if any(one["others_share"] > BUSY_SHARE for one in found):
        note += f"\nother programs took more than {100 * BUSY_SHARE:.0f}% of the machine: end them and time again"
    return f"Speed:\n{aligned(table, 2)}\n{note}"


def _spread(figure: Optional[dict], digits: int) -> str:
    if figure is None:
        return ""
    if math.isnan(figure["sd"]):
        return f"{figure['mean']:.{digits}f}"
    half = (figure["high"] - figure["low"]) / 2
    return f"{figure['mean']:.{digits}f} +-{half:.{digits}f} ({figure['sd']:.{digits}f})"


def _plus_minus(value: float, ci95: Optional[tuple[float, float]]) -> str:
    known = ci95 is not None and math.isfinite(ci95[0])
    return f"{value:.4g}" + (f" +-{(ci95[1] - ci95[0]) / 2:.2g}" if known else "")


def _ratio(one: dict) -> str:
    if one["ratio"] is None:
        return ""
    low, high = one["ci95"]
    return f"{one['ratio']:.3f}" + (f" [{low:.3f}, {high:.3f}]" if math.isfinite(low) else "")
