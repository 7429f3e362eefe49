"""The demo's own model: what is written, and that training can be stopped."""

import signal

import pytest
from sklearn import cluster, datasets, neural_network  # noqa: F401 - so that the time goes into training

from compiler.graph import data, folder
from simulator.cli import demo
from simulator.demo import digits


def test_the_folder_is_one_that_the_compiler_takes(tmp_path):
    written = folder.load(digits.write_folder(tmp_path / "digits", version=1))
    evaluation, calibration = data.load(written.evaluation), data.load(written.calibration)
    assert written.name == "digits"
    assert len(evaluation["image"]) == 500
    assert len(calibration["image"]) == digits.CALIBRATION
    seen = {image.tobytes() for image in calibration["image"]}
    assert sum(image.tobytes() in seen for image in evaluation["image"]) <= 2


def test_training_can_be_interrupted(tmp_path):
    before = [
        (number, signal.getsignal(number))
        for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)
    ]
    signal.signal(signal.SIGALRM, demo._interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.7)
    try:
        with pytest.raises(demo.Interrupted):
            digits.write_folder(tmp_path / "digits", version=1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before:
            signal.signal(number, handler)
