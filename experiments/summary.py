"""A run's result as text for a terminal: what was predicted beside what the packets did."""

from __future__ import annotations

from typing import Any

from .text_table import aligned

_MBIT = 1e6


def render(result: dict[str, Any], out: str) -> str:
    """At most 100 columns, except for sentences; every figure stands in `result`."""
    parts = [_links(result), _gains(result), _images(result), _verdict(result), f"report: {out}/report.html"]
    return "\n\n".join(part for part in parts if part)


def _links(result: dict[str, Any]) -> str:
    predicted, measured = (result[side]["wire"]["flows_bps"] for side in ("analytic", "measured"))
    links = result["run"]["scenario"]["links"]
    rows = [["link (wire, Mbit/s)", "capacity", "predicted", "measured", "used", "error"]]
    for name, flow_bps in predicted.items():
        capacity = _capacity_mbit(links[name], result, name)
        rows.append(
            [
                name,
                f"{capacity:g}",
                _mbit(flow_bps),
                _mbit(measured[name]),
                f"{measured[name] / _MBIT / capacity:.1%}",
                _percent(measured[name], flow_bps),
            ]
        )
    return aligned(rows)


def _capacity_mbit(link: dict[str, Any], result: dict[str, Any], name: str) -> float:
    """Capacity towards the sink: the plan's paths tell which way a link is crossed."""
    a, b = name.split("-")
    forward = any((a, b) in zip(path, path[1:]) for path in result["plan"]["paths"])
    return link["bw_mbit"] if forward or link["bw_back_mbit"] is None else link["bw_back_mbit"]


def _gains(result: dict[str, Any]) -> str:
    rows = [["", "", "predicted", "measured", "error", "95% interval"]]
    for level in ("wire", "payload"):
        predicted, measured = result["analytic"][level], result["measured"][level]
        intervals = result["measured"]["ci95"] or {}
        intervals = intervals if level == "wire" else intervals.get(level, {})
        for key, label, unit in (
            ("max_flow_bps", "max-flow f'_sd (Mbit/s)", _MBIT),
            ("y_g_bps", "divergence y_g (Mbit/s)", _MBIT),
            ("g_flow", "G_flow (Eq. 3)", 1),
            ("delivery_gain", "delivery gain", 1),
            ("contents_per_s", "contents/s into d", 1),
        ):
            if level == "payload" and key == "contents_per_s":
                continue
            rows.append(
                [
                    level,
                    label,
                    _figure(predicted[key], unit),
                    _figure(measured[key], unit),
                    _percent(measured[key], predicted[key]),
                    _interval(intervals.get(key), unit),
                ]
            )
    return aligned(rows, left=2)


def _images(result: dict[str, Any]) -> str:
    images, codec, quality = result["images"], result["codec"], result["quality"]
    lines = [
        "images: " + ", ".join(f"{images[key]} {key}" for key in images),
        f"codec {codec['name']} on {codec['device'] or 'no device'}: {codec['bpp_mean']:.3f} bpp, prompts of "
        f"{codec['prompt_bytes_mean']:.0f} bytes for contents of {codec['content_bytes_mean']:.0f}"
        + (
            f", R_g = {codec['generation_rate_images_per_s']:.1f} images/s"
            if codec["generation_rate_images_per_s"]
            else ""
        ),
    ]
    if codec.get("pixel_swapping"):
        swapped = codec["pixel_swapping"]
        lines.append(
            f"{swapped['gamma_mean']:.2%} of the pixels swapped: prompts of {swapped['prompt_bytes_coded_mean']:.0f} "
            f"bytes with them coded, {swapped['prompt_bytes_raw_mean']:.0f} raw as in Eq. 5, "
            f"{swapped['inner_bpp_mean']:.3f} bpp without them"
        )
    if quality.get("psnr_db") is not None:
        lines.append(
            f"quality of {quality['images']} images by g: PSNR {quality['psnr_db']:.2f} dB, "
            f"MSE {quality['mse_normalised']:.5f} of the colour-inverted image's"
        )
    lines += [f"skipped {row['name']}: {row['reason']}" for row in result["skipped_images"]]
    if result["plan"]["binds"]:
        lines.append(
            f"lambda* = {result['plan']['lambda_per_s']:.3f} prompts/s, "
            f"held down by {', '.join(result['plan']['binds'])}"
        )
    lines += [text for text in (result["plan"]["sentence"], *result["plan"]["notes"]) if text]
    return "\n".join(lines)


def _verdict(result: dict[str, Any]) -> str:
    if result["valid"]:
        lossy = any(link["loss_percent"] for link in result["run"]["scenario"]["links"].values())
        lost = "nothing lost but what links were to lose" if lossy else "nothing lost"
        return f"valid: links calibrated, {lost}, the machine kept up"
    return "NOT VALID:\n" + "\n".join(f"  - {reason}" for reason in result["reasons"])


def _mbit(bps: float) -> str:
    return f"{bps / _MBIT:.4f}"


def _figure(value: float | None, unit: float) -> str:
    return "-" if value is None else f"{value / unit:.4f}"


def _percent(measured: float | None, predicted: float | None) -> str:
    return "-" if measured is None or not predicted else f"{measured / predicted - 1:+.2%}"


def _interval(interval: list[float] | None, unit: float) -> str:
    return "" if not interval else f"{interval[0] / unit:.4f} .. {interval[1] / unit:.4f}"
