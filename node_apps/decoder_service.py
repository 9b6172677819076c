"""The decoder service of a machine: prompts in over a Unix socket, contents out, for every generative router on it.

    python -m gnl.node_apps.decoder_service --socket PATH --codec gnl-low [--device auto|cpu|cuda]

    guard        binds the socket and removes it at the end; never reads a byte from anyone. Keeps its user.
    +- service   loads the codecs, gives up root for good, and only then accepts clients (decoder_supervisor)
       +- worker forked from it; decodes (decoder_worker); dies of a bad bitstream, and another is forked

Each ends with the one above it. When clients are accepted one line of JSON appears on stdout: {"ready": true,
"device", "threads", "codecs": [...], "pid", "worker_pid", ...}. An error is one line on stderr, with exit status 2
(asked wrongly) or 1.

A plug-in codec is given as --codec-factory MODULE:FUNCTION; FUNCTION(device, threads) returns a `Codec` for device
"cpu" or "cuda". It is called before root is given up, on the cpu, and again in the worker where that runs on cuda (a
codec with a method `to(device)` is moved instead).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnl.topologies.errors import CodecError, GnlError, MachineError, UsageError

from .privileges import die_with_parent, drop_root, no_core_dumps, readable_by, user_ids

if TYPE_CHECKING:
    from .codecs.interface import Codec
    from .decoder_worker import Loaded

SAMPLE_SIDE_PX = 256
_BACKLOG = 64


def main(arguments: list[str] | None = None) -> int:
    """Run the service until SIGTERM or SIGINT; returns the exit status."""
    parent = os.getppid()
    options = _parser().parse_args(arguments)
    try:
        die_with_parent(parent)
        no_core_dumps()
        if not options.codec and not options.codec_factory:
            raise UsageError("no codec is given: name at least one with --codec or --codec-factory")
        if os.geteuid() == 0:
            user_ids(options.user)
        listener = listen(options.socket, options.mode)
    except GnlError as error:
        return _report(error)
    return _guard(listener, options)


def listen(path: Path, mode: int) -> socket.socket:
    """Bind the service's socket, taking the place of one that a killed service left behind."""
    if len(os.fsencode(path)) > 107:
        raise UsageError(f"socket path {path} is too long: the kernel takes 107 bytes, choose a shorter folder")
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise UsageError(f"{path} exists and is no socket: give another path for the decoder service")
    if path.exists():
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            if probe.connect_ex(str(path)) != 111:  # ECONNREFUSED: nobody listens any more
                raise MachineError(f"another decoder service listens on {path}: end it, or give another path")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o777)  # nobody connects before the mode is set
    try:
        listener.bind(str(path))
        path.chmod(mode)
    except OSError as error:
        raise MachineError(f"cannot bind {path}: {error.strerror}; give a path in a writable folder") from None
    finally:
        os.umask(mask)
    listener.listen(_BACKLOG)
    return listener


def _guard(listener: socket.socket, options: argparse.Namespace) -> int:
    """Fork the service, pass the signals on that end it, and remove the socket after it."""
    guard = os.getpid()
    ending = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
        os._exit(_flushed(_serve(guard, listener, options)))
    listener.close()
    for number in ending:
        signal.signal(number, lambda number, _: os.kill(pid, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
    _, status = os.waitpid(pid, 0)
    for number in ending:
        signal.signal(number, signal.SIG_IGN)
    options.socket.unlink(missing_ok=True)
    if os.WIFSIGNALED(status):
        print(f"gnl decoder: the service was ended by signal {os.WTERMSIG(status)}", file=sys.stderr)
        return 1
    return os.WEXITSTATUS(status)


def _serve(guard: int, listener: socket.socket, options: argparse.Namespace) -> int:
    """The service process: load, give up root, serve."""
    try:
        die_with_parent(guard)
        # One thread each until the worker is forked: a thread pool does not survive a fork.
        os.environ.update(OPENBLAS_NUM_THREADS="1", PYTORCH_NVML_BASED_CUDA_CHECK="1")
        # Threads that spin while they wait halve the rate of a machine whose cores also carry the network.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        loaded = _load_all(options)
        device = _device(options.device, options.user)
        from .decoder_supervisor import Supervisor, SupervisorOptions
        from .decoder_worker import WorkerOptions, fork_worker

        drop_root(options.user, keep_device_groups=device == "cuda")
        die_with_parent(guard)
        worker = WorkerOptions(device, options.threads, options.batch, options.worker_memory_mb << 20)
        bounds = SupervisorOptions(options.queue_items, options.queue_mb << 20, options.batch, options.batch_timeout_s)
        facts = {"codecs": [_facts(item) for item in loaded], "threads": options.threads, "batch": options.batch}
        fork = partial(_fork, fork_worker, loaded, worker)
        Supervisor(listener, fork, facts, bounds, _print_ready).run()
    except GnlError as error:
        return _report(error)
    return 0


def _fork(fork_worker: Callable, loaded: list[Loaded], options: Any, warm_up: bool) -> tuple[int, socket.socket]:
    # A new process has to set up its GPU again in any case: better now than under the first prompt.
    return fork_worker(loaded, options, warm_up or options.device == "cuda")


def _load_all(options: argparse.Namespace) -> list[Loaded]:
    """Load every codec named, on the cpu, and take each once through what it will have to do.

    That makes the sample for the warm-up. It also has everything imported that is imported late: where Python lies in a
    folder of root's, nothing can be once root is given up.
    """
    from .codecs import content
    from .decoder_worker import Loaded

    loads = [_registered(name) for name in options.codec] + [_plugged_in(name) for name in options.codec_factory]
    loaded: list[Loaded] = []
    for name, load in zip(options.codec + options.codec_factory, loads, strict=True):
        try:
            codec = load("cpu")
            torch = sys.modules.get("torch")
            if torch is not None:
                torch.set_num_threads(1)
            sample = codec.encode_sample(_sample_image())
            image = codec.decode(sample)
        except GnlError:
            raise
        except Exception as error:
            raise CodecError(f"codec {name} does not work: {_in_one_line(error)}; mend or reinstall it") from error
        for fmt in ("raw", "png", "jpeg:90"):
            content.pack(image, fmt)
        with contextlib.suppress(Exception):
            codec.decode(dataclasses.replace(sample, slices=(b"",)))
        loaded.append(Loaded(codec, load, sample))
    for index, item in enumerate(loaded):
        for other in loaded[:index]:
            if other.key == item.key:
                raise CodecError(
                    f"codecs {other.codec.facts.name} and {item.codec.facts.name} share id {item.key[0]} and weights "
                    f"{item.key[1]:08x}, so that prompts do not tell them apart: give one of them"
                )
    return loaded


def _in_one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _registered(name: str) -> Callable[[str], Codec]:
    from .codecs.registry import load_codec

    return lambda device: load_codec(name, device, 1 if device == "cpu" else None)


def _plugged_in(name: str) -> Callable[[str], Codec]:
    module_name, _, function_name = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # whatever the module does when it is imported
        why = _in_one_line(error)
        raise CodecError(f"codec factory {name!r} is not there ({why}): give an importable MODULE:FUNCTION") from None
    return lambda device: factory(device, 1)


def _sample_image():
    """A smooth coloured (256, 256, 3) uint8 image with some texture: any codec codes it without a special case."""
    import numpy as np

    ramp = np.linspace(0, 200, SAMPLE_SIDE_PX)
    plane = (ramp[:, None] + ramp[None, ::-1]) / 2
    texture = np.random.default_rng(0).uniform(0, 40, (*plane.shape, 3))
    return (np.stack([plane, plane.T, plane[::-1]], axis=-1) + texture).astype(np.uint8)


def _device(wanted: str, user: str) -> str:
    """cpu or cuda. Looks without touching the GPU, which must not be set up before the fork."""
    torch = sys.modules.get("torch")
    if wanted == "cpu" or torch is None or not torch.cuda.is_available():
        if wanted == "cuda":
            raise MachineError("no codec asked for runs on a CUDA device here: give --device cpu, or auto")
        return "cpu"
    if os.geteuid() != 0 or readable_by(Path(torch.__file__), user):
        return "cuda"
    # The GPU's libraries are loaded when it is first used, which is after root was given up.
    problem = f"user {user} cannot read {torch.__file__}, so that it cannot use the GPU: install gnl where all can read"
    if wanted == "cuda":
        raise MachineError(problem)
    print(f"gnl decoder: {problem}; decoding on the cpu", file=sys.stderr, flush=True)
    return "cpu"


def _facts(item: Loaded) -> dict[str, Any]:
    facts = item.codec.facts
    return {
        "name": facts.name,
        "codec_id": facts.codec_id,
        "weights_id": facts.weights_id,
        "weights_sha256": facts.weights_sha256,
        "generative": facts.generative,
    }


def _print_ready(facts: dict[str, Any]) -> None:
    print(json.dumps({"ready": True, **facts}), flush=True)


def _report(error: GnlError) -> int:
    print(f"gnl decoder: {error}", file=sys.stderr, flush=True)
    return error.exit_status


def _flushed(status: int) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gnl.node_apps.decoder_service", description=__doc__.splitlines()[0])
    number = partial(parser.add_argument, metavar="N")
    parser.add_argument("--socket", type=Path, required=True, metavar="PATH", help="Unix socket to serve")
    parser.add_argument("--mode", type=_mode, default=0o600, help="its permissions in octal (default 600)")
    parser.add_argument("--codec", action="append", default=[], metavar="NAME", help="a codec by name; may be repeated")
    parser.add_argument(
        "--codec-factory",
        action="append",
        default=[],
        metavar="MODULE:FUNCTION",
        help="a plug-in codec; may be repeated",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--user", default="nobody", help="whom to become when started by root (default nobody)")
    number("--threads", type=_positive, default=max(1, len(os.sched_getaffinity(0)) - 1), help="CPU threads to decode")
    number("--batch", type=_positive, default=8, help="prompts decoded at once, at most")
    number("--queue-items", type=_positive, default=1024, help="prompts waiting, at most")
    number("--queue-mb", type=_positive, default=64, help="mebibytes of prompts waiting, at most")
    number("--worker-memory-mb", type=_positive, default=4096, help="mebibytes that decoding may take (cpu)")
    number("--batch-timeout-s", type=float, default=20.0, help="seconds after which a batch counts as hung")
    return parser


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is not an octal mode such as 600 or 660")
    return mode


if __name__ == "__main__":
    sys.exit(main())
