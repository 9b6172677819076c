"""Rate and quality of codecs on photographs: one pass, in which everything meets the same pixels.

Rates are of what packets carry: a prompt's slices with their headers, a baseline's whole file. JPEG and WebP are
measured along a curve of qualities, and at the bits of each codec, photograph by photograph: at the highest quality
that takes no more, or at the lowest where even that takes more.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Callable, Iterable, Iterator, Mapping, Optional, Sequence

import numpy as np
from gnl.node_apps.codecs.image_files import read_image
from gnl.node_apps.codecs.interface import Codec
from gnl.topologies.errors import GnlError, UsageError

from .baseline_files import CURVES, FAMILIES, BaselineFiles, Curves, Shot, curve_labels
from .frechet import tiles
from .quality import ms_ssim, mse_normalised, psnr_db

ORIGINAL = "original"
LEAST_SIDE = 32


@dataclass(frozen=True)
class Contender:
    """A codec at its own rate, or at a target in bits per pixel."""

    codec: str
    bpp: Optional[float] = None

    @property
    def label(self) -> str:
        """`gnl-low`, or `gnl-scalable@0.15`."""
        return self.codec if self.bpp is None else f"{self.codec}@{self.bpp:.4g}"


@dataclass(frozen=True)
class Photographs:
    """Photographs of a view, read when they are looked at: the centre square scaled to `size_px`, or all of each.

    `tiled` ones are cut, as they are, into the squares of `frechet.tiles`, each coded by itself.
    """

    paths: Sequence[Path]
    size_px: Optional[int]
    tiled: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.read, self.paths)

    def pieces(self, image: np.ndarray) -> list[np.ndarray]:
        """What of one of them is coded: its tiles, or itself."""
        return tiles(image) if self.tiled else [image]

    def read(self, path: Path) -> np.ndarray:
        """One of them, (H, W, 3) uint8; UsageError if it cannot be read or is too small for LPIPS."""
        with naming(path):
            pixels = read_image(path, self.size_px).pixels
            if min(pixels.shape[:2]) < LEAST_SIDE:
                raise UsageError(f"{pixels.shape[1]}x{pixels.shape[0]}, a side is under {LEAST_SIDE}")
            return pixels


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Say in an error of ours which photograph it is about."""
    try:
        yield
    except GnlError as error:
        raise type(error)(f"{path}: {error}; leave it out, so that all codecs have the same photographs") from error


@dataclass(frozen=True)
class Figures:
    """What was measured on one photograph through one codec, means over its pieces; None where it was not, or cannot
    be."""

    bpp: float
    bpp_without_header: Optional[float]
    psnr_db: Optional[float]
    mse_normalised: Optional[float]
    ms_ssim: Optional[float]
    lpips: Optional[float]


METRICS = tuple(one.name for one in fields(Figures))


@dataclass
class Measured:
    """What a pass gave, each list in the order of the photographs.

    `figures` has the contenders, the points of the curves (`jpeg:10`) and the baselines at a contender's bits
    (`matched_label`); `features` (tiles, d), if any, the originals, contenders and curves, `photo_of_tile` their rows'
    photographs; `shown` has the rows of a picture grid.
    """

    curves: Curves = field(default_factory=lambda: CURVES)
    figures: dict[str, list[Figures]] = field(default_factory=dict)
    features: dict[str, list[np.ndarray]] = field(default_factory=dict)
    photo_of_tile: list[int] = field(default_factory=list)
    shown: list[list[tuple[str, np.ndarray, Optional[Figures]]]] = field(default_factory=list)

    def curve_labels(self, family: str) -> list[str]:
        """The points of a family's curve that were measured."""
        return curve_labels(family, self.curves)

    def column(self, label: str, metric: str) -> np.ndarray:
        """One figure of every photograph, (n,) float64, with NaN for None."""
        return np.array([getattr(one, metric) for one in self.figures[label]], np.float64)


def matched_label(family: str, label: str) -> str:
    """The name under which a family is recorded at the bits of the contender `label`."""
    return f"{family} at the bits of {label}"


class Judge:
    """What is measured of a decoded image beside its rate: LPIPS and features only where they are given, PSNR and
    SSIM unless `distortion` is false."""

    def __init__(
        self,
        lpips=None,
        features: Optional[Callable[[Sequence[np.ndarray]], np.ndarray]] = None,
        distortion: bool = True,
    ) -> None:
        self._lpips = lpips
        self.features = features
        self._distortion = distortion

    @property
    def matches(self) -> bool:
        """Whether baselines are wanted at the bits of each contender: LPIPS alone is compared there."""
        return self._lpips is not None

    def figures(self, image: np.ndarray, shots: Sequence[Shot]) -> list[Figures]:
        """Figures of every shot of one image."""
        shown = [shot.image for shot in shots]
        distances = self._lpips.to_each(image, shown) if self._lpips else [None] * len(shots)
        pixels = image.shape[0] * image.shape[1]
        return [
            Figures(
                8 * shot.size_bytes / pixels,
                None if shot.picture_bytes is None else 8 * shot.picture_bytes / pixels,
                *self._distortions(image, shot.image),
                distance,
            )
            for shot, distance in zip(shots, distances)
        ]

    def _distortions(self, image: np.ndarray, shown: np.ndarray) -> tuple[Optional[float], ...]:
        if not self._distortion:
            return None, None, None
        return psnr_db(image, shown), mse_normalised(image, shown), ms_ssim(image, shown)


class _Piece:
    """One image through every contender and baseline; what several ask for is made once.

    `shots` are by key: a contender's label, or a baseline with its quality (`jpeg:10`).
    """

    def __init__(
        self, image: np.ndarray, contenders: Sequence[Contender], codecs: Mapping[str, Codec], curves: Curves
    ) -> None:
        self.image = image
        self.shots: dict[str, Shot] = {}
        for contender in contenders:
            codec = codecs[contender.codec]
            prompt = codec.encode(image, contender.bpp)
            self.shots[contender.label] = Shot(prompt.size_bytes, codec.decode(prompt))
        self.labels = list(self.shots)
        self._files = {family: BaselineFiles(family, image) for family in FAMILIES}
        self.curves = [self._add(family, quality) for family in FAMILIES for quality in curves[family]]

    def keys(self, matched: bool) -> dict[str, str]:
        """Keys by the labels of contenders, of points of curves and, if `matched`, of baselines at a contender's
        bits."""
        return {key: key for key in (*self.labels, *self.curves)} | (self._matched() if matched else {})

    def judged(self, judge: Judge) -> dict[str, Figures]:
        """Figures of all shots so far, by key."""
        return dict(zip(self.shots, judge.figures(self.image, list(self.shots.values()))))

    def _matched(self) -> dict[str, str]:
        """Keys of the baselines with at most the bits of each contender, where they can have so few."""
        return {
            matched_label(family, label): self._add(family, files.at_most(self.shots[label].size_bytes))
            for family, files in self._files.items()
            for label in self.labels
        }

    def to_show(self) -> list[str]:
        """Keys of a row of pictures: each contender, and behind it the baselines with at least its bits."""
        row = []
        for label in self.labels:
            size_bytes = self.shots[label].size_bytes
            row += [label, *(self._add(family, files.at_least(size_bytes)) for family, files in self._files.items())]
        return row

    def _add(self, family: str, quality: float) -> str:
        key = f"{family}:{quality:g}"
        if key not in self.shots:
            self.shots[key] = self._files[family].shot(quality)
        return key


def measure(
    photographs: Photographs,
    contenders: Sequence[Contender],
    codecs: Mapping[str, Codec],
    judge: Judge,
    grid_rows: int = 0,
    watched: Callable[[Iterable], Iterable] = iter,
    curves: Curves = CURVES,
) -> Measured:
    """Code, decode and measure every photograph; `grid_rows` evenly spaced ones are kept to be shown.

    `codecs` are by name; `watched` is given the photographs and yields them, to show how far the pass is. A photograph
    that a codec refuses raises the codec's error: sets that differ between codecs would compare nothing.
    """
    measured = Measured(curves)
    to_show = {row * len(photographs) // grid_rows for row in range(grid_rows)}
    for number, image in enumerate(watched(photographs)):
        with naming(photographs.paths[number]):
            pieces = [_Piece(piece, contenders, codecs, curves) for piece in photographs.pieces(image)]
        labels = [piece.keys(judge.matches) for piece in pieces]
        row = pieces[0].to_show() if number in to_show else []
        found = [piece.judged(judge) for piece in pieces]
        for label in labels[0]:
            figures = [by_key[keys[label]] for keys, by_key in zip(labels, found)]
            measured.figures.setdefault(label, []).append(_mean(figures))
        if judge.features:
            _add_features(measured, number, pieces, judge.features)
        if row:
            shown = [(key, pieces[0].shots[key].image, found[0][key]) for key in row]
            measured.shown.append([(ORIGINAL, pieces[0].image, None), *shown])
    return measured


def _mean(found: Sequence[Figures]) -> Figures:
    columns = zip(*(astuple(one) for one in found))
    return Figures(*(None if None in column else float(np.mean(column)) for column in columns))


def _add_features(measured: Measured, number: int, pieces: Sequence[_Piece], features) -> None:
    for piece in pieces:
        shown = {ORIGINAL: piece.image} | {key: piece.shots[key].image for key in (*piece.labels, *piece.curves)}
        cut = {key: tiles(image) for key, image in shown.items()}
        found = features([tile for part in cut.values() for tile in part])
        for key, rows in zip(cut, np.split(found, len(cut))):
            measured.features.setdefault(key, []).extend(rows)
        measured.photo_of_tile += [number] * len(cut[ORIGINAL])
