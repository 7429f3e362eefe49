"""What the demo reads of the running system: the registry's API, the agents' words, the sockets."""

from __future__ import annotations

import json
from typing import Any

import psutil

from fleet.cli.remote import Remote
from fleet.errors import OutriderError
from simulator.demo.world import World, wait_for


class Watch:
    """Reads; it changes nothing."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.endpoints: dict[str, Any] = json.loads(
            (world.data / "endpoints.json").read_text(encoding="utf-8")
        )
        token = (world.data / "admin.token").read_text(encoding="utf-8").strip()
        self._remote = Remote.find(self.endpoints["api"], token)

    def get(self, path: str, **query: Any) -> Any:
        """A document of the API; asked again while the cloud restarts."""

        def answer() -> tuple[Any] | None:
            try:
                return (self._remote.get(path, **query),)
            except OutriderError as error:
                if not error.retryable:
                    raise
                return None

        return wait_for(answer, what=f"the cloud to answer {path}", timeout_s=30)[0]

    def device(self, name: str) -> dict[str, Any]:
        """The registry's page of a device."""
        return dict(self.get(f"/devices/{name}"))

    def online(self, name: str) -> bool:
        """Whether the registry sees the device online."""
        return bool(self.device(name)["line"]["online"])

    def all_online(self) -> int | None:
        """How many devices are online, when it is all of the demo's."""
        count = sum(self.online(name) for name in self._world.devices)
        return count if count == len(self._world.devices) else None

    def gaps(self, name: str) -> dict[str, Any]:
        """What the registry misses of a device's numbered rows, and its windows of telemetry."""
        page = self.device(name)
        return {"missing": page["missing"], "windows": len(page["windows"])}

    def model_on(self, name: str, model: str) -> dict[str, Any]:
        """What a device says of a model; empty before it said anything."""
        lines = [line for line in self.device(name)["line"]["models"] if line["model"] == model]
        return dict(lines[0]) if lines else {}

    def releases(self, model: str) -> dict[str, str]:
        """The release that answers on each device."""
        return {
            name: str(self.model_on(name, model).get("release", "")) for name in self._world.devices
        }

    def drift(self, name: str) -> dict[str, Any]:
        """Both verdicts on a device: its own detector's and the registry's."""
        drifts = [line["drift"] for line in self.device(name)["line"]["models"]]
        worst: dict[str, Any] = max(
            drifts, key=lambda d: float(d.get("device_score", 0.0)), default={}
        )
        return {
            "device": any(d.get("device_changed") for d in drifts),
            "registry": any(d.get("registry_changed") for d in drifts),
            "device_score": worst.get("device_score", 0.0),
            "registry_score": worst.get("registry_score", 0.0),
            "feature": worst.get("feature", ""),
        }

    def rollout(self, identity: str) -> dict[str, Any]:
        """A rollout with its waves and members."""
        return dict(self.get(f"/rollouts/{identity}"))

    def reference_metric(self, model: str, version: int) -> float:
        """The fp32 model's figure on the held-out data."""
        artifacts = self.get("/artifacts", model=model, version=str(version))
        return float(next(a["metric"]["reference"] for a in artifacts if a.get("metric")))

    def pid_of(self, process: str) -> int:
        """Process id of ``broker``, ``cloud`` or a device."""
        folder = (
            self._world.folder / "pids"
            if process in self._world.devices
            else self._world.data / "run"
        )
        path = folder / f"{process}.pid"

        def pid() -> int | None:
            return int(path.read_text()) if path.exists() and path.read_text().strip() else None

        return wait_for(pid, what=f"process {process} to run", timeout_s=30)

    def listeners_off_loopback(self) -> list[str]:
        """Listening sockets of the demo's processes that are reachable from elsewhere; must be none."""
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        found = []
        for process in family:
            try:
                connections = process.net_connections("inet")
            except psutil.NoSuchProcess:
                continue
            found += [
                f"{c.laddr.ip}:{c.laddr.port}"
                for c in connections
                if c.status == psutil.CONN_LISTEN and c.laddr.ip not in {"127.0.0.1", "::1"}
            ]
        return found
