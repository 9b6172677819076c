"""A trained codec as a safetensors file and its record, without pickle: what a decoder loads, and trainings start from.

Transforms are stored in eight or sixteen bits and computed from exactly those values at both ends; the hyper-synthesis
is stored in integers, and the frequency tables as they are, so that neither is ever recomputed.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict
from pathlib import Path

import numpy as np
import safetensors
import torch
from gnl.node_apps.codecs import quantiser
from gnl.node_apps.codecs.entropy import FREQUENCY_TOTAL
from gnl.node_apps.codecs.layout import LAYOUT, TRANSFORMS, pack_filters, unpack_filters
from gnl.node_apps.codecs.networks import NetworkShape
from gnl.node_apps.codecs.pinned import ACTIVATION_BITS, WEIGHT_BITS, quantise_layers
from gnl.node_apps.codecs.transform_coder import TransformCoder
from gnl.node_apps.codecs.weights_file import replaced_together, write_tensors
from gnl.topologies.errors import CodecError
from torch import nn


def write_codec(model: TransformCoder, path: Path, record: dict) -> str:
    """Write `path` (safetensors) and its record beside it as .json; returns the file's SHA-256.

    OSError or SafetensorError leave what was there before; CodecError where the weights do not make a codec.
    """
    model = model.folded().cpu()
    tensors = {}
    for part in TRANSFORMS:
        for name, value in getattr(model, part).state_dict().items():
            packed = pack_filters(f"{part}.{name}", value.detach().cpu().numpy())
            tensors.update({key: torch.from_numpy(np.ascontiguousarray(stored)) for key, stored in packed.items()})
    for number, layer in enumerate(quantise_layers(model.h_s)):
        tensors[f"h_s.{number}.weight"] = torch.from_numpy(layer.weight)
        tensors[f"h_s.{number}.bias"] = torch.from_numpy(layer.bias)
    for name, value in model.z_model.named_parameters():  # no decoder needs these: a further training starts from them
        tensors[f"z_model.{name}"] = value.detach().cpu().clone()
    tensors.update(_tables("z", *_bottleneck_tables(model.z_model)))
    tensors.update(_tables("plane0", *_gaussian_tables(model.y_model)))
    tensors.update(_tables("digit", *_digit_tables()))
    tensors["quantiser.order"] = torch.from_numpy(quantiser.class_order())
    tensors["quantiser.cost"] = torch.from_numpy(_class_costs())
    tensors["quantiser.shifts"] = torch.from_numpy(quantiser.centroid_shifts())
    with replaced_together(path) as (weights, sidecar):
        write_tensors(tensors, weights, {"layout": LAYOUT, "shape": json.dumps(asdict(model.shape))})
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        facts = {"layout": LAYOUT, "sha256": digest, "size_bytes": weights.stat().st_size, "versions": _versions()}
        sidecar.write_text(json.dumps({**record, **facts}, indent=1) + "\n")
    return digest


def read_codec(path: Path) -> TransformCoder:
    """The networks that `write_codec` stored, as exact as the file is and with gains of 1, to train them further.

    CodecError if the file is none of this release's.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if metadata.get("layout") != LAYOUT:
            raise CodecError(f"{path}: layout {metadata.get('layout')!r}, this release reads {LAYOUT!r}; train again")
        fields = {name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(metadata["shape"]).items()}
        model = TransformCoder(NetworkShape(**fields))
        for part in TRANSFORMS:
            network = getattr(model, part)
            stored = {name: unpack_filters(f"{part}.{name}", tensors) for name in network.state_dict()}
            network.load_state_dict({name: torch.from_numpy(value) for name, value in stored.items()})
        with torch.no_grad():
            for number, conv in enumerate(module for module in model.h_s if isinstance(module, nn.Conv2d)):
                conv.weight.copy_(tensors[f"h_s.{number}.weight"].double() / 2**WEIGHT_BITS)
                conv.bias.copy_(tensors[f"h_s.{number}.bias"].double() / 2 ** (WEIGHT_BITS + ACTIVATION_BITS))
            for name, value in model.z_model.named_parameters():
                value.copy_(tensors[f"z_model.{name}"])
    except OSError as error:
        raise CodecError(f"{path}: {error.strerror or error}; give weights that gnl train wrote") from error
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CodecError(f"{path}: no weights of this release ({reason}); give some that gnl train wrote") from error
    return model


def write_record(path: Path, record: dict) -> None:
    """Replace the record of the codec at `path` in one move; OSError leaves the former one."""
    new = path.with_suffix(".json.new")
    try:
        new.write_text(json.dumps(record, indent=1) + "\n")
        new.replace(path.with_suffix(".json"))
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _versions() -> dict[str, str]:
    return {"torch": torch.__version__, "safetensors": safetensors.__version__, "python": platform.python_version()}


def _bottleneck_tables(entropy_model) -> tuple[torch.Tensor, ...]:
    """Frequency tables of z. The medians are held at 0, so that z_hat is the integer itself."""
    entropy_model._update_quantiles()
    with torch.no_grad():
        entropy_model.quantiles[:, 0, 1] = 0.0
        entropy_model.quantiles[:, 0, 0].clamp_(max=-1.0)
        entropy_model.quantiles[:, 0, 2].clamp_(min=1.0)
    entropy_model.update(force=True)
    return _compressai_tables(entropy_model)


def _gaussian_tables(entropy_model) -> tuple[torch.Tensor, ...]:
    entropy_model.update()
    return _compressai_tables(entropy_model)


def _compressai_tables(entropy_model) -> tuple[torch.Tensor, ...]:
    return entropy_model.quantized_cdf, entropy_model.cdf_length, entropy_model.offset


def _digit_tables() -> tuple[torch.Tensor, ...]:
    """Frequency tables of -1, 0 and 1 by the scale; the escape, which no digit needs, keeps the least frequency."""
    steps = np.rint(quantiser.digit_probabilities() * (FREQUENCY_TOTAL - 4)).astype(np.int64) + 1
    steps[:, 1] += FREQUENCY_TOTAL - 1 - steps.sum(1)
    cdf = np.pad(steps.cumsum(1), ((0, 0), (1, 1)), constant_values=((0, 0), (0, FREQUENCY_TOTAL)))
    return torch.from_numpy(cdf), torch.full((len(cdf),), cdf.shape[1]), torch.full((len(cdf),), -1)


def _class_costs() -> np.ndarray:
    """Expected bits of each class in `class_order`, in units of 1/256: integers, since both ends cut slices by them."""
    order = quantiser.class_order()
    bits = quantiser.class_bits()[order[:, 0], order[:, 1]]
    return np.maximum(1, np.rint(256 * bits)).astype(np.int32)


def _tables(prefix: str, cdf: torch.Tensor, lengths: torch.Tensor, offsets: torch.Tensor) -> dict[str, torch.Tensor]:
    parts = {"cdf": cdf, "lengths": lengths, "offsets": offsets}
    return {f"{prefix}.{name}": part.cpu().to(torch.int32).contiguous() for name, part in parts.items()}
