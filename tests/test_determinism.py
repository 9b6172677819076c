"""Every codec, decoded otherwise than it was encoded: other threads, batches, process and device.

Entropy-decoded latents must be the same to the bit wherever they are decoded. Pixels on one kind of device are the same
up to the order of sums in floating point, which may round a pixel to the next of 255 steps.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gnl.node_apps.codecs.entropy import import_entropy_models
from gnl.node_apps.codecs.hific_checkpoint import convert
from gnl.node_apps.codecs.prompt_file import pack_file, parse_file
from gnl.node_apps.codecs.registry import GENERATIVE_CODEC_IDS, load_codec
from gnl.topologies.errors import BitstreamError
from small_codec import load_small, scene, write_small
from test_hific import NARROW, checkpoint_of, random_state

IMAGES = [scene(50, 60, seed) for seed in range(8)]
FEW = 2  # of them with two threads, which wait long for each other where other work runs
# As the registry names them, save the small ones; {zoo}, {hific} and {small} are files that a fixture makes.
NAMES = {
    "small of one rate": "small-one:{small}",
    "small of any rate": "small-any:{small}",
    **{name: name for name in GENERATIVE_CODEC_IDS},
    "hific": "hific-low:{hific}",
    "compressai": "compressai:mbt2018-mean:1:{zoo}",
    "jpeg": "jpeg:30",
    "webp": "webp:30",
    "stub": "stub:500",
    "pixels swapped in jpeg": "ps:0.1:jpeg:30",
    "pixels swapped in one rate": "ps:0.1:gnl-low",
    "pixels swapped in any rate": "ps-raw:0.05:gnl-scalable",
    "pixels swapped in hific": "ps:0.1:hific-low:{hific}",
}


def load(name, device="cpu", threads=None):
    family, _, path = name.partition(":")
    if family in ("small-one", "small-any"):
        return load_small(Path(path), family == "small-any", device, threads)
    return load_codec(name, device, threads)


def make_zoo_checkpoint(path):
    """CompressAI's mbt2018-mean with random weights, large enough at the end of g_a for pictures to differ."""
    import_entropy_models()
    from compressai.zoo import image

    torch.manual_seed(1)
    network = image.model_architectures["mbt2018-mean"](*image.cfgs["mbt2018-mean"][1])
    with torch.no_grad():
        network.g_a[-1].weight.mul_(30)
    network.update()
    torch.save(network.state_dict(), path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    write_small(folder)
    convert(checkpoint_of(random_state(**NARROW), folder / "port.pt"), "hific-low", folder / "low.safetensors")
    make_zoo_checkpoint(folder / "zoo.pth")
    return {"small": folder / "small.safetensors", "hific": folder / "low.safetensors", "zoo": folder / "zoo.pth"}


@pytest.fixture(scope="module")
def names(files):
    return {family: name.format(**files) for family, name in NAMES.items()}


@pytest.fixture(scope="module")
def encoded(names):
    """Each codec with one thread, its prompts, and what it makes of them one by one."""
    torch.set_num_threads(1)
    found = {}
    for family, name in names.items():
        codec = load(name, "cpu", 1)
        prompts = [codec.encode(image) for image in IMAGES]
        found[family] = codec, prompts, [codec.decode(prompt) for prompt in prompts]
    return found


EXACT = ("jpeg", "webp", "stub", "pixels swapped in jpeg")


def require_alike(found, wanted, family):
    """Exactly alike where no network draws the picture, otherwise to one of 255 steps, and that seldom."""
    for one, other in zip(found, wanted, strict=True):
        difference = np.abs(one.astype(int) - other)
        assert difference.max() <= (family not in EXACT) and np.mean(difference > 0) < 0.01


def latents_of(codec, prompts):
    """Entropy-decoded latents of each prompt; CompressAI's models have them on the way to g_s. None without latents."""
    if hasattr(codec, "latents"):
        return list(codec.latents(prompts))
    if not codec.facts.name.startswith("compressai"):
        return None
    found = []
    g_s = codec._placed_model().g_s
    hook = g_s.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0][0].cpu().numpy()))
    for prompt in prompts:
        codec.decode(prompt)
    hook.remove()
    return found


@pytest.fixture(params=NAMES)
def case(request, encoded):
    torch.set_num_threads(1)
    yield request.param, *encoded[request.param]
    torch.set_num_threads(1)


def test_pixels_repeat_themselves(case):
    family, codec, prompts, shown = case
    assert [one.shape for one in shown] == [image.shape for image in IMAGES]
    assert all(np.array_equal(codec.decode(prompt), one) for prompt, one in zip(prompts, shown))
    assert family == "stub" or len({one.tobytes() for one in shown}) == len(IMAGES)


def test_threads_and_batch_change_no_pixel(case):
    family, codec, prompts, shown = case
    require_alike(codec.decode_batch(prompts), shown, family)
    torch.set_num_threads(2)
    require_alike([codec.decode(prompt) for prompt in prompts[:FEW]], shown[:FEW], family)


@pytest.mark.parametrize("case", [name for name in NAMES if "pixels" not in name and name not in EXACT], indirect=True)
def test_threads_and_batch_change_no_latent(case):
    _, codec, prompts, _ = case
    together = latents_of(codec, prompts)
    torch.set_num_threads(2)
    for prompt, wanted in zip(prompts[:FEW], together):
        assert np.array_equal(latents_of(codec, [prompt])[0], wanted)


def child(folder):
    """The fresh process: decodes what lies in `folder`, and leaves there what it sees."""
    torch.set_num_threads(2)
    for family, name in json.loads((folder / "names.json").read_text()).items():
        codec = load(name, "cpu", 2)
        prompts = [parse_file((folder / f"{family}.{number}").read_bytes()) for number in range(FEW)]
        latents = latents_of(codec, prompts)
        shown = [codec.decode(prompt) for prompt in prompts]
        np.savez(folder / f"{family}.npz", pixels=shown, **({} if latents is None else {"latents": latents}))


@pytest.fixture(scope="module")
def elsewhere(encoded, names, tmp_path_factory):
    """Where a fresh process with two threads has left what it makes of every codec's prompts."""
    folder = tmp_path_factory.mktemp("prompts")
    (folder / "names.json").write_text(json.dumps(names))
    for family, (_, prompts, _) in encoded.items():
        for number, prompt in enumerate(prompts[:FEW]):
            (folder / f"{family}.{number}").write_bytes(pack_file(prompt))
    code = "import sys, pathlib, test_determinism as t; t.child(pathlib.Path(sys.argv[1]))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("family", NAMES)
def test_a_fresh_process_decodes_the_same(encoded, elsewhere, family):
    codec, prompts, shown = encoded[family]
    with np.load(elsewhere / f"{family}.npz") as there:
        require_alike(there["pixels"], shown[:FEW], family)
        latents = latents_of(codec, prompts[:FEW])
        assert ("latents" in there) == (latents is not None)
        assert latents is None or np.array_equal(there["latents"], latents)


def test_other_weights_of_the_same_codec_are_refused_with_the_reason(case):
    _, codec, prompts, _ = case
    other = replace(prompts[0], weights_id=prompts[0].weights_id ^ 1)
    with pytest.raises(BitstreamError, match=f"{other.weights_id:08x}.*{prompts[0].weights_id:08x}.*same weights"):
        codec.decode(other)


def test_weights_of_another_training_have_another_id(files, encoded, tmp_path):
    other = load_small(write_small(tmp_path, seed=4), scalable=False)
    with pytest.raises(BitstreamError, match="install the same weights at both ends"):
        other.decode(encoded["small of one rate"][1][0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", NAMES)
def test_a_gpu_decodes_the_same_latents_and_nearly_the_same_pixels(encoded, names, family):
    """What was encoded on either; a codec that promises nothing across devices decodes what its own device encoded."""
    codec, prompts, shown = encoded[family]
    other = load(names[family], "cuda")
    made = [other.encode(image) for image in IMAGES]
    require_alike(other.decode_batch(made), [other.decode(prompt) for prompt in made], family)
    if codec.facts.deterministic_on == "the device that encoded":
        return
    for several in (prompts, made):
        wanted = latents_of(codec, several)
        assert wanted is None or np.array_equal(latents_of(other, several), wanted)
    for there, here in zip(other.decode_batch(prompts), shown):
        assert np.abs(there.astype(int) - here).mean() < 1
