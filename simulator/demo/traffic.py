"""An application's traffic: held-out data sent to every served model, in a process of its own.

Run as ``python -m simulator.demo.traffic FOLDER``. Commands come as JSON lines on standard input,
answers go as JSON lines to standard output:

- ``{"op": "route", "device": D, "url": U, "model": M}`` begins to send to a device, or moves it;
- ``{"op": "drift", "device": D, "on": true}`` sends what a dirty lens would see;
- ``{"op": "score", "device": D}`` answers with the folder's metric over the whole evaluation set;
- ``{"op": "counts"}`` answers with what was sent and what failed, per device.

It ends when its standard input ends.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from compiler.evaluate import custom, metrics
from compiler.graph import data as datasets
from compiler.graph import folder as folders
from fleet.errors import OutriderError
from simulator.demo.oip import Arrays, Client
from simulator.faults import lens

BATCH = 4
PAUSE_S = 0.04


class Route(threading.Thread):
    """Traffic to one device."""

    def __init__(
        self, device: str, url: str, model: str, data: Arrays, *, batch: int, seed: int
    ) -> None:
        super().__init__(name=f"traffic-{device}", daemon=True)
        self.url, self.model = url, model
        self.drift = threading.Event()
        self.done = threading.Event()
        self.sent = self.failed = 0
        self.last_error = ""
        self.data = data
        self.batch = batch
        self._rng = np.random.default_rng(seed)

    def run(self) -> None:
        """Send batches until told to stop."""
        client = Client(self.url, self.model)
        while not self.done.wait(PAUSE_S):
            try:
                client.infer(self._batch())
                self.sent += 1
            except OutriderError as error:
                self.failed += 1
                self.last_error = str(error)
        client.close()

    def _batch(self) -> Arrays:
        count = len(next(iter(self.data.values())))
        rows = self._rng.integers(0, count, self.batch or BATCH)
        batch = {name: array[rows] for name, array in self.data.items()}
        if self.drift.is_set():
            batch = {name: lens.dirty(array, self._rng) for name, array in batch.items()}
        return batch


class Traffic:
    """All routes, and the commands."""

    def __init__(self, model_folder: Path) -> None:
        self._folder = folders.load(model_folder)
        self._data: Arrays = datasets.load(self._folder.evaluation)
        self._routes: dict[str, Route] = {}

    def handle(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry one command out and return its answer."""
        device = command.get("device", "")
        match command["op"]:
            case "route":
                self._route(device, command["url"], command["model"])
                return {"ok": True}
            case "drift":
                drift = self._routes[device].drift
                (drift.set if command["on"] else drift.clear)()
                return {"ok": True}
            case "score":
                return {"ok": True, **self._score(device)}
            case "counts":
                return {
                    "ok": True,
                    "devices": {name: self._counts(route) for name, route in self._routes.items()},
                }
        return {"ok": False, "error": f"unknown op {command['op']!r}"}

    def stop(self) -> None:
        """End all routes."""
        for route in self._routes.values():
            route.done.set()

    def _route(self, device: str, url: str, model: str) -> None:
        old = self._routes.get(device)
        if old is not None:
            if (old.url, old.model) == (url, model):
                return
            old.done.set()
            old.join(timeout=15)
        inputs, batch = self._inputs(url, model)
        route = Route(device, url, model, inputs, batch=batch, seed=len(self._routes))
        if old is not None:
            route.sent, route.failed = old.sent, old.failed
        self._routes[device] = route
        route.start()

    def _counts(self, route: Route) -> dict[str, Any]:
        return {"sent": route.sent, "failed": route.failed, "last_error": route.last_error}

    def _inputs(self, url: str, model: str) -> tuple[Arrays, int]:
        """The arrays that the served model takes, and its batch size; 0 when that may vary."""
        client = Client(url, model)
        try:
            specs = client.metadata()["inputs"]
        finally:
            client.close()
        batch = max(0, int(specs[0]["shape"][0])) if specs[0]["shape"] else 0
        return {spec["name"]: self._data[spec["name"]] for spec in specs}, batch

    def _score(self, device: str) -> dict[str, Any]:
        route = self._routes[device]
        client = Client(route.url, route.model)
        try:
            return {
                "metric": self._folder.metric.name,
                "value": self._value(client, route),
            }
        finally:
            client.close()

    def _value(self, client: Client, route: Route) -> float:
        """The folder's metric over the whole evaluation set, asked of a device."""
        rule = self._folder.metric
        if rule.custom:
            return custom.score(self._folder, lambda feeds: client.infer(dict(feeds)), self._data)[
                0
            ]
        metric = metrics.get(rule)
        names = list(route.data)
        step = route.batch or self._folder.max_batch
        count = len(self._data[names[0]])
        parts = []
        for lo in range(0, count, step):
            answers = client.infer({name: self._data[name][lo : lo + step] for name in names})
            scores = answers[rule.output or next(iter(answers))]
            parts.append(metric.statistic(scores, self._data["label"][lo : lo + step], rule))
        return metric.reduce(np.concatenate(parts))


def main() -> None:
    """Read commands until the input ends."""
    traffic = Traffic(Path(sys.argv[1]))
    print(json.dumps({"ok": True, "event": "ready"}), flush=True)  # noqa: T201 - the protocol is lines on standard output
    for line in sys.stdin:
        try:
            answer = traffic.handle(json.loads(line))
        except (OutriderError, KeyError) as error:
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)  # noqa: T201 - as above
    traffic.stop()


if __name__ == "__main__":
    main()
