"""The demo's processes: the cloud, the devices, the traffic; everything in one folder, on loopback.

Rules:
- Commands of the story go through the real command line, as an operator's would.
- Every process is a child of the supervisor (or ends with its standard input), so none outlives the demo.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from cloud.supervise import Spec, Supervisor
from fleet.errors import OutriderError
from simulator.faults.relay import Relay
from simulator.faults.runtime import RELEASES_VARIABLE

POLL_S = 0.1
WINDOW_S = 2

T = TypeVar("T")


class DemoError(OutriderError):
    """A step of the demo did not do what it should."""

    code = "demo.failed"


@dataclass
class Device:
    """One agent of the demo."""

    name: str
    folder: Path
    runtimes: tuple[str, ...]
    relay: Relay | None = None
    faulty_release: str = ""
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        """Its configuration file."""
        return self.folder / "agent.toml"


def wait_for(probe: Callable[[], T | None], *, what: str, timeout_s: float) -> T:
    """Poll until `probe` returns something true.

    Raises:
        DemoError: it did not within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise DemoError(
                f"expected {what} within {timeout_s:.0f} s; it did not happen; see the logs"
            )
        time.sleep(POLL_S)


class World:
    """The running cloud, devices and traffic. Close it to end them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "cloud"
        self.logs = folder / "logs"
        self.supervisor = Supervisor(pid_dir=folder / "pids")
        self.devices: dict[str, Device] = {}
        self.traffic: Traffic | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process."""
        if self.traffic is not None:
            self.traffic.close()
        self.supervisor.close()
        for device in self.devices.values():
            if device.relay is not None:
                device.relay.close()

    def start_cloud(self) -> dict[str, Any]:
        """Start the cloud and its broker; return where they listen."""
        argv = (sys.executable, "-m", "fleet.cli.root", "up", "--data", str(self.data))
        self.supervisor.start(Spec("up", argv, self.logs / "up.log"))
        endpoints = self.data / "endpoints.json"

        def ready() -> dict[str, Any] | None:
            if self.supervisor.status("up").starts > 1:
                raise DemoError(f"the cloud does not start; see {self.logs / 'up.log'}")
            if not endpoints.exists():
                return None
            found: dict[str, Any] = json.loads(endpoints.read_text(encoding="utf-8"))
            return found if self.cli_ok("device", "list") else None

        return wait_for(ready, what="the cloud to answer", timeout_s=60)

    def login_link(self) -> str:
        """The link that ``outrider up`` printed for the first visit of the dashboard; empty when none."""
        found = re.search(r"http\S+/login/once/\S+", (self.logs / "up.log").read_text("utf-8"))
        return found.group() if found else ""

    def cli(self, *arguments: str, timeout_s: float = 240) -> Any:
        """Run ``outrider ARGUMENTS --json`` and return its document.

        Raises:
            DemoError: it failed; the message is the command's own.
        """
        done = self._run(arguments, timeout_s)
        if done.returncode:
            raise DemoError(
                f"outrider {' '.join(arguments)}: {(done.stderr or done.stdout).strip()[-2000:]}"
            )
        return json.loads(done.stdout)

    def cli_ok(self, *arguments: str) -> bool:
        """Whether a command succeeds now."""
        return self._run(arguments, 30).returncode == 0

    def add_device(self, device: Device) -> None:
        """Claim, enrol and start one device."""
        claim = self.cli("device", "claim", device.name, "--label", "site=demo")
        device.folder.mkdir(parents=True, exist_ok=True)
        device.config.write_text(_config(device), encoding="utf-8")
        argv = [
            sys.executable,
            "-m",
            "agent.cli",
            "enroll",
            "--config",
            str(device.config),
            "--url",
            claim["url"],
        ]
        argv += ["--code", claim["code"], "--ca-sha256", claim["ca_sha256"]]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise DemoError(f"{device.name}: enrolment failed: {done.stderr.strip()[-1000:]}")
        self.devices[device.name] = device
        self.start_agent(device)

    def start_agent(self, device: Device) -> None:
        """Start the agent's daemon as a supervised process."""
        argv = (sys.executable, "-m", "agent.cli", "run", "--config", str(device.config))
        env = {RELEASES_VARIABLE: device.faulty_release} if device.faulty_release else {}
        self.supervisor.start(Spec(device.name, argv, self.logs / f"{device.name}.log", env=env))

    def agent_status(self, device: str) -> dict[str, Any]:
        """What ``outrider-agent status --json`` says; empty while it cannot answer."""
        argv = [
            sys.executable,
            "-m",
            "agent.cli",
            "status",
            "--json",
            "--config",
            str(self.devices[device].config),
        ]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        return dict(json.loads(done.stdout)) if done.returncode == 0 and done.stdout.strip() else {}

    def start_traffic(self, model_folder: Path) -> Traffic:
        """Start the application that sends the held-out data."""
        self.traffic = Traffic(model_folder, self.logs / "traffic.log")
        return self.traffic

    def _run(
        self, arguments: tuple[str, ...], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "fleet.cli.root", *arguments, "--json"]
        env = {**os.environ, "OUTRIDER_DATA": str(self.data)}
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout_s, env=env, check=False
        )


class Traffic:
    """The traffic process and its line protocol."""

    def __init__(self, model_folder: Path, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log.open("ab")
        argv = [sys.executable, "-m", "simulator.demo.traffic", str(model_folder)]
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        self._lock = threading.Lock()
        self._answer()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, op: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its answer.

        Raises:
            DemoError: the process refused or is gone.
        """
        with self._lock:
            if self._process.stdin is None or self._process.poll() is not None:
                raise DemoError("the traffic process is gone; see traffic.log")
            self._process.stdin.write(json.dumps({"op": op, **parameters}) + "\n")
            self._process.stdin.flush()
            return self._answer()

    def close(self) -> None:
        """End the process by ending its input."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise DemoError("the traffic process ended; see traffic.log")
        answer: dict[str, Any] = json.loads(line)
        if not answer.get("ok"):
            raise DemoError(f"traffic: {answer.get('error')}")
        return answer


def _config(device: Device) -> str:
    lines = [
        f'state_dir = "{device.folder / "state"}"',
        f"runtimes = {json.dumps(device.runtimes)}",
    ]
    if device.faulty_release:
        lines.append('runtime_wrapper = "simulator.faults.runtime:wrong_answers"')
    if device.relay is not None:
        lines += ["[broker]", 'host = "127.0.0.1"', f"port = {device.relay.port}"]
    lines += [
        "[telemetry]",
        f"window_s = {WINDOW_S}",
        "[probation]",
        "good_answers = 20",
        "max_s = 60",
    ]
    lines += ["[labels]", 'site = "demo"']
    return "\n".join(lines) + "\n"
