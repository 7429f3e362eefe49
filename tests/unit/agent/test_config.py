"""The configuration: strict, and every mistake says where, what was expected and what was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import config
from agent.errors import ConfigError

pytestmark = pytest.mark.agent

WHOLE = """
state_dir = "state"
hardware_class = "jetson-orin-nano"
runtimes = ["litert", "onnxruntime"]
runtime_wrapper = "package.module:function"
[broker]
host = "127.0.0.1"
port = 8883
[serving]
host = "0.0.0.0"
[serving.ports]
digits = 9000
[telemetry]
window_s = 5
buffer_max_mib = 8
[probation]
good_answers = 20
max_s = 60
[build]
memory_floor_mib = 256
[labels]
site = "north"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return path


def test_the_whole_file(tmp_path: Path):
    found = config.load(write(tmp_path, WHOLE), {})
    assert found.state_path == tmp_path / "state"
    assert found.hardware_class == "jetson-orin-nano"
    assert found.serving.ports == {"digits": 9000}
    assert found.telemetry.window_s == 5.0
    assert found.labels == {"site": "north"}


def test_an_empty_file_has_sensible_values(tmp_path: Path):
    found = config.load(write(tmp_path, ""), {})
    assert found.hardware_class.startswith("cpu-")
    assert found.serving.host == "127.0.0.1"
    assert found.state_path.is_absolute()


def test_systemds_state_directory_is_the_default(tmp_path: Path):
    assert config.load(None, {"STATE_DIRECTORY": str(tmp_path)}).state_path == tmp_path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stat_dir = 'x'", "stat_dir"),
        ("[broker]\nport = 'x'", r"broker\.port: expected `int`.*found 'x'"),
        ("[broker]\nport = 70000", r"broker\.port: expected `int` <= 65535, found 70000"),
        ("[serving.ports]\ndigits = 'x'", r"serving\.ports.*'digits': 'x'"),
        ("[serving.ports]\n'a b' = 1", r"serving\.ports"),
        ("[telemetry]\nwindow_s = 0", r"telemetry\.window_s.*found 0"),
        ("[telemetry]\nwindow = 5", r"telemetry.*`window`"),
        ("[probation]\ngood_answers = -1", r"probation\.good_answers.*found -1"),
        ("runtimes = 'litert'", r"runtimes: expected `array`.*found 'litert'"),
        ("labels = 5", r"labels: expected `object`.*found 5"),
        ("hardware_class = 'a b'", r"hardware_class.*found 'a b'"),
        ("= 5", "expected TOML"),
        ("broker = 5", r"broker: expected `object`"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, says: str):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=says) as caught:
        config.load(path, {})
    assert str(path) in str(caught.value)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(ConfigError, match="No such file"):
        config.load(tmp_path / "none.toml", {})


def test_a_file_that_is_no_text(tmp_path: Path):
    path = tmp_path / "agent.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="expected TOML"):
        config.load(path, {})


@pytest.mark.parametrize("name", sorted(config.variables()))
def test_every_key_has_a_variable_that_overrides_it(tmp_path: Path, name: str):
    values = {
        "PORT": "99", "KEEPALIVE_S": "60", "THREADS": "3", "PORTS": "{digits = 7}",
        "WINDOW_S": "7.5", "HEALTH_S": "8", "BUFFER_MAX_MIB": "9", "GOOD_ANSWERS": "11",
        "MAX_S": "12", "TIMEOUT_S": "13", "MEMORY_FLOOR_MIB": "14", "WORKSPACE_MIB": "15", "CACHE_MAX_MIB": "16",
        "LABELS": '{site = "x"}', "RUNTIMES": '["litert"]',
    }  # fmt: skip
    key = config.variables()[name]
    text = next((v for end, v in values.items() if name.endswith(end)), "text")
    before = config.load(write(tmp_path, WHOLE), {})
    after = config.load(write(tmp_path, WHOLE), {name: text})
    for part in key[:-1]:
        before, after = getattr(before, part), getattr(after, part)
    assert getattr(before, key[-1]) != getattr(after, key[-1])


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"OUTRIDER_AGENT_BROKER_PROT": "1"}, "OUTRIDER_AGENT_BROKER_PROT"),
        ({"OUTRIDER_AGENT_BROKER_PORT": "x y"}, "expected a TOML value"),
        ({"OUTRIDER_AGENT_BROKER_PORT": "70000"}, "broker.port"),
    ],
)
def test_variables_are_as_strict(env: dict[str, str], says: str):
    with pytest.raises(ConfigError, match=says):
        config.load(None, env)
