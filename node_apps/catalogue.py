"""The catalogue: what a source sends, encoded beforehand, as a folder that is written once and then only read.

    catalogue.json   what it was made from ("key"), and per image its name and sizes in bytes
    contents.bin     the images as plain content bodies, end to end
    prompts.bin      the slices of every prompt, end to end

A folder without `catalogue.json` is unfinished (that file is written last) and is not a catalogue.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from zlib import crc32

from gnl.topologies.errors import RunError

from .codecs.interface import Prompt

INDEX = "catalogue.json"
VERSION = 1


@dataclass(frozen=True)
class Entry:
    """One image: its name and the sizes of what may be sent of it. `content_crc` checks a plain image at the sink."""

    name: str
    content_bytes: int
    prompt_slices: tuple[int, ...]
    content_crc: int

    @property
    def prompt_bytes(self) -> int:
        return sum(self.prompt_slices)


class Catalogue:
    """Read access to a finished catalogue; `content` and `prompt` take the index of an image."""

    def __init__(self, folder: Path, tree: dict) -> None:
        self.folder, self.key = folder, tree["key"]
        self.codec_id, self.weights_id = tree["codec_id"], tree["weights_id"]
        self.entries = [Entry(**{**entry, "prompt_slices": tuple(entry["prompt_slices"])}) for entry in tree["images"]]
        self._contents = (folder / "contents.bin").read_bytes()
        self._prompts = (folder / "prompts.bin").read_bytes()
        self._content_at = [0, *accumulate(entry.content_bytes for entry in self.entries)]
        self._prompt_at = [0, *accumulate(entry.prompt_bytes for entry in self.entries)]
        if (self._content_at[-1], self._prompt_at[-1]) != (len(self._contents), len(self._prompts)):
            raise RunError(f"catalogue {folder} does not hold what its index says: remove that folder and run again")

    @classmethod
    def open(cls, folder: str | Path) -> Catalogue:
        """Raises `RunError` where the folder is no finished catalogue of this version."""
        try:
            tree = json.loads((Path(folder) / INDEX).read_text())
            if tree["version"] != VERSION:
                raise ValueError(f"version {tree['version']}, known here is {VERSION}")
            return cls(Path(folder), tree)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"catalogue {folder} is not usable ({error}): remove that folder and run again") from None

    def __len__(self) -> int:
        return len(self.entries)

    def content(self, index: int) -> bytes:
        """The plain content body of an image."""
        return self._contents[self._content_at[index] : self._content_at[index + 1]]

    def prompt(self, index: int) -> Prompt:
        """The prompt of an image."""
        edges = [self._prompt_at[index], *self.entries[index].prompt_slices]
        cuts = list(accumulate(edges))
        return Prompt(self.codec_id, self.weights_id, tuple(self._prompts[a:b] for a, b in zip(cuts, cuts[1:])))


def write_catalogue(folder: Path, key: dict, images: Iterable[tuple[str, bytes, Prompt]]) -> Catalogue:
    """Write (name, content body, prompt) of each image; the folder appears complete or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".partial-"))
    try:
        entries, ids = [], (0, 0)
        with open(partial / "contents.bin", "wb") as contents, open(partial / "prompts.bin", "wb") as prompts:
            for name, body, prompt in images:
                contents.write(body)
                prompts.write(b"".join(prompt.slices))
                slices = [len(piece) for piece in prompt.slices]
                entries.append(
                    {"name": name, "content_bytes": len(body), "prompt_slices": slices, "content_crc": crc32(body)}
                )
                ids = (prompt.codec_id, prompt.weights_id)
        tree = {"version": VERSION, "key": key, "codec_id": ids[0], "weights_id": ids[1], "images": entries}
        (partial / INDEX).write_text(json.dumps(tree, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Catalogue.open(folder)
