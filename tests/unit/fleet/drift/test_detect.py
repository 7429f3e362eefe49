from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.drift import calibrate, detect
from fleet.errors import CallerError
from fleet.telemetry import histogram

pytestmark = pytest.mark.agent


def _feature(values, name="input:x:mean", **options):
    return calibrate.feature(name, values, rng=np.random.default_rng(5), **options)


def _judge(feature, values):
    return detect.judge(
        [feature], {feature.name: histogram.of(feature.reference.edges, np.asarray(values))}
    )


def _rate(*, reference_n, window_n, shift, alpha, trials, windows=20):
    """Share of windows that fire, over fresh references."""
    rng = np.random.default_rng(11)
    fired = 0
    for _ in range(trials):
        feature = _feature(rng.normal(size=reference_n), windows_n=(window_n,), alpha=alpha)
        fired += sum(
            _judge(feature, rng.normal(size=window_n) + shift).changed for _ in range(windows)
        )
    return fired / (trials * windows)


@pytest.mark.parametrize(("reference_n", "window_n"), [(100, 32), (100, 512), (400, 128)])
def test_false_alarms_stay_at_the_nominal_rate(reference_n, window_n):
    rate = _rate(reference_n=reference_n, window_n=window_n, shift=0.0, alpha=0.02, trials=60)
    assert 0.002 <= rate <= 0.04  # nominal .02, 1,200 windows


def test_small_shifts_are_found_in_large_windows():
    assert _rate(reference_n=1000, window_n=512, shift=0.25, alpha=0.01, trials=5) >= 0.8
    assert _rate(reference_n=200, window_n=128, shift=0.5, alpha=0.01, trials=10) >= 0.8
    assert _rate(reference_n=200, window_n=32, shift=1.0, alpha=0.01, trials=10) >= 0.9


def test_the_rate_is_shared_over_features():
    values = np.random.default_rng(1).normal(size=300)
    alone = _feature(values, features_n=1).thresholds
    shared = _feature(values, features_n=10).thresholds
    assert all(shared[n] > alone[n] for n in alone)


def test_thresholds_fall_with_the_window_and_repeat_with_the_seed():
    values = np.random.default_rng(1).normal(size=300)
    feature = _feature(values)
    sizes = sorted(feature.thresholds)
    assert sizes == list(calibrate.WINDOWS_N)
    assert all(
        feature.thresholds[a] > feature.thresholds[b]
        for a, b in zip(sizes, sizes[1:])  # noqa: B905, RUF007 - itertools.pairwise reads no better
    )
    assert feature == _feature(values)


def test_between_calibrated_sizes_the_threshold_falls_steadily():
    feature = _feature(np.random.default_rng(1).normal(size=300))
    found = [detect.threshold_for(feature, n) for n in range(16, 1025)]
    assert None not in found
    assert detect.threshold_for(feature, 15) is None
    assert detect.threshold_for(feature, 10**6) == feature.thresholds[1024]
    for size in (16, 64, 512):
        assert detect.threshold_for(feature, size) == pytest.approx(feature.thresholds[size])
        midway = detect.threshold_for(feature, size * 3 // 2)
        assert midway is not None
        assert feature.thresholds[size * 2] * 0.9 < midway < feature.thresholds[size]


def test_a_window_too_small_is_not_judged():
    feature = _feature(np.random.default_rng(1).normal(size=300))
    assert not _judge(feature, np.full(15, 50.0)).changed
    assert _judge(feature, np.full(16, 50.0)).changed


def test_values_that_are_not_finite_are_a_change():
    feature = _feature(np.random.default_rng(1).normal(size=300))
    window = np.random.default_rng(2).normal(size=128)
    assert not _judge(feature, window).changed
    window[:64] = np.nan
    assert _judge(feature, window).changed


def test_a_constant_reference_is_never_judged():
    feature = _feature(np.full(100, 3.0))
    assert feature.thresholds == {}
    assert not _judge(feature, np.full(100, 4.0)).changed


def test_the_feature_that_moved_is_named():
    rng = np.random.default_rng(3)
    features = [_feature(rng.normal(size=300), name=f"input:{n}:mean", features_n=3) for n in "abc"]
    windows = {
        f.name: histogram.of(f.reference.edges, rng.normal(size=128) + (f.name == "input:b:mean"))
        for f in features
    }
    verdict = detect.judge(features, windows)
    assert verdict.changed
    assert verdict.feature == "input:b:mean"
    assert verdict.score > 1


def test_histograms_of_another_artifact_are_left_out():
    feature = _feature(np.random.default_rng(3).normal(size=300))
    foreign = histogram.of((0.0, 1.0), np.full(500, 9.0))
    assert detect.judge([feature], {feature.name: foreign}).score == 0
    assert detect.judge([feature], {}).score == 0


def _confidence(rng, n, mean):
    return np.clip(rng.normal(mean, 0.1, n), 0, 1)


def test_a_fall_of_confidence_is_harmful_and_a_rise_is_not():
    rng = np.random.default_rng(4)
    feature = _feature(_confidence(rng, 400, 0.8), name="output:y:confidence")
    assert _judge(feature, _confidence(rng, 128, 0.7)).harmful
    risen = _judge(feature, _confidence(rng, 128, 0.95))
    assert (risen.changed, risen.harmful) == (True, False)


def test_a_fall_too_small_to_matter_is_not_harmful():
    rng = np.random.default_rng(4)
    feature = _feature(_confidence(rng, 4000, 0.8), name="output:y:confidence")
    verdict = _judge(feature, _confidence(rng, 4000, 0.77))
    assert (verdict.changed, verdict.harmful) == (True, False)


def test_a_changed_input_alone_is_not_harmful():
    rng = np.random.default_rng(4)
    verdict = _judge(_feature(rng.normal(size=400)), rng.normal(size=128) - 3)
    assert (verdict.changed, verdict.harmful) == (True, False)


def test_a_reference_without_values_is_refused():
    with pytest.raises(CallerError):
        _feature(np.array([np.nan]))


@given(
    st.lists(st.floats(-1e3, 1e3) | st.just(np.nan), min_size=1, max_size=40).filter(
        lambda v: not np.isnan(v).all()
    ),
    st.lists(st.floats(width=64), min_size=0, max_size=60),
)
def test_any_window_is_judged(reference, window):
    feature = calibrate.feature(
        "output:y:confidence", np.array(reference), rng=np.random.default_rng(0), windows_n=(4, 16)
    )
    verdict = _judge(feature, window)
    assert verdict.changed == (verdict.score > 1)
    assert verdict.score >= 0
