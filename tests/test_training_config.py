"""Configurations of trainings: those that come with gnl, those built on them, and what is refused."""

import pytest
import yaml
from gnl.node_apps.codecs.training_config import FOLDER, TrainingConfig, config_names, read_config, seen
from gnl.topologies.errors import CodecError

BUILT_IN = ["gnl-high", "gnl-low", "gnl-medium", "gnl-scalable"]


def written(tmp_path, text, name="mine.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_those_that_come_with_gnl_are_named_after_their_codecs():
    assert config_names() == BUILT_IN
    assert [read_config(name).name for name in BUILT_IN] == BUILT_IN
    assert [read_config(name).scalable for name in BUILT_IN] == [False, False, False, True]


def test_the_fixed_rates_rise_and_are_judged():
    fixed = [read_config(f"gnl-{rate}") for rate in ("low", "medium", "high")]
    rates = [one.target_bpp for one in fixed]
    assert rates == sorted(rates) and 0.1 < rates[0] < rates[2] < 0.6
    assert all(one.adversarial_weight > 0 for one in fixed)


def test_every_key_is_explained_or_speaks_for_itself():
    lines = (FOLDER / "gnl-scalable.yaml").read_text().splitlines()
    keys = {line.partition(":")[0] for line in lines if not line.startswith("#")}
    assert keys == set(TrainingConfig.__dataclass_fields__)


def test_a_file_holds_only_what_differs_from_the_one_it_is_based_on(tmp_path):
    written(tmp_path, "based_on: gnl-low\nname: base\nsteps: 7\n", "base.yaml")
    found = read_config(written(tmp_path, "based_on: base.yaml\nname: mine\nminutes: 0.5\n"))
    low = read_config("gnl-low")
    assert (found.name, found.steps, found.minutes, found.target_bpp) == ("mine", 7, 0.5, low.target_bpp)
    assert vars(found) == {**vars(low), "name": "mine", "steps": 7, "minutes": 0.5}


def test_a_complete_file_needs_no_base(tmp_path):
    text = (FOLDER / "gnl-scalable.yaml").read_text()
    assert read_config(written(tmp_path, text)) == read_config("gnl-scalable")


WRONG = [
    ("speed: 1", "unknown key 'speed'", "accepted are name, seed"),
    ("minuts: 1", "did you mean minutes"),
    ("1: 1", "unknown key 1"),
    ("name: a/b", "name is 'a/b'", "file name"),
    ("name: 7", "name is 7"),
    ("name: ../x", "name is"),
    ("seed: -1", "seed is -1", "from 0"),
    ("minutes: 0", "minutes is 0", "above 0"),
    ("minutes: -3", "minutes is -3"),
    ("minutes: .inf", "minutes is inf"),
    ("minutes: long", "minutes is 'long'", "a number above 0"),
    ("minutes: true", "minutes is True"),
    ("hyper_steps: -1", "hyper_steps is -1"),
    ("steps: 0", "steps is 0", "from 1"),
    ("steps: 1.5", "steps is 1.5", "whole number"),
    ("threads: 0", "threads is 0", "or null"),
    ("batches: []", r"batches is \[\]", "multiples of 64"),
    ("batches: [[4, 100]]", r"batches is \[\[4, 100\]\]", "multiples of 64"),
    ("batches: [[0, 64]]", "batches is"),
    ("batches: [4, 64]", "batches is"),
    ("batches: [[4, 64, 1]]", "batches is"),
    ("batches: [[4.0, 64]]", "batches is"),
    ("batches: 64", "batches is 64"),
    ("least_side: 32", "least_side is 32", "64 to 900"),
    ("least_side: 1000", "least_side is 1000"),
    ("bfloat16: 1", "bfloat16 is 1", "true or false"),
    ("learning_rate: 0", "learning_rate is 0"),
    ("learning_rate: 6e-4", "learning_rate is '6e-4'", "6.0e-4"),
    ("final_rate: 2", "final_rate is 2", "from 0 to 1"),
    ("warmup_steps: 0", "warmup_steps is 0"),
    ("budget_bpp: [1, 0.03]", r"budget_bpp is \[1, 0.03\]", "low < high"),
    ("budget_bpp: [0.1, 0.1]", "budget_bpp"),
    ("budget_bpp: [0, 1]", "budget_bpp"),
    ("budget_bpp: [0.1, 25]", "budget_bpp"),
    ("budget_bpp: 0.3", "budget_bpp is 0.3", "or null"),
    ("target_bpp: -0.1", "target_bpp is -0.1", "above 0"),
    ("target_bpp: null", "target_bpp is None"),
    ("rate_weight: 0", "rate_weight is 0"),
    ("mse_weight: 0", "mse_weight is 0"),
    ("lpips_weight: -1", "lpips_weight is -1"),
    ("lpips_from: 1.5", "lpips_from is 1.5"),
    ("adversarial_weight: -0.1", "adversarial_weight is -0.1"),
    ("adversarial_from: -1", "adversarial_from is -1"),
    ("adversarial_rate: 0", "adversarial_rate is 0"),
    ("ema_decay: 1", "ema_decay is 1", "below 1"),
    ("checkpoint_minutes: 0", "checkpoint_minutes is 0"),
    ("export_minutes: 0", "export_minutes is 0"),
]


@pytest.mark.parametrize("line, says", [(case[0], case[1:]) for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_wrong_key_is_named_with_its_value_and_what_is_accepted(tmp_path, line, says):
    path = written(tmp_path, f"based_on: gnl-scalable\n{line}\n")
    for words in says:
        with pytest.raises(CodecError, match=f"mine.yaml: .*{words}") as caught:
            read_config(path)
        assert "\n" not in str(caught.value)


def test_every_key_is_checked():
    """Each is refused for a value that none accepts."""
    for key in TrainingConfig.__dataclass_fields__:
        with pytest.raises(CodecError, match=f"^{key} is "):
            TrainingConfig(**{**vars(read_config("gnl-low")), key: {}})


@pytest.mark.parametrize("key", TrainingConfig.__dataclass_fields__)
def test_a_missing_key_is_named_with_the_way_out(tmp_path, key):
    found = yaml.safe_load((FOLDER / "gnl-scalable.yaml").read_text())
    del found[key]
    with pytest.raises(CodecError, match=f"missing keys {key}: .*based_on: gnl-scalable"):
        read_config(written(tmp_path, yaml.safe_dump(found)))


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "NoneType"),
        ("- 1", "list"),
        ("a: [", "no YAML"),
        ("\x00", "no YAML"),
        (f"based_on: gnl-low\nminutes: {'9' * 400}", "minutes is 9"),
        ("based_on: ~nobody-of-this-name/x.yaml", "give a YAML file"),
        ("based_on: 3", "based_on is 3"),
        ("based_on: absent.yaml", "absent.yaml is neither a file nor"),
        ("based_on: mine.yaml", "leads back"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text, says):
    with pytest.raises(CodecError, match=says):
        read_config(written(tmp_path, text))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x81")
    with pytest.raises(CodecError, match="x.yaml: no YAML"):
        read_config(tmp_path / "x.yaml")


@pytest.mark.parametrize("which", ["gnl-lwo", "absent.yaml", ".", "~nobody-of-this-name/x.yaml"])
def test_an_unknown_name_lists_what_there_is(which):
    with pytest.raises(CodecError, match="gnl-high, gnl-low, gnl-medium, gnl-scalable"):
        read_config(which)


def test_steps_take_the_batches_in_turn(tmp_path):
    config = read_config(written(tmp_path, "based_on: gnl-low\nname: x\nbatches: [[5, 64], [3, 128]]\n"))
    assert [config.batch(step) for step in range(3)] == [(5, 64), (3, 128), (5, 64)]
    assert [config.crops_before(step) for step in range(5)] == [0, 5, 8, 13, 16]


def test_what_a_training_has_seen_follows_its_history():
    history = [
        {"from_step": 0, "batches": [[5, 64], [3, 128]]},
        {"from_step": 3, "minutes": 9},
        {"from_step": 4, "batches": [[1, 64], [2, 64], [4, 64]]},
    ]
    batches = [(5, 64), (3, 128), (5, 64), (3, 128), (2, 64), (4, 64), (1, 64)]  # step 4 takes the second of three
    for steps in (7, 5):
        taken = batches[:steps]
        wanted = sum(count for count, _ in taken), sum(count * side**2 for count, side in taken)
        assert seen(history, steps) == wanted
    assert seen(history[:1], 0) == (0, 0)
