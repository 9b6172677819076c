"""Weights of `hific-low`, `hific-medium` and `hific-high` from a checkpoint of the PyTorch port: `gnl convert`.

    torch.save({"model_state_dict": {"Encoder.conv_block1.1.weight": ..., ...},
                "args": {"normalize_input_image": bool, "likelihood_type": "gaussian" or "logistic", ...}, ...})

The result is a safetensors file of E, G and h_a as they are, h_s in integers, and the frequency tables of y and z, so
that none of what both ends must agree on is ever computed again; and a .json beside it that says where it came from.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Mapping

import safetensors
import torch
from gnl.node_apps.codecs.checkpoints import holds_objects, load_plain, reason_of
from gnl.node_apps.codecs.entropy import SYMBOL_LIMIT, import_entropy_models
from gnl.node_apps.codecs.hific_networks import PARTS, FactorizedDensity, HificShape, parameter_shapes
from gnl.node_apps.codecs.hific_pinned import ACTIVATION_BITS, PinnedSynthesis, quantise_synthesis
from gnl.node_apps.codecs.weights_file import replaced_together, write_tensors
from gnl.topologies.errors import CodecError, RunError
from torch import Tensor

LAYOUT = "gnl-hific-1"
PINNED_PARTS = ("Hyperprior.synthesis_mu", "Hyperprior.synthesis_std")
STORED_PARTS = ("Encoder", "Generator", "Hyperprior.analysis_net", *PINNED_PARTS)
TARGET_BPP = {"hific-low": 0.14, "hific-medium": 0.30, "hific-high": 0.45}
SCALE_MIN, SCALE_MAX, SCALE_LEVELS = 0.11, 256.0, 64
_DENSITY = "Hyperprior.hyperlatent_likelihood"
_LIKELIHOODS = {"gaussian": torch.special.ndtr, "logistic": torch.sigmoid}
_ARGUMENTS = {"normalize_input_image": (False, True), "likelihood_type": tuple(_LIKELIHOODS)}
_LEAST_PROBABILITY = 2.0**-16
_MOST_LETTERS = 200


@dataclass(frozen=True)
class Checkpoint:
    """What coding needs of a checkpoint: parameters by their published names, and two of its settings."""

    shape: HificShape
    tensors: dict[str, Tensor]
    normalised: bool
    likelihood: str

    def part(self, prefix: str) -> torch.nn.Module:
        """One of `hific_networks.PARTS` with its weights."""
        with torch.device("meta"):
            network = PARTS[prefix](self.shape)
        network.load_state_dict(part_tensors(self.tensors, prefix), assign=True)
        return network.eval().requires_grad_(False)


def convert(checkpoint: Path, name: str, out: Path) -> dict:
    """Write weights that `NAME:OUT` loads, and OUT's .json, which is returned.

    Raises CodecError for a name other than the three, an `out` that does not end in .safetensors, and a checkpoint
    that cannot be read or is of another architecture; RunError where `out` cannot be written.
    """
    if name not in TARGET_BPP:
        raise CodecError(f"codec {name!r} is not made from a checkpoint: give one of {', '.join(TARGET_BPP)}")
    if out.suffix != ".safetensors":
        raise CodecError(f"{out}: give a file name that ends in .safetensors")
    found = read_checkpoint(checkpoint)
    tensors = {key: value for key, value in found.tensors.items() if key.startswith(STORED_PARTS)}
    for prefix in PINNED_PARTS:
        layers = quantise_synthesis(found.part(prefix))
        PinnedSynthesis(layers)
        for number, (weight, bias) in enumerate(layers, 1):
            tensors |= {f"{prefix}.conv{number}.weight": weight, f"{prefix}.conv{number}.bias": bias}
    tensors |= _z_tables(found.part(_DENSITY)) | _y_tables(found.likelihood)
    metadata = {"layout": LAYOUT, "codec": name, "normalised": json.dumps(found.normalised)}
    metadata["shape"] = json.dumps(asdict(found.shape))
    try:
        with replaced_together(out) as (weights, sidecar):
            write_tensors({key: value.contiguous() for key, value in tensors.items()}, weights, metadata)
            record = _record(found, checkpoint, name, weights)
            sidecar.write_text(json.dumps(record, indent=1) + "\n")
    except (OSError, safetensors.SafetensorError) as error:
        raise RunError(f"{out} cannot be written ({error}): give a folder with room that you may write to") from error
    return record


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of the port; nothing of its pickle is run.

    Raises CodecError where it cannot be read, or differs from HiFiC's architecture in a name or a shape.
    """
    document = _load(path)
    state, arguments = (document.get(key) for key in ("model_state_dict", "args"))
    if not isinstance(state, Mapping) or not isinstance(arguments, Mapping):
        raise CodecError(
            f"{path} has {_shortened(', '.join(map(str, document))) or 'nothing'}: a checkpoint of the PyTorch port of "
            "HiFiC has model_state_dict and args; give the file that its train.py saved"
        )
    for key, accepted in _ARGUMENTS.items():
        value = arguments.get(key)
        if not isinstance(value, (bool, str)) or value not in accepted:
            raise CodecError(f"{path}: args.{key} is {_shortened(repr(value))}: models with one of {accepted} are read")
    state = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    shape = _shape_of(path, state)
    wanted = parameter_shapes(shape)
    unknown = [name for name in state if name.startswith(("Encoder.", "Generator.")) and name not in wanted]
    differing = [name for name in wanted if name not in state or tuple(state[name].shape) != wanted[name]]
    if unknown or differing:
        name = (unknown + differing)[0]
        raise CodecError(
            f"{path} is not of HiFiC's architecture: {name} is {_shape_text(state.get(name))}, wanted is "
            f"{wanted.get(name, 'none')} ({len(unknown) + len(differing)} such); mixtures, sampled noise and instance "
            "norm are not supported"
        )
    tensors = {name: state[name].detach().float() for name in wanted}
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise CodecError(f"{path}: {name} has values that are not finite: download it again")
    return Checkpoint(shape, tensors, arguments["normalize_input_image"], arguments["likelihood_type"])


def part_tensors(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of one part, without its prefix."""
    start = prefix + "."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def _load(path: Path) -> Mapping:
    try:
        document = load_plain(path)  # two thirds of it are the optimisers' state
    except OSError as error:
        raise CodecError(f"checkpoint {path}: {error.strerror or error}; give a file that you can read") from error
    except Exception as error:  # torch reports damaged files with many kinds
        if not holds_objects(error):
            raise CodecError(f"checkpoint {path} does not load ({reason_of(error)}): download it again") from error
        raise CodecError(
            f"checkpoint {path} holds Python objects besides tensors and plain values, which could run code when they "
            "load. If you trust it, write a plain copy: python -c \"import torch; "
            f"c = torch.load({str(path)!r}, map_location='cpu', weights_only=False); a = c['args']; "
            f"torch.save({{'model_state_dict': dict(c['model_state_dict']), 'args': {{k: a[k] for k in "
            f"{tuple(_ARGUMENTS)}}}}}, 'plain.pt')\", and convert plain.pt"
        ) from error
    if not isinstance(document, Mapping):
        raise CodecError(f"{path} holds a {type(document).__name__}: give a checkpoint that the port's train.py saved")
    return document


def _shape_of(path: Path, state: Mapping[str, Tensor]) -> HificShape:
    """The widths that the weights have; whether all of them fit together is for the caller to see."""
    try:
        channels = tuple(state[f"Encoder.conv_block{number}.1.weight"].shape[0] for number in range(1, 6))
        y_channels = state["Encoder.conv_block_out.1.weight"].shape[0]
        z_channels = state["Hyperprior.analysis_net.conv1.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise CodecError(f"{path} has no usable {error}: give a checkpoint of the PyTorch port of HiFiC") from error
    blocks = len({name.split(".")[1] for name in state if name.startswith("Generator.resblock_")})
    return HificShape(channels, y_channels, z_channels, blocks)


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else text[:_MOST_LETTERS] + "..."


def _shape_text(value: Tensor | None) -> str:
    return "missing" if value is None else str(tuple(value.shape))


def _z_tables(density: FactorizedDensity) -> dict[str, Tensor]:
    """Tables of z, a channel each. z_hat is a whole number, without the medians: as the networks were trained."""
    return _tables("z", density.double().cumulative(_edges()))


def _y_tables(likelihood: str) -> dict[str, Tensor]:
    """Tables of y - mu, one for each scale, and the largest sigma (in units of 2^-10) that each of them but the last
    stands for."""
    ends = torch.tensor([SCALE_MIN, SCALE_MAX], dtype=torch.float64).log()
    scales = torch.linspace(*ends.tolist(), SCALE_LEVELS, dtype=torch.float64).exp()
    thresholds = torch.floor(scales[:-1] * 2**ACTIVATION_BITS).to(torch.int32)
    return _tables("y", _LIKELIHOODS[likelihood](_edges() / scales[:, None])) | {"y.thresholds": thresholds}


def _edges() -> Tensor:
    return torch.arange(-SYMBOL_LIMIT, SYMBOL_LIMIT + 2, dtype=torch.float64) - 0.5


def _tables(prefix: str, cumulative: Tensor) -> dict[str, Tensor]:
    """Frequency tables from P(x < edge), (T, edges): symbols beyond the limit are clipped to it, and rare ones at the
    ends of a table are left to the escape."""
    import_entropy_models()
    from compressai.entropy_models.entropy_models import pmf_to_quantized_cdf

    cumulative[:, 0], cumulative[:, -1] = 0.0, 1.0
    masses = cumulative.diff(dim=1)
    lengths, offsets, rows = [], [], []
    for mass in masses:
        common = torch.nonzero(mass >= _LEAST_PROBABILITY).flatten()
        first, last = int(common[0]), int(common[-1])
        kept = mass[first : last + 1]
        rows.append(pmf_to_quantized_cdf(torch.cat((kept, (1 - kept.sum()).clamp_min(0)[None]))))
        lengths.append(len(rows[-1]))
        offsets.append(first - SYMBOL_LIMIT)
    cdf = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(torch.int32)
    return {
        f"{prefix}.cdf": cdf,
        f"{prefix}.lengths": torch.tensor(lengths, dtype=torch.int32),
        f"{prefix}.offsets": torch.tensor(offsets, dtype=torch.int32),
    }


def _record(found: Checkpoint, checkpoint: Path, name: str, weights: Path) -> dict:
    return {
        "codec": name,
        "layout": LAYOUT,
        "sha256": file_sha256(weights),
        "size_bytes": weights.stat().st_size,
        "operating_points_bpp": [TARGET_BPP[name]],
        "parameters": sum(value.numel() for value in found.tensors.values()),
        "shape": asdict(found.shape),
        "normalised": found.normalised,
        "likelihood": found.likelihood,
        "checkpoint": {"name": checkpoint.name, "sha256": file_sha256(checkpoint)},
        "versions": {
            "torch": torch.__version__,
            "safetensors": safetensors.__version__,
            "python": platform.python_version(),
        },
    }


def file_sha256(path: Path) -> str:
    """SHA-256 of a file of any size."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
