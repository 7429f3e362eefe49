"""Histograms, merging and the detector against numpy's own histogram of the same values."""

from __future__ import annotations

import statistics
from functools import reduce

import harness
import numpy as np

from fleet.drift import calibrate, detect
from fleet.telemetry import histogram

VALUES = 1_000_000
DEVICES = 10_000


def main() -> None:
    """Run and save."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=VALUES)
    edges = histogram.edges_of(values[:10_000])
    bins = np.array([-np.inf, *edges, np.inf])
    seconds = harness.interleaved(
        {
            "outrider": lambda: histogram.of(edges, values),
            "numpy.histogram": lambda: np.histogram(values, bins),
        },
        rounds=9,
    )
    small = [histogram.of(edges, rng.normal(size=64)) for _ in range(DEVICES)]
    merging = harness.interleaved(
        {"merge": lambda: reduce(histogram.merge, small)}, rounds=3, warmup=1
    )
    feature = calibrate.feature("input:x:mean", values[:2000], rng=rng, features_n=1)
    window = histogram.of(feature.reference.edges, rng.normal(size=128))
    judging = harness.interleaved(
        {"judge": lambda: detect.judge([feature], {feature.name: window})}, rounds=200
    )
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    harness.save(
        "telemetry",
        {
            "values_per_s": round(VALUES / medians["outrider"]),
            "ratio_to_numpy_histogram": round(medians["numpy.histogram"] / medians["outrider"], 2),
            "merge_of_10000_devices": harness.summary(merging["merge"]),
            "judge_one_feature": harness.summary(judging["judge"]),
            "raw": {name: harness.summary(times) for name, times in seconds.items()},
        },
        "numpy",
    )


if __name__ == "__main__":
    main()
