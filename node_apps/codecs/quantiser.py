"""How latents become symbols: scales on a ladder, planes of refinement, and the order in which planes are sent.

A latent's residual r = y - mu is modelled as a Gaussian whose standard deviation is one of LEVELS steps of a ladder
(`scale_table`), in units of plane 0's quantisation step. Plane 0 holds round(r); each further plane p holds one ternary
digit that refines the step to 3^-p:

    k_0 = round(r)        d_p = round(3^p (r - r_{p-1})) in {-1, 0, 1}        r_p = k_0 + d_1/3 + ... + d_p/3^p

Every plane is coded on its own, with the probabilities that the scale alone implies, so that no slice needs another
slice to be entropy-decoded (bit-plane coding as in Lee et al., "DPICT", CVPR 2022, without its conditioning). One plane
of one level is a *class*; classes are sent in the order of distortion saved per bit (`class_order`). Planes whose scale
is at the ladder's foot are nearly always 0 and are never sent.
"""

from __future__ import annotations

import functools
import math

import numpy as np

SCALE_MIN = 0.13
LEVELS = 32
LEVELS_PER_PLANE = 6
SCALE_STEP = math.log(3.0) / LEVELS_PER_PLANE
PLANES = 6
_LARGEST_CENTRED = 4
_GRID = 4001


def scale_table() -> list[float]:
    """The standard deviations of the levels, geometric from SCALE_MIN: a plane's scale is LEVELS_PER_PLANE higher."""
    return [SCALE_MIN * math.exp(SCALE_STEP * level) for level in range(LEVELS)]


@functools.cache
def digit_probabilities() -> np.ndarray:
    """(LEVELS, 3) float64: the probabilities of -1, 0 and 1 in a refining plane, by the scale in units of its step.

    A Gaussian folded modulo 3; the same for every plane, whose scale is its level plus LEVELS_PER_PLANE a plane.
    """
    sigma = np.asarray(scale_table())[:, None, None]
    digit, turn = np.arange(-1, 2)[None, :, None], 3 * np.arange(-120, 121)[None, None, :]
    folded = _mass(turn + digit, sigma).sum(-1)
    return folded / folded.sum(-1, keepdims=True)


@functools.cache
def class_bits() -> np.ndarray:
    """(LEVELS, PLANES) float64: the expected bits of one latent in each class; 0 for classes never sent."""
    bits = np.zeros((LEVELS, PLANES))
    symbols = np.arange(-400, 401)
    for level, sigma in enumerate(scale_table()):
        bits[level, 0] = _entropy(_mass(symbols, sigma)) if level > 0 else 0.0
        for plane in range(1, PLANES):
            at = level + LEVELS_PER_PLANE * plane
            bits[level, plane] = _entropy(digit_probabilities()[min(at, LEVELS - 1)])
    return bits


@functools.cache
def class_order() -> np.ndarray:
    """(classes, 2) int32 of (level, plane), by falling distortion saved per bit; each level's planes in their order."""
    saved = np.zeros((LEVELS, PLANES))
    for level in range(LEVELS):
        distortion = [_distortion(level, plane) for plane in range(-1, PLANES)]
        saved[level] = -np.diff(distortion)
    bits = class_bits()
    gain = np.divide(saved, bits, out=np.full_like(saved, np.inf), where=bits > 0)
    gain = np.minimum.accumulate(gain, axis=1)
    order = sorted(np.ndindex(LEVELS, PLANES), key=lambda one: (-gain[one], one[1], -one[0]))
    return np.asarray([one for one in order if bits[one] > 0], np.int32)


@functools.cache
def centroid_shifts() -> np.ndarray:
    """(LEVELS, _LARGEST_CENTRED + 1) float32: how far the mean of a cell lies from its middle, towards 0, in steps.

    By the scale in units of the step and the magnitude of the symbol (the last column serves all above). A decoder
    puts a latent there: the mean of a Gaussian within the cell, which minimises the squared error.
    """
    shifts = np.zeros((LEVELS, _LARGEST_CENTRED + 1))
    for level, sigma in enumerate(scale_table()):
        for symbol in range(1, _LARGEST_CENTRED + 1):
            x = np.linspace(symbol - 0.5, symbol + 0.5, _GRID)
            weight = np.exp(-0.5 * ((x**2 - (symbol - 0.5) ** 2) / sigma**2))
            shifts[level, symbol] = symbol - (x * weight).sum() / weight.sum()
    return shifts.astype(np.float32)


def reconstruct(symbols: np.ndarray, planes: np.ndarray, index: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """What a decoder adds to mu, float32: the centroids of the cells that the symbols name; 0 where nothing is known.

    `symbols` are whole numbers of the last received plane's step, `planes` how many planes were received, `index` the
    scale indexes, all of one shape; `shifts` is `centroid_shifts()`.
    """
    added = np.zeros(symbols.shape, np.float32)
    known = (symbols != 0) & (planes > 0)  # few, as a rule
    symbol, finer = symbols[known], planes[known] - 1
    level = np.minimum(index[known] + LEVELS_PER_PLANE * finer, LEVELS - 1)
    magnitude = np.abs(symbol)
    shift = shifts[level, np.minimum(magnitude, _LARGEST_CENTRED)]
    step = (3.0 ** -np.arange(PLANES)).astype(np.float32)[finer]
    added[known] = np.sign(symbol) * (magnitude - shift) * step
    return added


def _mass(symbols: np.ndarray, sigma: np.ndarray | float) -> np.ndarray:
    """The probability that a Gaussian of mean 0 rounds to each symbol."""
    from scipy.special import ndtr  # here, since it takes a while to load and only training needs it

    return ndtr((symbols + 0.5) / sigma) - ndtr((symbols - 0.5) / sigma)


def _entropy(probabilities: np.ndarray) -> float:
    kept = probabilities[probabilities > 1e-15]
    return float(-(kept * np.log2(kept)).sum())


def _distortion(level: int, plane: int) -> float:
    """Expected squared error of a latent of `level` when its planes up to `plane` are known; -1 means none."""
    sigma = scale_table()[level]
    if plane < 0 or (plane == 0 and level == 0):
        return sigma**2
    x = np.linspace(-8 * sigma, 8 * sigma, 8 * _GRID)
    weight = np.exp(-0.5 * (x / sigma) ** 2)
    cells = np.rint(x * 3.0**plane).astype(np.int64)
    cells -= cells.min()
    mass, first = np.bincount(cells, weight), np.bincount(cells, weight * x)
    centre = np.divide(first, mass, out=np.zeros_like(mass), where=mass > 0)
    return float((weight * (x - centre[cells]) ** 2).sum() / weight.sum())
