"""Engine builds in virtual time: they take minutes, say how far they are, and run out of memory now and then.

Rules:
- One build at a time on a device; when power goes away it is lost, what was finished lies on the disk.
- The same artifact built twice gives the same engine only from the cache: two builds differ.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.core import commands as cmd
from agent.core import events as ev
from agent.errors import BuildMemoryError
from simulator.errors import ViolationError
from simulator.virtual.schedule import Schedule

BUILD_S = (20.0, 240.0)
CACHED_S = (0.2, 2.0)
HUNGRY = 0.1
"""Share of builds that find too little memory."""


@dataclass
class Builder:
    """A device's builder.

    Attributes:
        post: hands an event to the device's core, as long as this boot lasts.
        file: where the finished engines are listed, on the device's disk.
        building: the model whose build runs; empty for none.
    """

    schedule: Schedule
    rng: random.Random
    post: Callable[[ev.Event], None]
    file: Path
    building: str = ""
    _turn: int = 0

    def engines(self) -> dict[str, str]:
        """Sha256 of each engine, by that of its artifact."""
        found: dict[str, str] = json.loads(self.file.read_text()) if self.file.exists() else {}
        return found

    def take(self, command: cmd.Command) -> bool:
        """Plan a command on a build; false when it is none."""
        if isinstance(command, cmd.Build):
            self._begin(command)
        elif isinstance(command, cmd.CancelBuild):
            self.building = "" if self.building == command.model else self.building
        else:
            return False
        return True

    def _begin(self, command: cmd.Build) -> None:
        if self.building:
            raise ViolationError(f"{self.building} and {command.model} are built at the same time")
        self.building = command.model
        self._turn += 1
        turn = self._turn
        takes_s = self.rng.uniform(*(CACHED_S if command.sha256 in self.engines() else BUILD_S))

        def when(act: Callable[[cmd.Build], None]) -> Callable[[], None]:
            def later() -> None:
                if self.building == command.model and self._turn == turn:
                    act(command)

            return later

        self.schedule.after(takes_s / 2, when(self._half))
        self.schedule.after(takes_s, when(self._end))

    def _half(self, command: cmd.Build) -> None:
        self.post(ev.BuildProgress(model=command.model, sha256=command.sha256, fraction=0.5))

    def _end(self, command: cmd.Build) -> None:
        self.building = ""
        engines = self.engines()
        if command.sha256 not in engines and self.rng.random() < HUNGRY:
            failed = ev.BuildFailed(
                model=command.model,
                sha256=command.sha256,
                code=BuildMemoryError.code,
                detail="expected more free memory",
                retryable=BuildMemoryError.retryable,
            )
            self.post(failed)
            return
        made = f"{command.sha256} {self.rng.getrandbits(64)}".encode()
        engine = engines.setdefault(command.sha256, hashlib.sha256(made).hexdigest())
        self.file.write_text(json.dumps(engines))
        self.post(
            ev.Built(
                model=command.model, sha256=command.sha256, engine=engine, detail="built in virtual time"
            )
        )  # fmt: skip
