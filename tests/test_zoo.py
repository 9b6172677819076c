"""CompressAI's models with random weights of the right shapes; CompressAI's own decoder is the oracle."""

import contextlib
import dataclasses
import functools
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from gnl.experiments.run import require_fast_enough
from gnl.node_apps.codecs import generative, zoo_download
from gnl.node_apps.codecs.entropy import import_entropy_models
from gnl.node_apps.codecs.interface import Prompt
from gnl.node_apps.codecs.registry import describe, load_codec
from gnl.node_apps.codecs.zoo import AUTOREGRESSIVE, QUALITIES, parse_zoo
from gnl.topologies.errors import BitstreamError, CodecError, MachineError
from gnl.topologies.spec import ContentSpec
from safetensors.torch import save_file

IMAGE = np.random.default_rng(0).integers(0, 256, (70, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def zoo():
    """CompressAI's table of models, those of quality 1 with narrow networks."""
    torch.set_num_threads(1)
    import_entropy_models()
    import compressai.zoo.image

    with pytest.MonkeyPatch.context() as patch:
        for model in QUALITIES:
            patch.setitem(compressai.zoo.image.cfgs[model], 1, (16,) if model.startswith("cheng") else (16, 24))
        yield compressai.zoo.image


@pytest.fixture(scope="module")
def checkpoints(zoo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    found = {}
    for model in QUALITIES:
        torch.manual_seed(1)
        network = zoo.model_architectures[model](*zoo.cfgs[model][1])
        with torch.no_grad():
            last = [layer for layer in network.g_a if hasattr(layer, "weight")][-1]
            last.weight.mul_(30)  # or all images would get the same symbols
        if model == "bmshj2018-factorized":
            network.update()  # tables in a checkpoint are made again when it is loaded
        found[model] = folder / f"{model}.pth"
        torch.save(network.state_dict(), found[model])
    return found


@pytest.fixture(scope="module")
def named(checkpoints):
    """The codec's name of a model with its checkpoint."""
    return lambda model: f"compressai:{model}:1:{checkpoints[model]}"


@pytest.fixture(scope="module")
def loaded(named):
    """The codec of a model, loaded once."""
    return functools.cache(lambda model: load_codec(named(model), "cpu"))


@pytest.fixture(scope="module", params=["bmshj2018-factorized", "mbt2018-mean"])
def codec(request, loaded):
    return loaded(request.param)


@pytest.mark.parametrize("model", ["bmshj2018-factorized", "mbt2018-mean", "mbt2018"])
def test_a_round_trip_equals_compressais_own(loaded, zoo, checkpoints, model):
    codec = loaded(model)
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


@pytest.mark.parametrize("name", [*AUTOREGRESSIVE, "mbt2018-mean"])
def test_autoregressive_models_are_refused_for_routers_unless_the_scenario_insists(name, named):
    content = ContentSpec(codec=f"ps:0.1:{named(name)}")
    if name in AUTOREGRESSIVE:
        with pytest.raises(CodecError, match="too slow for a router.*--set content.force_slow_codec=true"):
            require_fast_enough(content)
        content = dataclasses.replace(content, force_slow_codec=True)
    require_fast_enough(content)


def test_every_name_is_one_of_compressais(zoo):
    assert {name: len(zoo.cfgs[name]) for name in QUALITIES} == QUALITIES
    assert set(QUALITIES) <= set(zoo.model_architectures)


def test_a_path_with_colons_survives():
    assert str(parse_zoo("mbt2018-mean:3:a:b/c.pth").checkpoint) == "a:b/c.pth"


@pytest.mark.parametrize("model", QUALITIES)
@pytest.mark.parametrize("size", [(1, 1), (70, 50)])
def test_every_model_decodes_what_it_encoded(loaded, model, size):
    codec = loaded(model)
    image = IMAGE[: size[0], : size[1]]
    prompt = codec.encode(image)
    shown = codec.decode(prompt)
    assert shown.shape == image.shape and shown.dtype == np.uint8
    assert np.array_equal(codec.decode(prompt), shown)
    other = codec.encode(255 - image)
    assert other.slices != prompt.slices


@pytest.mark.parametrize(("model", "count"), [("bmshj2018-hyperprior", 800), ("mbt2018", 40), ("cheng2020-attn", 20)])
def test_many_damaged_prompts_raise_or_degrade(loaded, model, count):
    rng = np.random.default_rng(5)
    codec = loaded(model)
    good = codec.encode(IMAGE[:64, :64]).slices[0]
    outcomes = {"decoded": 0, "refused": 0}
    for number in range(count):
        bad = bytearray(good)
        for position in rng.integers(0 if number % 8 == 0 else 13, len(bad), rng.integers(1, 9)):
            bad[position] = rng.integers(256)
        if number % 16 == 0:
            del bad[rng.integers(0, len(bad)) :]
        bad[0:4] = good[0:4]
        try:
            image = codec.decode(Prompt(codec.facts.codec_id, codec.facts.weights_id, (bytes(bad),)))
            assert image.shape == (64, 50, 3)
            outcomes["decoded"] += 1
        except BitstreamError:
            outcomes["refused"] += 1
    assert outcomes["decoded"] > count // 2 and outcomes["refused"] >= count // 20


def test_a_few_bytes_do_not_ask_for_a_large_picture(loaded):
    codec = loaded("mbt2018-mean")
    good = bytearray(codec.encode(IMAGE[:64, :64]).slices[0])
    good[0:4] = (8192).to_bytes(2, "big") + (4096).to_bytes(2, "big")
    with pytest.raises(BitstreamError, match="4096x8192: too few"):
        codec.decode(Prompt(codec.facts.codec_id, codec.facts.weights_id, (bytes(good),)))


def test_what_costs_next_to_nothing_is_filled_up_to_the_least_that_decodes(loaded, monkeypatch):
    codec = loaded("mbt2018-mean")
    plain = codec.encode(IMAGE)
    monkeypatch.setattr(generative, "LEAST_BITS_PER_PIXEL", 60)
    filled = codec.encode(IMAGE)
    assert filled.size_bytes >= 60 * 70 * 50 / 8 > plain.size_bytes
    assert np.array_equal(codec.decode(filled), codec.decode(Prompt(plain.codec_id, plain.weights_id, filled.slices)))
    with pytest.raises(BitstreamError, match="too few"):
        codec.decode(plain)


# Without a checkpoint: CompressAI's own


@pytest.fixture
def offered(zoo, checkpoints, tmp_path, monkeypatch):
    """A server on this machine that offers mbt2018-mean of quality 1; `offered.change` makes it misbehave."""
    data = checkpoints["mbt2018-mean"].read_bytes()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Offer)
    server.data, server.asked, server.change, server.ended = data, 0, None, threading.Event()
    name = f"mbt2018-mean-1-{hashlib.sha256(data).hexdigest()[:8]}.pth.tar"
    url = f"http://127.0.0.1:{server.server_port}/models/{name}"
    monkeypatch.setitem(zoo.model_urls["mbt2018-mean"]["mse"], 1, url)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.file = tmp_path / "hub" / "checkpoints" / name
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.ended.set()
    server.shutdown()
    server.server_close()


class Offer(BaseHTTPRequestHandler):
    def do_GET(self):
        server, data = self.server, self.server.data
        server.asked += 1
        if server.change == "silent":
            server.ended.wait(10)
            return
        if server.change == "gone":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if server.change == "other":
            data = data[:-1] + bytes([data[-1] ^ 1])
        if server.change == "short":
            data = data[: len(data) // 2]
        if server.change == "slow":
            data = data[:3]
        with contextlib.suppress(OSError):
            for start in range(0, len(data), 1 if server.change == "slow" else len(data)):
                self.wfile.write(data[start : start + (1 if server.change == "slow" else len(data))])
                server.ended.wait(0.1 if server.change == "slow" else 0)

    def log_message(self, *_):
        pass


def test_without_a_checkpoint_compressais_own_is_downloaded_once(offered, loaded, capfd):
    facts = describe("compressai:mbt2018-mean:1")
    said = capfd.readouterr()
    assert f"downloading http://127.0.0.1:{offered.server_port}" in said.err and " MB" in said.err and not said.out
    assert facts.weights_sha256 == hashlib.sha256(offered.data).hexdigest()
    codec = load_codec("compressai:mbt2018-mean:1", "cpu")
    other = loaded("mbt2018-mean")
    assert np.array_equal(codec.decode(codec.encode(IMAGE)), other.decode(other.encode(IMAGE)))
    assert offered.asked == 1 and [path.name for path in offered.file.parent.iterdir()] == [offered.file.name]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("silent", "timed out"),
        ("slow", r"only \d of"),
        ("gone", "404"),
        ("other", "not what its name says"),
        ("short", "ended after"),
    ],
)
def test_a_download_that_fails_says_what_to_do_and_leaves_nothing(offered, monkeypatch, change, reason):
    monkeypatch.setattr(zoo_download, "SILENCE_S", 0.2 if change == "silent" else 20.0)
    monkeypatch.setattr(zoo_download, "WHOLE_S", 0.05 if change == "slow" else 60.0)
    offered.change = change
    with pytest.raises(MachineError, match=f"{reason}.*compressai:mbt2018-mean:1:PATH") as caught:
        describe("compressai:mbt2018-mean:1")
    assert str(caught.value).startswith(f"http://127.0.0.1:{offered.server_port}/models/mbt2018-mean-1-")
    assert not list(offered.file.parent.iterdir())


def test_a_machine_without_that_network_is_told_so(zoo, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(zoo.model_urls["mbt2018-mean"]["mse"], 2, "http://127.0.0.1:9/mbt2018-mean-2-aaaaaaaa.pth.tar")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(MachineError, match="127.0.0.1:9/mbt2018-mean-2.*refused.*put the file there yourself"):
        describe("compressai:mbt2018-mean:2")
