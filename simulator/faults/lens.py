"""A fault at the input: what a dirty lens does to images, blur and noise; for other data, noise and a shift."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def dirty(
    raw: NDArray[np.generic], rng: np.random.Generator, *, channels_first: bool = False
) -> NDArray[np.generic]:
    """Blur and noise a batch, keeping its shape, dtype and range.

    Args:
        raw: shape (n, height, width[, channels]), or (n, channels, height, width) with
            `channels_first`; anything else counts as no image.
        rng: the source of the noise.
        channels_first: where the channels of a rank-4 array stand.
    """
    low, high = float(raw.min()), float(raw.max())
    spread = (high - low) or 1.0
    x = raw.astype(np.float64)
    if raw.ndim in {3, 4}:
        axes = (2, 3) if raw.ndim == 4 and channels_first else (1, 2)
        for axis in axes:
            x = (np.roll(x, 1, axis) + x + np.roll(x, -1, axis)) / 3
        x = 0.75 * x + 0.1 * spread
    else:
        x = x + 0.25 * spread
    x = np.clip(x + rng.normal(0, 0.08 * spread, x.shape), low, high)
    return (
        np.rint(x).astype(raw.dtype)
        if np.issubdtype(raw.dtype, np.integer)
        else x.astype(raw.dtype)
    )
