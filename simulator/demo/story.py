"""The demo's story: eight steps from an ONNX file to a fleet's answers and back to the registry.

Rules:
- Each step checks what it shows; a step that did not do what it should ends the story with an error.
- Figures come from the running system: the report, the registry's API, the agents, the traffic.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulator.demo import digits
from simulator.demo.watch import Watch
from simulator.demo.world import WINDOW_S, DemoError, Device, World, wait_for
from simulator.faults.relay import Relay

TARGETS = ("litert-cpu", "onnx-cpu", "rtx-ada")
OFFLINE_S = 4 * WINDOW_S
LITERT_FIRST = ("litert", "onnxruntime")
ONNX_FIRST = ("onnxruntime", "litert")


@dataclass
class Step:
    """One step of the story, as the summary shows it."""

    number: int
    title: str
    ok: bool = False
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What the caller asked for.

    Attributes:
        folder: everything the demo makes stands below it.
        model_folder: the user's own model; None for the digits.
        kill: processes to kill with SIGKILL, each at its own random moment of the rollout.
        seed: of those moments.
    """

    folder: Path
    model_folder: Path | None = None
    kill: tuple[str, ...] = ()
    seed: int = 0


Say = Callable[[str], None]


class Story:
    """Runs the steps in order, in one world."""

    def __init__(
        self, plan: Plan, world: World, *, say: Say, began: Callable[[Step], None]
    ) -> None:
        self.plan = plan
        self.world = world
        self.steps: list[Step] = []
        self._say = say
        self._began = began
        self._watch: Watch
        self._model = ""
        self._folder = plan.folder / "model-1"
        self._killed: set[str] = set()

    def run(self) -> None:
        """Run all steps.

        Raises:
            DemoError: a step did not do what it should.
        """
        for number, step in enumerate(
            (
                self.start_cloud,
                self.obtain_model,
                self.compile,
                self.enrol,
                self.roll_out,
                self.go_offline,
                self.drift,
                self.fail_and_roll_back,
            ),
            start=1,
        ):
            title = (step.__doc__ or "").strip().rstrip(".")
            record = Step(number, title)
            self.steps.append(record)
            self._began(record)
            started = time.monotonic()
            try:
                record.figures = step()
                record.ok = True
            finally:
                record.seconds = round(time.monotonic() - started, 2)

    def start_cloud(self) -> dict[str, Any]:
        """Start the cloud and its broker."""
        endpoints = self.world.start_cloud()
        self._watch = Watch(self.world)
        self._say(f"dashboard: {endpoints['dashboard']}")
        self._say(f"sign in once with {self.world.login_link()}")
        return {
            "dashboard": endpoints["api"],
            "broker": f"mqtts://{endpoints['broker_host']}:{endpoints['broker_port']}",
        }

    def obtain_model(self) -> dict[str, Any]:
        """Obtain a real model on real labelled data."""
        if self.plan.model_folder is not None:
            self._folder = self.plan.model_folder
        else:
            self._say("training a small CNN on 1,000 real handwritten digits")
            digits.write_folder(self._folder, version=1)
        pushed = self.world.cli("model", "push", str(self._folder))
        self._model = pushed["name"]
        return {"model": f"{pushed['name']}@{pushed['version']}", "sha256": pushed["sha256"]}

    def compile(self) -> dict[str, Any]:
        """Compile for three targets through isolated toolchains."""
        self.world.cli("toolchain", "install", timeout_s=900)
        report = self._compile(1)
        statuses = {t["target"]: t["status"] for t in report["targets"]}
        expected = {"litert-cpu": "accepted", "onnx-cpu": "accepted", "rtx-ada": "unproven"}
        own = self.plan.model_folder is not None
        enough = "accepted" in statuses.values() if own else statuses == expected
        if not enough:
            reasons = {t["target"]: t.get("reason") for t in report["targets"]}
            raise DemoError(f"expected the targets {expected}, found {statuses}: {reasons}")
        return {"targets": [_target_figures(t) for t in report["targets"]]}

    def enrol(self) -> dict[str, Any]:
        """Sign a release and enrol three devices."""
        release = self.world.cli("release", "create", f"{self._model}@1")
        endpoints = self._watch.endpoints
        relay = Relay(endpoints["broker_host"], int(endpoints["broker_port"]))
        root = self.plan.folder
        for device in (
            Device("camera-1", root / "camera-1", LITERT_FIRST),
            Device("camera-2", root / "camera-2", ONNX_FIRST, faulty_release=f"{self._model}@2"),
            Device("camera-3", root / "camera-3", LITERT_FIRST, relay=relay),
        ):
            self.world.add_device(device)
            self._say(f"{device.name}: enrolled by claim code and certificate request")
        online = wait_for(self._watch.all_online, what="three devices online", timeout_s=60)
        return {
            "release": release["release"]["id"],
            "variants": [variant["target"] for variant in release["release"]["variants"]],
            "left_out": release["left_out"],
            "devices_online": online,
        }

    def roll_out(self) -> dict[str, Any]:
        """Roll out in two waves, then answer real traffic."""
        self.world.start_traffic(self._folder)
        killers = [self._killer(victim, number) for number, victim in enumerate(self.plan.kill)]
        rollout = self._start_rollout(1)
        final = self._follow(rollout, until=("succeeded",))
        for killer in killers:
            killer.join()
        scores = {device: self._ask("score", device=device) for device in self.world.devices}
        strangers = self._watch.listeners_off_loopback()
        if strangers:
            raise DemoError(f"expected listeners on loopback addresses only, found {strangers}")
        reference = self._watch.reference_metric(self._model, 1)
        return {
            "rollout": final["line"]["state"],
            "waves": [wave["status"] for wave in final["waves"]],
            "metric": next(iter(scores.values()))["metric"],
            "fp32": reference,
            "devices": {device: score["value"] for device, score in scores.items()},
            "killed": list(self.plan.kill),
            "listeners_off_loopback": strangers,
        }

    def go_offline(self) -> dict[str, Any]:
        """Take a device offline; it goes on answering, buffers, and catches up."""
        device, relay = "camera-3", self.world.devices["camera-3"].relay
        if relay is None:
            raise DemoError("camera-3 has no relay to cut")
        before = self._counts(device)
        relay.cut()
        wait_for(
            lambda: not self._watch.online(device),
            what=f"{device} to be seen offline",
            timeout_s=30,
        )
        time.sleep(OFFLINE_S)
        buffered = self.world.agent_status(device).get("buffered", 0)
        during = self._counts(device)
        relay.mend()
        wait_for(lambda: self._watch.online(device), what=f"{device} to come back", timeout_s=60)
        wait_for(
            lambda: self.world.agent_status(device).get("buffered", 1) == 0 or None,
            what=f"{device} to deliver its buffer",
            timeout_s=60,
        )
        gaps = self._watch.gaps(device)
        answered = during["sent"] - before["sent"]
        failed = during["failed"] - before["failed"]
        if failed or not answered or not buffered or gaps["missing"]:
            raise DemoError(
                f"expected answers while offline, a filled buffer and no gap; found {answered} answered, "
                f"{failed} failed, {buffered} buffered, gaps {gaps}"
            )
        return {
            "answered_offline": answered,
            "failed_offline": failed,
            "buffered": buffered,
            **gaps,
        }

    def drift(self) -> dict[str, Any]:
        """Let one device's lens get dirty; device and registry both see it."""
        device = "camera-1"
        quiet = self._watch.drift(device)
        self._ask("drift", device=device, on=True)
        seen = wait_for(
            lambda: (d := self._watch.drift(device))["device"] and d["registry"] and d,
            what=f"the device's detector and the registry to see drift on {device}",
            timeout_s=60,
        )
        others = {name: self._watch.drift(name) for name in self.world.devices if name != device}
        self._ask("drift", device=device, on=False)
        if (
            quiet["device"]
            or quiet["registry"]
            or any(o["device"] or o["registry"] for o in others.values())
        ):
            raise DemoError(f"expected no drift before and elsewhere; found {quiet} and {others}")
        return {"drifted": device, **seen}

    def fail_and_roll_back(self) -> dict[str, Any]:
        """Roll out a version that fails on one device; gate, local rollback, operator's rollback."""
        folder = self._second_version()
        self.world.cli("model", "push", str(folder))
        self._compile(2, targets=TARGETS[:2])
        self.world.cli("release", "create", f"{self._model}@2")
        rollout = self._start_rollout(2)
        paused = self._follow(rollout, until=("paused",))
        failed = self._watch.model_on("camera-2", self._model)
        if (
            failed["release"] != f"{self._model}@1"
            or self._ask("score", device="camera-2")["value"] <= 0
        ):
            raise DemoError(f"expected camera-2 to go on with release 1, found {failed}")
        self.world.cli("rollout", "rollback", rollout)
        self._follow(rollout, until=("rolled_back",))
        running = wait_for(
            lambda: (
                (r := self._watch.releases(self._model))
                and set(r.values()) == {f"{self._model}@1"}
                and r
            ),
            what="every device to run release 1 again",
            timeout_s=60,
        )
        counts = {name: self._counts(name) for name in self.world.devices}
        failed_requests = {
            name: c["failed"] for name, c in counts.items() if name not in self._killed
        }
        if any(failed_requests.values()):
            raise DemoError(f"expected no failed request in the whole story, found {counts}")
        return {
            "rollout": "rolled_back",
            "paused_because": paused["line"]["reason"],
            "failed_on": "camera-2",
            "error": failed["error_code"],
            "running": running,
            "requests": {name: count["sent"] for name, count in counts.items()},
            "failed_requests": failed_requests,
        }

    def _second_version(self) -> Path:
        """Other digits trained anew; of the user's own model the same, described anew."""
        folder = self.plan.folder / "model-2"
        if self.plan.model_folder is None:
            return digits.write_folder(folder, version=2)
        shutil.copytree(self.plan.model_folder, folder)
        with (folder / "outrider.toml").open("a", encoding="utf-8") as description:
            description.write("\n# Pushed again as the demo's second version.\n")
        return folder

    def _compile(self, version: int, targets: tuple[str, ...] = TARGETS) -> dict[str, Any]:
        asked = [option for target in targets for option in ("--target", target)]
        job = self.world.cli("compile", f"{self._model}@{version}", *asked, timeout_s=600)
        report: dict[str, Any] = job["report"]
        for target in report["targets"]:
            for line in _candidate_lines(target):
                self._say(line)
        return report

    def _start_rollout(self, version: int) -> str:
        waves = ("--wave", "34", "--wave", "100", "--soak", "1s")
        started = self.world.cli("rollout", "start", f"{self._model}@{version}", *waves)
        return str(started["line"]["id"])

    def _follow(self, rollout: str, *, until: tuple[str, ...]) -> dict[str, Any]:
        """Wait for a rollout's state, telling each change of a device on the way."""
        told: dict[str, str] = {}

        def reached() -> dict[str, Any] | None:
            view = self._watch.rollout(rollout)
            state, reason = view["line"]["state"], view["line"]["reason"]
            for member in view["members"]:
                line = _member_line(member)
                if told.get(member["device"]) != line:
                    told[member["device"]] = line
                    self._say(f"{view['line']['release']}: {line}")
                self._send_traffic(member["device"])
            if state in {"aborted", "rolled_back", "paused"} and state not in until:
                raise DemoError(f"rollout {rollout} is {state}: {reason}")
            return view if state in until else None

        return wait_for(
            reached, what=f"rollout {rollout} to be {' or '.join(until)}", timeout_s=120
        )

    def _send_traffic(self, device: str) -> None:
        """Let the application talk to a device as soon as that serves the model, wherever it does."""
        url = self._watch.model_on(device, self._model).get("url")
        if url:
            self._ask("route", device=device, url=url, model=self._model)

    def _ask(self, op: str, **parameters: Any) -> dict[str, Any]:
        if self.world.traffic is None:
            raise DemoError("the traffic has not been started")
        return self.world.traffic.ask(op, **parameters)

    def _counts(self, device: str) -> dict[str, Any]:
        return dict(self._ask("counts")["devices"][device])

    def _killer(self, victim: str, number: int) -> threading.Thread:
        """A thread that kills a process, or one of the agents, at a random moment of the rollout."""
        moment = random.Random(self.plan.seed + number)  # noqa: S311 - a moment, not a secret
        delay_s, agent = moment.uniform(0.0, 5.0), moment.choice(sorted(self.world.devices))

        process = agent if victim == "agent" else victim
        self._killed.add(process)

        def kill() -> None:
            time.sleep(delay_s)
            pid = self._watch.pid_of(process)
            self._say(f"kill -9 {victim} (pid {pid}), {delay_s:.1f} s into the rollout")
            os.kill(pid, signal.SIGKILL)

        thread = threading.Thread(target=kill, name=f"killer-{victim}")
        thread.start()
        return thread


def _member_line(member: dict[str, Any]) -> str:
    if member["wave"] < 0:
        return f"{member['device']}: waits for its wave"
    state = member["update_state"] if member["state"] == "assigned" else member["state"]
    return f"wave {member['wave'] + 1}: {member['device']}: {state or 'assigned'}"


def _target_figures(target: dict[str, Any]) -> dict[str, Any]:
    chosen = target.get("chosen") or {}
    return {
        "target": target["target"],
        "status": target["status"],
        "evidence": target.get("evidence"),
        "recipe": chosen.get("recipe"),
        "size_bytes": chosen.get("size_bytes"),
        "metric": chosen.get("metric"),
        "latency_ms": chosen.get("latency_ms"),
    }


def _candidate_lines(target: dict[str, Any]) -> list[str]:
    lines = []
    for candidate in target["candidates"]:
        metric = candidate.get("metric") or {}
        whose = "its stand-in: " if candidate["verdict"] == "unproven" else ""
        figures = "no figures"
        if metric:
            figures = f"{metric['name']} {metric['value']:.4f} (fp32 {metric['reference']:.4f})"
        parity = candidate.get("parity") or {}
        if parity.get("cosine_min") is not None:
            figures += f", cosine {parity['cosine_min']:.4f}"
        line = (
            f"{target['target']}: {candidate['recipe']}: {candidate['verdict']}: {whose}{figures}"
        )
        if candidate["verdict"] != "accepted":
            line += f"; {candidate['reason']}"
        lines.append(line)
    return lines
