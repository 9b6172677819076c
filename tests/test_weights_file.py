"""Weights files: equal contents are equal bytes, and the format's own reader takes them."""

import json

import torch
from gnl.node_apps.codecs.weights_file import write_tensors
from safetensors import safe_open

TENSORS = {"b": torch.arange(6, dtype=torch.int8).reshape(2, 3), "a": torch.ones(3), "c": torch.zeros(1).half()}
SAID = {"layout": "one", "shape": '{"größe": "4\\n"}', "codec": "gnl-low", "other": "x" * 300}


def test_equal_contents_are_equal_bytes(tmp_path):
    for number in range(12):  # four keys have 24 orders
        said = dict(sorted(SAID.items(), key=lambda one: hash((number, one))))
        write_tensors(TENSORS, tmp_path / str(number), said)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_what_was_written_is_read(tmp_path):
    write_tensors(TENSORS, tmp_path / "w.safetensors", SAID)
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.metadata() == SAID and set(file.keys()) == set(TENSORS)
        for name, value in TENSORS.items():
            assert torch.equal(file.get_tensor(name), value) and file.get_tensor(name).dtype == value.dtype
    data = (tmp_path / "w.safetensors").read_bytes()
    assert list(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]) == sorted(SAID)
