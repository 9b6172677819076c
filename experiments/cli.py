"""The command line. Each command imports what it needs when it is called, so that `gnl --help` starts at once."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import signal
import sys
from pathlib import Path

import click
from gnl.topologies.errors import GnlError, UsageError
from gnl.topologies.interrupts import ENDING

INTERRUPTED = 130
REPEAT_INTERRUPT_S = 1.0


class _Commands(click.Group):
    """Turns every error, of ours or of usage, into one line on stderr and its exit status."""

    def main(self, *arguments, **rest):
        try:
            return super().main(*arguments, **{**rest, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(UsageError.exit_status)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "gnl"
            _fail(f"{error.format_message().rstrip('.')} (see {command} --help)", UsageError.exit_status)
        except click.Abort:
            _fail("interrupted", INTERRUPTED)

    def invoke(self, context: click.Context):
        for number in ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:  # `nohup` means that a hang-up changes nothing
                signal.signal(number, _terminate)
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
        try:
            return super().invoke(context)
        except GnlError as error:
            _fail(str(error), error.exit_status)
        except KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
            _fail("interrupted: everything that was started has been taken down", INTERRUPTED)
        except BrokenPipeError:
            sys.stderr.close()  # whoever read our output has gone
            sys.exit(1)
        except OSError as error:
            _fail(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""), 1)


def _command() -> str:
    """What was typed, for a record or a remedy."""
    return f"gnl {shlex.join(sys.argv[1:])}"


def _given(asked: dict) -> dict:
    """The options that were given, so that defaults stay where the options are defined."""
    return {key: value for key, value in asked.items() if value not in (None, ())}


def _terminate(*_signal) -> None:
    """Interrupt, and again a second later: Python drops an exception that is raised while it forks a process."""
    signal.setitimer(signal.ITIMER_REAL, REPEAT_INTERRUPT_S)
    raise KeyboardInterrupt


def _fail(message: str, status: int) -> None:
    print(f"gnl: {message}", file=sys.stderr, flush=True)
    sys.exit(status)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gnl", prog_name="gnl")
def main() -> None:
    """The generative network layer on Mininet: real images, real packets, and the analysis beside them.

    SCENARIO is a built-in name (diamond is Fig. 1 of the paper), a YAML file, or the result.json of an earlier run.
    """


def _scenario_options(command):
    """What says which scenario, and with what content: shared by `run` and `analyze`."""
    for option in reversed(
        (
            click.argument("scenario"),
            click.option(
                "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a key, as links.s-g.bw_mbit=2."
            ),
            click.option("--images", metavar="DIR|sample", help="Folder of images, or the sample photographs."),
            click.option("--codec", metavar="NAME", help="Prompt codec (see `gnl codecs`)."),
            click.option("--bpp", type=float, metavar="X", help="Bits per pixel to encode prompts at."),
            click.option("--content", metavar="raw|png|jpeg:Q", help="What g sends to d, and what plain images are."),
        )
    ):
        command = option(command)
    return command


def _load(scenario, sets, images, codec, bpp, content):
    from gnl.topologies.files import load_scenario

    loaded = load_scenario(scenario, list(sets))
    given = {"images": images, "codec": codec, "bpp": bpp, "format": content}
    changed = {key: value for key, value in given.items() if value is not None}
    changed["images"] = _images_folder(changed.get("images", loaded.content.images))
    return dataclasses.replace(loaded, content=dataclasses.replace(loaded.content, **changed))


def _images_folder(named: str) -> str:
    """`sample`, or a folder that a result names wherever it is repeated from."""
    return named if named == "sample" else str(Path(named).expanduser().absolute())


@main.command()
@_scenario_options
@click.option(
    "--duration",
    "duration_s",
    type=click.FloatRange(3, 3600),
    metavar="S",
    help="Seconds that are measured of the generate phase  [default: 20]",
)
@click.option("--repeat", type=click.IntRange(1, 1000), help="Repeats, for 95% intervals  [default: 1]")
@click.option("--seed", type=int, help="Seed of the order in which images are sent  [default: 0]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for the result  [default: runs/ID]"
)
@click.option("--json", "as_json", is_flag=True, help="Print result.json on stdout, and nothing else there.")
@click.option("--pcap", is_flag=True, help="Capture the head of every packet of every link into OUT/pcap.")
def run(scenario, sets, images, codec, bpp, content, duration_s, repeat, seed, device, out, as_json, pcap) -> None:
    """Run SCENARIO on real packets and compare with the analysis (needs root)."""
    loaded = _load(scenario, sets, images, codec, bpp, content)
    if os.geteuid() != 0:
        raise UsageError(f"gnl run needs root: sudo ./{_command()}")
    from gnl.topologies.files import run_settings

    from .out_folder import default_out, give_to_caller
    from .repeats import RunOptions
    from .report import write_report
    from .result import write_result
    from .run import run as run_scenario
    from .summary import render

    out = out or default_out()
    given = {"duration_s": duration_s, "repeat": repeat, "seed": seed}
    settings = {**run_settings(scenario), **{key: value for key, value in given.items() if value is not None}}
    options = RunOptions(out, device=device, pcap=pcap, command=_command(), **settings)
    result = write_result(run_scenario(loaded, options))
    write_report(out)
    give_to_caller(out)
    print(json.dumps(result, indent=1) if as_json else render(result, str(out)))
    sys.exit(0 if result["valid"] else 1)


@main.command()
@_scenario_options
@click.option("--content-bytes", type=float, metavar="N", help="Mean bytes of a content (L), instead of measured ones.")
@click.option("--prompt-bytes", type=float, metavar="N", help="Mean bytes of a prompt (L_p), instead of measured ones.")
@click.option("--generation-rate", type=float, metavar="X", help="R_g in images/s; unlimited if not given.")
@click.option("--catalogue", type=click.Path(exists=True, file_okay=False), help="Catalogue folder of an earlier run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def analyze(
    scenario, sets, images, codec, bpp, content, content_bytes, prompt_bytes, generation_rate, catalogue, as_json
):
    """Max-flow, min-cut, flows per link, lambda* and G_flow of SCENARIO, without a packet and without root."""
    from .analyze import analyze as analyze_scenario
    from .analyze import render

    loaded = _load(scenario, sets, images, codec, bpp, content)
    document = analyze_scenario(loaded, catalogue, content_bytes, prompt_bytes, generation_rate)
    print(json.dumps(document, indent=1) if as_json else render(document))


@main.command()
@click.option("--no-measure", is_flag=True, help="Only what is known without loading a codec.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def codecs(no_measure, as_json) -> None:
    """The codecs, their weights, and their rate and speed on this machine, measured now."""
    from .codec_list import list_codecs, render

    entries = list_codecs(measure=not no_measure)
    print(json.dumps(entries, indent=1) if as_json else render(entries))


_DEVICE = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
_PATH = click.Path(path_type=Path)


def _standard(path: Path, stream: str) -> Path:
    """`-` as everywhere: standard input, or output."""
    return Path(f"/dev/{stream}") if str(path) == "-" else path


def _beside(out: Path):
    """Where to say what was done: standard error, if standard output has `out` itself."""
    try:
        shared = os.path.samestat(out.stat(), os.fstat(1)) and not out.is_char_device()
    except OSError:
        shared = False
    return sys.stderr if shared else sys.stdout


@main.command()
@click.argument("image", type=_PATH)
@click.option("-o", "out", required=True, type=_PATH, metavar="FILE", help="The prompt file to write, - for stdout.")
@click.option("--codec", metavar="NAME", help="Prompt codec (see `gnl codecs`).")
@click.option("--bpp", type=float, metavar="X", help="Most bits per pixel of FILE, header and all.")
@click.option("--bytes", "size_bytes", type=click.IntRange(1), metavar="N", help="Most bytes of FILE, header and all.")
@_DEVICE
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def encode(image, out, codec, bpp, size_bytes, device, as_json) -> None:
    """Encode IMAGE into a prompt, kept in FILE."""
    from .codec_files import encode_file

    image, out = _standard(image, "stdin"), _standard(out, "stdout")
    encoded = encode_file(image, out, codec, bpp, size_bytes, device)
    print(json.dumps(encoded.as_json(), indent=1) if as_json else encoded, file=_beside(out))


@main.command()
@click.argument("file", type=_PATH)
@click.option("-o", "out", required=True, type=_PATH, metavar="IMAGE", help="The image to write: .png, .jpg, .ppm ...")
@click.option("--codec", metavar="NAME", help="What decodes, where FILE does not say it (a checkpoint of yours).")
@_DEVICE
def decode(file, out, codec, device) -> None:
    """Make the image of the prompt in FILE."""
    from .codec_files import decode_file

    file = _standard(file, "stdin")
    print(decode_file(file, out, codec, device), file=_beside(out))


@main.command()
@click.argument("checkpoint", type=_PATH)
@click.option("--codec", required=True, metavar="NAME", help="What to make of it: hific-low, hific-medium, hific-high.")
@click.option("-o", "out", type=_PATH, metavar="FILE", help="The weights to write  [default: NAME.safetensors]")
def convert(checkpoint, codec, out) -> None:
    """Make weights of HiFiC out of a CHECKPOINT of its PyTorch port."""
    from gnl.node_apps.codecs.hific_checkpoint import convert as convert_checkpoint

    out = out or Path(f"{codec}.safetensors")
    record = convert_checkpoint(checkpoint, codec, out)
    print(f"{out}: {record['parameters']} parameters, {record['size_bytes']} bytes; use it as --codec {codec}:{out}")


@main.command()
@click.argument("config")
@click.option(
    "--images", multiple=True, required=True, type=_PATH, metavar="DIR", help="Folder of photographs; may be repeated."
)
@click.option("--lpips", required=True, type=_PATH, metavar="DIR", help="Folder with the weights of LPIPS.")
@click.option("--out", required=True, type=_PATH, metavar="DIR", help="Checkpoint, codec, pictures and log go there.")
@click.option("--start", metavar="NAME|FILE", help="Start from a codec of gnl's, or a checkpoint or weights.")
@click.option("--resume", is_flag=True, help="Go on from OUT's checkpoint.")
@_DEVICE
@click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help="CPU threads, at most  [default: all]")
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), metavar="M", help="Minutes of training, instead of CONFIG's."
)
def train(**asked) -> None:
    """Train a generative codec as CONFIG says: a YAML file, or gnl-scalable, gnl-low, gnl-medium or gnl-high."""
    from .train import TrainOptions
    from .train import train as train_codec

    sys.exit(0 if train_codec(TrainOptions(**asked)) else INTERRUPTED)


@main.command()
@click.option(
    "--images", multiple=True, required=True, type=_PATH, metavar="DIR", help="Folder of photographs; may be repeated."
)
@click.option("--out", required=True, type=_PATH, metavar="DIR", help="Where curves.json is, or is to be.")
@click.option("--patches", type=click.IntRange(2), default=2048, show_default=True, metavar="N", help="At most.")
@click.option("--size", "size_px", type=click.IntRange(32, 4096), default=256, show_default=True, metavar="PX")
@click.option("--stride", "stride_px", type=click.IntRange(1), default=128, show_default=True, metavar="PX")
@click.option("--codec", "codecs", multiple=True, metavar="NAME", help="Codecs to measure  [default: the case study's]")
@click.option("--bpp", "bpps", multiple=True, type=click.FloatRange(0, 24, min_open=True), help="Rates of scalable.")
@click.option("--gamma", "gammas", multiple=True, type=click.FloatRange(0, 1), help="Fractions of swapped pixels.")
@click.option("--lpips", type=_PATH, metavar="DIR", help="Folder with the weights of LPIPS; left out without it.")
@click.option("--inception", type=_PATH, metavar="FILE", help="Weights of FID's network, for FID itself.")
@click.option("--workers", type=click.IntRange(1, 1024), metavar="N", help="Passes at once  [default: one a CPU core]")
@_DEVICE
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def curves(as_json, bpps, gammas, workers, **asked) -> None:
    """Measure points of rate and loss of quality (MSE, PSNR, MS-SSIM, LPIPS, a Frechet distance) on photographs."""
    from .curves import GAMMAS, SCALABLE_BPPS, CurvesOptions, default_workers, measure_curves, render

    asked |= {"command": _command(), "workers": workers or default_workers(asked["device"])}
    options = CurvesOptions(bpps=bpps or SCALABLE_BPPS, gammas=gammas or GAMMAS, **asked)
    document = measure_curves(options)
    print(json.dumps(document, indent=1) if as_json else render(document))


_ABOVE_0 = click.FloatRange(0, min_open=True)
_CURVES = click.argument("curves", type=_PATH)


def _problem_options(command):
    """The problem of Sec. III: shared by `optimize`, `validate` and `figures`."""
    for option in reversed(
        (
            click.option("--c-sg", type=_ABOVE_0, metavar="X", help="Capacity to g  [default: 3.184, the paper's]"),
            click.option("--c-gd", type=_ABOVE_0, metavar="X", help="Capacity from g  [default: L]"),
            click.option("--max-flow", type=_ABOVE_0, metavar="X", help="f'_sd, without generation  [default: c_sg]"),
            click.option("--f-min", type=click.FloatRange(0), metavar="X", help="Least flow of prompts  [default: 0]"),
            click.option("--generation-rate", type=_ABOVE_0, metavar="X", help="R_g  [default: no limit]"),
            click.option("--content-size", type=_ABOVE_0, metavar="L", help="Of a content  [default: as stored]"),
        )
    ):
        command = option(command)
    return command


def _optima_options(command):
    """Which optima: shared by `optimize` and `validate`."""
    metrics = click.Choice(["perception", "distortion"])
    weights = click.option("--w", "weights", multiple=True, type=float, metavar="W", help="Of quality  [0.5, 1, 2]")
    return click.option("--metric", "metrics", multiple=True, type=metrics, help="[both]")(weights(command))


@main.command()
@_CURVES
@_problem_options
@_optima_options
@click.option("--pixels", type=click.IntRange(1), metavar="N", help="Sizes in bits, of contents of N pixels.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def optimize(as_json, **asked) -> None:
    """Best prompt sizes and G_flow on curves fitted to CURVES, the curves.json of `gnl curves`.

    Sizes are in bits per pixel, and flows too: a flow of 3 carries a content of 3 bits per pixel a second. With
    --pixels, all that is given and found is in bits, and bit/s.
    """
    from .optimize import OptimizeOptions, render
    from .optimize import optimize as solve

    found = solve(OptimizeOptions(**_given(asked)))
    print(json.dumps(found, indent=1) if as_json else render(found))


@main.command()
@_CURVES
@_problem_options
@_optima_options
@click.option("--images", required=True, metavar="DIR|sample", help="Folder of images, or the sample photographs.")
@click.option("--out", type=_PATH, metavar="DIR", help="validation.json and the runs  [default: validation, by CURVES]")
@click.option("--only", "parts", multiple=True, type=click.Choice(["figure", "grid"]), help="[default: both]")
@click.option("--contents-per-s", type=_ABOVE_0, default=10.0, show_default=True, metavar="X", help="A flow of L.")
@click.option("--repeat", type=click.IntRange(1, 1000), default=3, show_default=True, help="Of points of the figure.")
@click.option("--grid-repeat", type=click.IntRange(1, 1000), default=1, show_default=True, help="Of those of the grid.")
@click.option("--duration", "duration_s", type=click.FloatRange(3, 3600), default=12.0, show_default=True, metavar="S")
@_DEVICE
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def validate(as_json, **asked) -> None:
    """Run the optima of CURVES (Fig. 4b), and a grid of capacities, on real packets; G_flow beside the analysis.

    Goes on where an interrupted call stopped. Exits with 1 unless all errors are as small as they should be. As root.
    """
    if os.geteuid() != 0:
        raise UsageError(f"gnl validate needs root: sudo ./{_command()}")
    from .optimize import OptimizeOptions
    from .validate import PARTS, ValidateOptions, render, verdict
    from .validate import validate as measure

    given = _given(asked)
    names = {one.name for one in dataclasses.fields(OptimizeOptions)}
    problem = OptimizeOptions(**{key: given.pop(key) for key in list(given) if key in names})
    out = given.pop("out", problem.curves.parent / "validation")
    given["images"] = _images_folder(given["images"])
    parts = given.pop("parts", PARTS)
    document = measure(ValidateOptions(problem, out=out, parts=parts, command=_command(), **given))
    print(json.dumps(document, indent=1) if as_json else render(document))
    sys.exit(0 if all(one["met"] for kind, one in verdict(document).items() if kind in parts) else 1)


@main.command()
@click.argument("curves", type=_PATH, required=False)
@_problem_options
@click.option("--images", multiple=True, type=_PATH, metavar="DIR", help="Measure CURVES on these photographs first.")
@click.option("--out", type=_PATH, metavar="DIR", help="Where the figures go  [default: beside CURVES]")
@click.option("--validation", type=_PATH, metavar="FILE", help="Of gnl validate  [default: the one by CURVES]")
def figures(out, validation, images, **asked) -> None:
    """Draw the paper's case study from CURVES, the curves.json of `gnl curves`: PNG, PDF and CSV, and a page.

    With --images and --out, the curves are measured first, as `gnl curves` does without options; hours on a CPU. The
    page says which of the paper's claims hold. Fig. 4b has the points of `gnl validate`, where there are any.
    """
    from .case_study import write_case_study
    from .claims import render
    from .optimize import OptimizeOptions

    if (asked["curves"] is None) != bool(images) or (images and not out):
        raise UsageError("give either CURVES, the curves.json of gnl curves, or --images DIR and --out DIR")
    if images:
        from .curves import CURVES, CurvesOptions, default_workers, measure_curves

        measure_curves(CurvesOptions(images, out, workers=default_workers("auto"), command=_command()))
        asked["curves"] = out / CURVES
    options = OptimizeOptions(**_given(asked))
    study = write_case_study(options, out or options.curves.parent, validation)
    print(*study.written, render(study.claims), sep="\n")


@main.command()
@click.argument("sources", nargs=-1, required=True, type=_PATH, metavar="SEQUENCE...")
@click.option("--keep", type=click.IntRange(2, 1000), default=2, show_default=True, metavar="K", help="1 of K comes.")
@click.option("--frames", type=click.IntRange(2), metavar="N", help="The first N of each  [default: all]")
@click.option("--within", "within_px", type=click.IntRange(16), metavar="PX", help="Scale frames down to such sides.")
@click.option("--fps", "frames_per_s", type=_ABOVE_0, metavar="X", help="[default: the file's; of a folder 25]")
@click.option("--codec", metavar="NAME", help="Codec of the received frames  [default: none]")
@click.option("--bpp", type=_ABOVE_0, metavar="X", help="Its rate.")
@click.option("--lpips", type=_PATH, metavar="DIR", help="Folder with the weights of LPIPS; left out without it.")
@_DEVICE
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def predict(as_json, **asked) -> None:
    """How well frames that are omitted can be made from those before: video files, or folders of images."""
    from .prediction import PredictOptions, predict_sequences, render

    document = predict_sequences(PredictOptions(**_given(asked)))
    print(json.dumps(document, indent=1) if as_json else render(document))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json) -> None:
    """What this machine can do, and the remedy for each thing that it cannot."""
    from .doctor import doctor as examine

    sys.exit(examine(as_json))


@main.command()
def clean() -> None:
    """Remove what a killed run left, and nothing else."""
    from .clean import clean as remove

    sys.exit(remove())


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def test(arguments) -> None:
    """Run the tests, those that send real packets included; further ARGUMENTS go to pytest."""
    from .run_tests import run_tests

    sys.exit(run_tests(list(arguments)))


@main.command()
@click.argument("name", type=click.Choice(["diamond", "router", "shaping", "optimum", "features", "startup"]))
@click.option("--codec", default="gnl-scalable", show_default=True, metavar="NAME", help="Codec of `diamond`.")
@click.option("--scale", type=float, default=1.0, show_default=True, help="Times the rates of Fig. 1, of `diamond`.")
@click.option("--repeat", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--duration", "duration_s", type=click.FloatRange(3, 3600), default=20.0, show_default=True, metavar="S")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(name, codec, scale, repeat, duration_s, as_json) -> None:
    """Measure what gnl reaches on this machine, beside an alternative (diamond, router and shaping need root)."""
    from .benchmark import bench as measure

    measure(name, codec, scale, repeat, duration_s, as_json)


if __name__ == "__main__":
    main(prog_name="gnl")
