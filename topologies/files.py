"""Scenarios by name or from files (YAML, JSON, or the result of an earlier run), and overrides of single keys.

    name: my-diamond                      links:
    nodes:                                  s-r: {bw_mbit: 10}
      s: {role: source}                     r-d: {bw_mbit: 10, bw_back_mbit: 1}
      r: {role: router}                     s-g: {bw_mbit: 2}
      g: {role: genai}                      g-d: {bw_mbit: 20, loss_percent: 1}
      d: {role: sink}                     content: {images: sample, codec: gnl-scalable}
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

import yaml

from .errors import ScenarioError
from .named import NAMED
from .spec import Scenario, scenario_from_dict, scenario_to_dict

MAX_FILE_BYTES = 64_000_000  # a result carries per-window figures; anything larger is not one of ours


class ScenarioLoader(yaml.SafeLoader):
    """YAML without its surprises: `no`, `on` and `1:30` stay text, `1e3` is a number, a repeated key is an error."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, (str, int, float, bool, type(None))):
                raise yaml.constructor.ConstructorError(None, None, "a key is not plain text", key_node.start_mark)
            if key in mapping:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            mapping[key] = self.construct_object(value_node, deep=True)
        return mapping


ScenarioLoader.add_constructor("tag:yaml.org,2002:map", ScenarioLoader.construct_mapping)
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),  # 010 is read below, as 10
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf)|\.(nan|NaN)", "-+.0123456789"),
):
    _letters = ["" if letter == "\0" else letter for letter in _first]
    ScenarioLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _letters)


def load_scenario(name_or_path: str, sets: list[str] | tuple[str, ...] = ()) -> Scenario:
    """Return the scenario that is built in under a name, or described by a file, with overrides applied.

    A file is a YAML or JSON scenario, or the `result.json` of an earlier run (or the folder that holds it), from which
    `run.scenario` is taken. `sets` are texts KEY=VALUE, KEY being a path into the scenario (`links.s-g.bw_mbit=2`),
    VALUE read as YAML (`null` clears an optional key); the last one of a key wins.

    Raises `ScenarioError` on an unknown name, an unreadable file, and whatever `scenario_from_dict` refuses.
    """
    if name_or_path in NAMED:
        tree = scenario_to_dict(NAMED[name_or_path])
    else:
        tree = _read(name_or_path)
    for assignment in sets:
        _override(tree, assignment)
    try:
        return scenario_from_dict(tree)
    except ScenarioError as error:
        if name_or_path in NAMED:
            raise
        raise ScenarioError(f"{name_or_path}: {error}") from None


def run_settings(name_or_path: str) -> dict[str, Any]:
    """How an earlier run was run (`duration_s`, `repeat`, `seed`), if that is what is named; {} for a scenario."""
    if name_or_path in NAMED:
        return {}
    tree = _read_tree(name_or_path)[1]
    run = tree.get("run") if "schema" in tree else None
    return {key: run[key] for key in ("duration_s", "repeat", "seed") if key in run} if isinstance(run, dict) else {}


def parse_yaml(text: str) -> Any:
    """Plain data from one YAML document, read strictly. Raises `yaml.YAMLError`."""
    return yaml.load(text, ScenarioLoader)  # a SafeLoader: builds plain data only


def _read(name_or_path: str) -> dict[str, Any]:
    path, tree = _read_tree(name_or_path)
    return _scenario_of_result(path, tree) if "run" in tree and "schema" in tree else tree


def _read_tree(name_or_path: str) -> tuple[Path, dict[str, Any]]:
    path = Path(name_or_path).expanduser()
    try:
        if path.is_dir():
            path = path / "result.json"
            if not path.exists():
                raise ScenarioError(f"folder {name_or_path!r} holds no result.json: give a scenario file in it")
        if not path.exists():
            raise ScenarioError(_unknown(name_or_path))
        with path.open("rb") as file:  # bounded: a pipe or a device has no size to look up
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ScenarioError(f"{path} has more than {MAX_FILE_BYTES} bytes: give a scenario or a result file")
        text = data.decode("utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ScenarioError(f"cannot read scenario {str(path)!r}: {reason}: give a readable YAML file") from None
    tree = _parse(path, text)
    if not isinstance(tree, dict):
        raise ScenarioError(f"{path} holds no scenario: give a mapping with the keys name, nodes and links")
    return path, tree


def _parse(path: Path, text: str) -> Any:
    try:
        return json.loads(text) if path.suffix.lower() == ".json" else parse_yaml(text)
    except json.JSONDecodeError as error:
        where, problem = f"line {error.lineno}", error.msg
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    except RecursionError:
        where, problem = "somewhere", "it is nested too deeply"
    except ValueError as error:  # an integer of thousands of digits, a date that is none
        where, problem = "somewhere", str(error).splitlines()[0]
    raise ScenarioError(f"{path} does not parse at {where}: {problem}: correct the file")


def _scenario_of_result(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    run = result["run"]
    if not isinstance(run, dict) or not isinstance(run.get("scenario"), dict):
        raise ScenarioError(f"{path} looks like a result but has no run.scenario: give the result.json of a whole run")
    return run["scenario"]


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, NAMED, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"no scenario or file is called {name!r}{hint}: give a YAML file, or a built-in one: {', '.join(NAMED)}"


def _override(tree: dict[str, Any], assignment: str) -> None:
    """Put the value of KEY=VALUE into `tree`. Nodes and links must exist; other keys are checked with the scenario."""
    key, equals, text = assignment.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ScenarioError(f"--set {assignment!r} is not KEY=VALUE: give path and value, as in links.s-g.bw_mbit=2")
    try:
        value = parse_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ScenarioError(f"--set {assignment!r}: the value {text!r} is no YAML: put it in quotes") from None
    inner = tree
    for depth, part in enumerate(parts[:-1]):
        path = ".".join(parts[: depth + 1])
        if depth == 0 and part == "content" and inner.get(part) is None:
            inner[part] = {}
        if part not in inner:
            raise ScenarioError(f"--set {key}: {path} is unknown: {_accepted(inner, part)}")
        inner = inner[part]
        if not isinstance(inner, dict):
            raise ScenarioError(f"--set {key}: {path} has no keys of its own: set {path} itself")
    if len(parts) == 2 and parts[0] in ("nodes", "links") and parts[1] not in inner:
        raise ScenarioError(f"--set {key}: {key} is unknown: {_accepted(inner, parts[1])}")
    inner[parts[-1]] = value


def _accepted(inner: dict[str, Any], part: str) -> str:
    reverse = "-".join(reversed(part.split("-")))
    if reverse != part and reverse in inner:
        return f"the link is called {reverse} here"
    return f"known here are {', '.join(map(str, inner))}"
