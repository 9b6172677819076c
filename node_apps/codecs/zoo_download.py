"""CompressAI's own trained models: downloaded once, into torch's usual cache."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
import urllib.request
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

from gnl.topologies.errors import MachineError

SILENCE_S, WHOLE_S = 20.0, 1800.0
_PIECE_BYTES = 1 << 16
_STEPS = 10


def pretrained(model: str, quality: int) -> Path:
    """The file of a model trained for mean squared error; MachineError if it is not here and cannot be fetched.

    The package that knows the addresses takes seconds to import.
    """
    import torch
    from gnl.node_apps.codecs.devices import single_thread
    from gnl.node_apps.codecs.entropy import import_entropy_models

    with single_thread():
        import_entropy_models()
        from compressai.zoo.image import model_urls
    url = model_urls[model]["mse"][quality]
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not path.exists():
        remedy = f"put the file there yourself, or name a checkpoint that you have: compressai:{model}:{quality}:PATH"
        _fetch(url, path, remedy)
    return path


def _fetch(url: str, path: Path, remedy: str) -> None:
    """Download within bounded time what hashes to the name's last part; a failure leaves nothing behind."""
    print(f"gnl: downloading {url} to {path}", file=sys.stderr, flush=True)
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=SILENCE_S) as response:
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                part = file.name
                digest = _receive(response, file)
        if not digest.startswith(path.name.split(".")[0].rpartition("-")[2]):
            raise OSError(f"its SHA-256 is {digest[:16]}..., not what its name says")
        os.chmod(part, 0o644)
        shutil.move(part, path)
    except (OSError, HTTPException, ValueError) as error:
        if part is not None:
            Path(part).unlink(missing_ok=True)
        reason = error.reason if type(error) is URLError else error
        raise MachineError(f"{url} cannot be downloaded to {path} ({reason}): {remedy}") from error


def _receive(response, file) -> str:
    """Copy a response to a file, saying how far it is; returns the SHA-256. OSError if it takes too long, or ends
    early."""
    began_s, expected = time.monotonic(), int(response.headers.get("Content-Length") or 0)
    received, said, digest = 0, 0, sha256()
    while piece := response.read1(_PIECE_BYTES):
        file.write(piece)
        digest.update(piece)
        received += len(piece)
        if time.monotonic() - began_s > WHOLE_S:
            raise TimeoutError(f"only {received} of {expected} bytes in {WHOLE_S:.0f} s")
        if expected and received * _STEPS // expected > said:
            said = received * _STEPS // expected
            print(f"gnl: {received / 1e6:.1f} of {expected / 1e6:.1f} MB", file=sys.stderr, flush=True)
    if received < expected:
        raise OSError(f"the connection ended after {received} of {expected} bytes")
    return digest.hexdigest()
