"""CompressAI's models with random weights of the right shapes; CompressAI's own decoder is the oracle."""

import numpy as np
import pytest
import torch
from gnl.node_apps.codecs.entropy import import_entropy_models
from gnl.node_apps.codecs.interface import Prompt
from gnl.node_apps.codecs.registry import describe, load_codec
from gnl.node_apps.codecs.zoo import ALLOW_VARIABLE, AUTOREGRESSIVE, QUALITIES, parse_zoo
from gnl.topologies.errors import BitstreamError, CodecError
from safetensors.torch import save_file

IMAGE = np.random.default_rng(0).integers(0, 256, (70, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def zoo():
    torch.set_num_threads(1)
    import_entropy_models()
    import compressai.zoo.image

    return compressai.zoo.image


@pytest.fixture(scope="module")
def checkpoints(zoo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    found = {}
    for model in ("bmshj2018-factorized", "mbt2018-mean"):
        torch.manual_seed(1)
        network = zoo.model_architectures[model](*zoo.cfgs[model][1])
        network.update()
        torch.save(network.state_dict(), folder / f"{model}.pth")
        found[model] = folder / f"{model}.pth"
    return found


@pytest.fixture(scope="module", params=["bmshj2018-factorized", "mbt2018-mean"])
def codec(request, checkpoints):
    return load_codec(f"compressai:{request.param}:1:{checkpoints[request.param]}", "cpu")


def test_a_round_trip_equals_compressais_own(codec, zoo, checkpoints):
    model = codec.facts.name.split(":")[1]
    network = zoo.model_architectures[model](*zoo.cfgs[model][1])
    network.load_state_dict(torch.load(checkpoints[model], weights_only=True))
    network.update(force=True)
    network.eval()
    padded = np.pad(IMAGE, ((0, 58), (0, 14), (0, 0)), mode="edge")
    x = torch.from_numpy(padded.transpose(2, 0, 1)[None].copy()).float() / 255
    with torch.inference_mode():
        coded = network.compress(x)
        wanted = network.decompress(coded["strings"], coded["shape"])["x_hat"][0, :, :70, :50]
    wanted = (wanted * 255 + 0.5).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    prompt = codec.encode(IMAGE)
    assert np.array_equal(codec.decode(prompt), wanted)
    assert prompt.weights_id == int(codec.facts.weights_sha256[:8], 16)
    assert prompt.size_bytes == 5 + 4 * len(coded["strings"]) + sum(len(one[0]) for one in coded["strings"])


def test_damaged_prompts_raise_or_degrade(codec):
    rng = np.random.default_rng(2)
    good = codec.encode(IMAGE).slices[0]
    for round_ in range(40):
        bad = bytearray(good)
        for position in rng.integers(0, len(bad), 5):
            bad[position] = rng.integers(256)
        bad[0:4] = good[0:4]
        if round_ % 4 == 0:
            del bad[rng.integers(0, len(bad)) :]
        try:
            image = codec.decode(Prompt(codec.facts.codec_id, codec.facts.weights_id, (bytes(bad),)))
        except BitstreamError:
            continue
        assert image.shape == IMAGE.shape


@pytest.mark.parametrize("slices", [(), (b"",), (bytes(60),), (b"a", b"b")])
def test_prompts_that_are_none_are_refused(codec, slices):
    with pytest.raises(BitstreamError):
        codec.decode(Prompt(codec.facts.codec_id, codec.facts.weights_id, slices))


def test_safetensors_serve_as_well(checkpoints, tmp_path):
    state = torch.load(checkpoints["bmshj2018-factorized"], weights_only=True)
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "model.safetensors")
    codec = load_codec(f"compressai:bmshj2018-factorized:1:{tmp_path / 'model.safetensors'}", "cpu")
    assert codec.decode(codec.encode(IMAGE)).shape == IMAGE.shape


def test_a_checkpoint_of_another_quality_is_refused(checkpoints):
    with pytest.raises(CodecError, match="does not fit compressai:mbt2018-mean:8"):
        load_codec(f"compressai:mbt2018-mean:8:{checkpoints['mbt2018-mean']}", "cpu")


@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_unreadable_checkpoint_is_named(tmp_path, content, suffix):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(CodecError, match="broken.*does not load"):
        load_codec(f"compressai:mbt2018-mean:1:{path}", "cpu")


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CodecError, match="does not load"):
        load_codec(f"compressai:mbt2018-mean:1:{tmp_path / 'evil.pth'}", "cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("model", AUTOREGRESSIVE)
def test_autoregressive_models_are_refused_unless_insisted_on(model, monkeypatch):
    monkeypatch.delenv(ALLOW_VARIABLE, raising=False)
    with pytest.raises(CodecError, match=f"too slow.*{ALLOW_VARIABLE}=1"):
        describe(f"compressai:{model}:1:x.pth")
    monkeypatch.setenv(ALLOW_VARIABLE, "1")
    assert parse_zoo(f"{model}:1:x.pth").model == model
    monkeypatch.delenv(ALLOW_VARIABLE)
    assert parse_zoo(f"{model}:1:x.pth", allow_autoregressive=True).quality == 1


def test_every_name_is_one_of_compressais(zoo):
    assert {name: len(zoo.cfgs[name]) for name in QUALITIES} == QUALITIES
    assert set(QUALITIES) <= set(zoo.model_architectures)


def test_a_path_with_colons_survives():
    assert str(parse_zoo("mbt2018-mean:3:a:b/c.pth").checkpoint) == "a:b/c.pth"
