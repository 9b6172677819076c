"""The design's layers: who may import whom, where heavy packages live, and what the command line starts without."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
ROOMS = ("topologies", "node_apps", "controller", "experiments")
MODULES = {
    ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__"): path
    for room in ROOMS
    for path in sorted((CHECKOUT / room).rglob("*.py"))
}
# What of gnl a module may import, by the longest prefix of its name.
MAY_IMPORT = {
    "topologies": ("topologies",),
    "node_apps": ("node_apps", "topologies.errors"),
    "node_apps.protocol": ("node_apps.protocol", "topologies.errors"),
    "node_apps.codecs": ("node_apps.codecs", "topologies.errors"),
    "node_apps.prediction": ("node_apps.prediction", "topologies.errors"),
    "controller": ("controller", "topologies", "node_apps.protocol"),
    "experiments": ROOMS,
}
# Where a package may be imported at all. A module in LAZILY may do so inside functions only.
HOMES = {
    "mininet": r"topologies\.\w+",
    "torch": r"node_apps\.codecs\.\w+|node_apps\.decoder_\w+|experiments\.(quality|features|feature_benchmark)",
    "torchvision": r"node_apps\.codecs\.\w+",
    "compressai": r"node_apps\.codecs\.\w+",
    "socket": r"node_apps\.\w+",
    "scapy": r"node_apps\.protocol\.scapy_layer",
    "av": r"experiments\.sequences",
    "cv2": r"node_apps\.prediction\.\w+",
    "matplotlib": r"experiments\.(report\w*|figures)",
    "jinja2": r"experiments\.report\w*",
    "markupsafe": r"experiments\.report\w*",
    "torch_fidelity": r"experiments\.(features|feature_benchmark)",
    "pyroute2": r"topologies\.\w+|experiments\.\w+",
}
LAZILY = {
    "torch": r"node_apps\.codecs\.(registry|interface|content|baseline|zoo|entropy)|node_apps\.decoder_\w+"
    r"|experiments\.\w+",
    "av": r"experiments\.sequences",
    "cv2": r"node_apps\.prediction\.\w+",
    "jinja2": r"experiments\.\w+",
    "pyroute2": r".*",
    "rich": r".*",
    "scipy": r".*",
}
# Packet layout, reassembly and the router's decisions are state machines: time comes in as an argument.
NOT_IN_PROTOCOL = {
    "asyncio",
    "datetime",
    "os",
    "random",
    "select",
    "selectors",
    "socket",
    "subprocess",
    "threading",
    "time",
}


def imports(path: Path, name: str) -> set[tuple[str, bool]]:
    """(absolute module name, whether at the top level) of everything that a module imports, gnl. left out."""
    tree = ast.parse(path.read_text())
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    only_for_types = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for node in ast.walk(block)
    }
    inner = {
        node
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            # `from package import module` imports the module.
            targets = [
                f"{module}.{alias.name}" if is_module(f"{module}.{alias.name}") else module for alias in node.names
            ]
        else:
            continue
        top = node not in inner and node not in only_for_types
        found |= {(target.removeprefix("gnl."), top) for target in targets}
    return found


def is_module(name: str) -> bool:
    return name.removeprefix("gnl.") in MODULES


def within(name: str, prefixes) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def test_the_rooms_were_found():
    assert len(MODULES) > 20 and {name.split(".")[0] for name in MODULES} == set(ROOMS)


@pytest.mark.parametrize("name", MODULES)
def test_layers(name):
    allowed = MAY_IMPORT[max((room for room in MAY_IMPORT if within(name, [room])), key=len)]
    wrong = [
        target for target, _ in imports(MODULES[name], name) if within(target, ROOMS) and not within(target, allowed)
    ]
    assert not wrong, f"{name} may import {allowed} only"


@pytest.mark.parametrize("name", MODULES)
def test_heavy_and_privileged_packages_stay_in_their_places(name):
    for target, top in imports(MODULES[name], name):
        package = target.split(".")[0]
        assert re.fullmatch(HOMES.get(package, ".*"), name), f"{name} imports {target}"
        lazily = re.fullmatch(LAZILY.get(package, "-"), name)
        assert not (top and lazily), f"{name} imports {target} at its top"


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, ["node_apps.protocol"])])
def test_the_protocol_has_no_clock_and_no_input_or_output(name):
    assert not {target for target, _ in imports(MODULES[name], name)} & NOT_IN_PROTOCOL


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_at_its_top_what_it_is(name):
    assert ast.get_docstring(ast.parse(MODULES[name].read_text()))


def modules_after(*command: str) -> set[str]:
    """Names of all modules that a command imported, from the interpreter's own report."""
    done = subprocess.run(
        [sys.executable, "-P", "-X", "importtime", *command], capture_output=True, text=True, cwd=CHECKOUT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {line.split("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "gnl.experiments.cli", "--help"),
        ("-m", "gnl.experiments.cli", "analyze", "diamond", "--prompt-bytes", "1300"),
        ("-c", "import gnl.node_apps.codecs.registry as r; r.describe('gnl-low')"),
    ],
    ids=["--help", "analyze", "describe"],
)
def test_what_starts_fast_imports_nothing_heavy(command):
    found = {name.split(".")[0] for name in modules_after(*command)}
    assert "gnl" in found
    assert not found & {"torch", "torchvision", "compressai", "mininet", "matplotlib", "scapy", "jinja2"}


def distributions_imported() -> set[str]:
    files = {**MODULES, **{f"tests.{path.stem}": path for path in (CHECKOUT / "tests").glob("*.py")}}
    packages = {target.split(".")[0] for name, path in files.items() for target, _ in imports(path, name)}
    installed = importlib.metadata.packages_distributions()
    return {
        _spelt(installed[package][0]) for package in packages - set(sys.stdlib_module_names) if package in installed
    }


def pinned(name: str) -> set[str]:
    """The packages of a requirements file, every one of which must be pinned."""
    lines = [line.split("#")[0].strip() for line in (CHECKOUT / name).read_text().splitlines()]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9a-z.]+", line) for line in lines if line)
    return {_spelt(line.split("==")[0]) for line in lines if line}


def _spelt(distribution: str) -> str:
    return distribution.lower().replace("_", "-")


def test_requirements_are_pinned_and_are_what_is_imported():
    pins = pinned("requirements.txt")
    imported = distributions_imported() - {"gnl"}
    assert imported <= pins
    # mininet needs distutils, which comes with setuptools; xdist and torchvision are used by pytest and compressai.
    assert pins - imported <= {"setuptools", "pytest-xdist", "torchvision"}
