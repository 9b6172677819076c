"""A trained codec as a safetensors file and its record: what a decoder loads, without pickle.

Transforms are stored in half precision and computed from exactly those values at both ends; the hyper-synthesis is
stored in integers, and the frequency tables as they are, so that neither is ever recomputed.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict
from pathlib import Path

import safetensors
import torch
from gnl.node_apps.codecs.layout import LAYOUT, TRANSFORMS
from gnl.node_apps.codecs.pinned import quantise_layers
from gnl.node_apps.codecs.transform_coder import TransformCoder
from safetensors.torch import save_file


def write_codec(model: TransformCoder, path: Path, record: dict) -> str:
    """Write `path` (safetensors) and its record beside it as .json; returns the file's SHA-256."""
    model = model.folded()
    tensors = {}
    for part in TRANSFORMS:
        for name, value in getattr(model, part).state_dict().items():
            tensors[f"{part}.{name}"] = value.detach().cpu().half().contiguous()
    for number, layer in enumerate(quantise_layers(model.h_s)):
        tensors[f"h_s.{number}.weight"] = torch.from_numpy(layer.weight)
        tensors[f"h_s.{number}.bias"] = torch.from_numpy(layer.bias)
    tensors.update(_tables("z", _z_tables(model)))
    tensors.update(_tables("y", _y_tables(model)))
    new = path.with_suffix(".new")
    save_file(tensors, new, {"layout": LAYOUT, "shape": json.dumps(asdict(model.shape))})
    digest = hashlib.sha256(new.read_bytes()).hexdigest()
    versions = {"torch": torch.__version__, "safetensors": safetensors.__version__, "python": platform.python_version()}
    record = {**record, "layout": LAYOUT, "sha256": digest, "size_bytes": new.stat().st_size, "versions": versions}
    new.chmod(0o644)
    new.replace(path)
    path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    return digest


def _z_tables(model: TransformCoder):
    """Frequency tables of z. The medians are held at 0, so that z_hat is the integer itself."""
    entropy_model = model.z_model
    entropy_model._update_quantiles()
    with torch.no_grad():
        entropy_model.quantiles[:, 0, 1] = 0.0
        entropy_model.quantiles[:, 0, 0].clamp_(max=-1.0)
        entropy_model.quantiles[:, 0, 2].clamp_(min=1.0)
    entropy_model.update(force=True)
    return entropy_model


def _y_tables(model: TransformCoder):
    model.y_model.update()
    return model.y_model


def _tables(prefix: str, entropy_model) -> dict[str, torch.Tensor]:
    return {
        f"{prefix}.cdf": entropy_model.quantized_cdf.cpu().to(torch.int32).contiguous(),
        f"{prefix}.lengths": entropy_model.cdf_length.cpu().to(torch.int32).contiguous(),
        f"{prefix}.offsets": entropy_model.offset.cpu().to(torch.int32).contiguous(),
    }
