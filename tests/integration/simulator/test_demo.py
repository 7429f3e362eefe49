"""The whole story, as a user starts it, also with a process killed in the middle, and interrupted."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.toolchain, pytest.mark.timeout(600)]

ARGV = [sys.executable, "-m", "fleet.cli.root", "demo", "--once"]


def run_demo(*options, folder):
    done = subprocess.run(
        [*ARGV, "--data", str(folder), *options],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout)


def step(summary, number):
    return next(s["figures"] for s in summary["steps"] if s["number"] == number)


def test_the_story_completes_although_each_of_its_processes_is_killed(tmp_path):
    seed = int.from_bytes(os.urandom(4), "big")
    victims = ["broker", "cloud", "agent"]
    print(f"the moments were chosen by --seed {seed}")
    kills = [option for victim in victims for option in ("--kill", victim)]
    summary = run_demo(*kills, "--seed", str(seed), folder=tmp_path)
    assert [s["ok"] for s in summary["steps"]] == [True] * 8
    assert summary["seconds"] < 300
    statuses = {t["target"]: t["status"] for t in step(summary, 3)["targets"]}
    assert statuses == {"litert-cpu": "accepted", "onnx-cpu": "accepted", "rtx-ada": "unproven"}
    rollout = step(summary, 5)
    assert rollout["killed"] == victims
    assert rollout["listeners_off_loopback"] == []
    assert rollout["waves"] == ["passed", "passed"]
    assert all(abs(value - rollout["fp32"]) <= 0.02 for value in rollout["devices"].values())
    offline = step(summary, 6)
    assert offline["answered_offline"] > 0
    assert offline["buffered"] > 0
    assert offline["missing"] == 0
    final = step(summary, 8)
    assert set(final["running"].values()) == {"digits@1"}
    assert (
        len(final["failed_requests"]) == 2
    )  # the third device's agent was killed while it answered
    assert not any(final["failed_requests"].values())


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "mine").write_text("precious")
    done = subprocess.run(
        [*ARGV, "--data", str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "empty folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_demo_leaves_no_process_behind(tmp_path, how):
    process = subprocess.Popen(
        [*ARGV, "--data", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        family = wait_for(lambda: _family(process.pid, at_least=3), timeout_s=120)
        process.send_signal(how)
        process.wait(timeout=60)
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive
    finally:
        process.kill()
        process.wait()


def _family(pid, *, at_least):
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        pytest.fail("the demo ended by itself")
    return children if len(children) >= at_least else None


def wait_for(probe, *, timeout_s):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := probe():
            return found
        time.sleep(0.05)
    pytest.fail("it did not happen in time")
