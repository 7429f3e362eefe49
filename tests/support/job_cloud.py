"""A real cloud for compile jobs: broker and cloud as supervised processes, workers as processes of their own.

Nothing here needs a toolchain: workers are told of toolchains that are only markers on the disk, so every
recipe that wants one fails, and targets for CPUs fall to the model as it came.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from support import artifacts, pushed_folders
from support.installation import eventually

from cloud import bootstrap
from cloud.broker import server
from cloud.supervise import Spec, Supervisor
from compiler.toolchains import catalog, install
from fleet.cli.remote import Remote

REDELIVER_S = 2.0
METRIC = """
import os, signal, time
def score(run, data):
    while os.path.exists({gate!r}):
        time.sleep(0.02)
    if os.path.exists({poison!r}):
        # The parent is the launcher that holds the limits; the compiler is the launcher's parent.
        launcher = open(f"/proc/{{os.getppid()}}/stat").read()
        os.kill(int(launcher.rpartition(")")[2].split()[1]), signal.SIGKILL)
    answer = next(iter(run({{"image": data["image"]}}).values()))
    return float((answer.argmax(1) == data["label"]).mean())
"""


def model_folder(folder: Path, *, name: str, gate: Path, poison: Path) -> Path:
    """A small model whose metric waits while `gate` is there, and kills the compiler when `poison` is."""
    pushed_folders.write(folder, name=name, samples=16)
    toml = (folder / "outrider.toml").read_text()
    (folder / "outrider.toml").write_text(
        toml.replace('name = "top1"', 'name = "own_metric:score"\nhigher_is_better = true')
    )
    (folder / "own_metric.py").write_text(METRIC.format(gate=str(gate), poison=str(poison)))
    assert np.load(folder / "evaluation.npz")["label"].size
    assert (artifacts.MODELS / "classify.onnx").exists()
    return folder


@dataclass
class WorkerProcess:
    """A running ``outrider worker``."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """As the kernel or a power cut would; its compiler dies with it."""
        self.process.kill()
        self.process.wait()

    def stop(self, within_s: float = 30) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)


@dataclass
class JobCloud:
    """The cloud, and what the tests steer it by.

    Attributes:
        gate: while this file is there, every compile waits.
        poison: while this file is there, every compile kills its compiler.
    """

    folder: Path
    installation: bootstrap.Installation
    supervisor: Supervisor
    remote: Remote
    workers: list[WorkerProcess] = field(default_factory=list)

    @property
    def gate(self) -> Path:
        return self.folder / "gate"

    @property
    def poison(self) -> Path:
        return self.folder / "poison"

    def push(self, name: str = "digits") -> str:
        folder = model_folder(
            self.folder / f"model-{name}", name=name, gate=self.gate, poison=self.poison
        )
        archive = self.folder / f"{name}.zip"
        archive.write_bytes(pushed_folders.packed(folder))
        pushed = self.remote.upload("/models", archive, kind="application/zip")
        return str(pushed["version"])

    def submit(self, *targets: str, model: str = "digits", version: str = "1") -> str:
        body = {"targets": list(targets)}
        return str(self.remote.post(f"/models/{model}/{version}/compile", body)["job"])

    def job(self, job: str) -> dict[str, Any]:
        found: dict[str, Any] = self.remote.get(f"/jobs/{job}")
        return found

    def attempts(self, job: str) -> list[tuple[str, str]]:
        """Worker and state of each attempt."""
        return [(it["worker"], it["state"]) for it in self.remote.get(f"/jobs/{job}/log")]

    def wait(self, job: str, *states: str, within_s: float = 60) -> dict[str, Any]:
        """The job, once it is in one of `states`."""

        def there() -> dict[str, Any] | None:
            with suppress(Exception):  # the cloud may be starting again
                found = self.job(job)
                return found if found["state"] in states else None
            return None

        return eventually(there, f"job in {states}", within_s)  # type: ignore[return-value]

    def wait_until_compiling(self, job: str, within_s: float = 60) -> None:
        """Some worker has begun, and its compiler is at work."""
        eventually(lambda: self.job(job)["progress"] > 0 or "fp32" in self.job(job)["message"],
                   "compiling", within_s)  # fmt: skip

    def entered(self, job: dict[str, Any]) -> list[str]:
        """Targets of the registry's artifacts that the job's report names."""
        named = {it["chosen"]["sha256"] for it in job["report"]["targets"]}
        found = self.remote.get("/artifacts")
        return sorted(it["target"] for it in found if it["sha256"] in named)

    def tidy(self) -> None:
        """End what a test left behind."""
        self.close()
        self.workers.clear()
        for file in (self.gate, self.poison):
            file.unlink(missing_ok=True)
        for job in self.remote.get("/jobs"):
            if job["state"] in {"queued", "running"}:
                self.remote.post(f"/jobs/{job['id']}/cancel")
        for worker in self.remote.get("/workers"):
            self.remote.delete(f"/workers/{worker['name']}")

    def token(self, role: str) -> str:
        return str(self.remote.post("/tokens", {"name": role, "role": role})["token"])

    def worker(
        self, name: str, *arguments: str, toolchains: tuple[str, ...] = ("onnx",)
    ) -> WorkerProcess:
        """Start a worker that believes it has `toolchains`."""
        markers = self.folder / f"toolchains-{name}"
        for each in toolchains:
            known = catalog.get(each)
            folder = markers / f"{each}-{known.lock_sha256[:12]}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / install.MARKER).write_text("{}")
        home = tempfile.mkdtemp(
            prefix=f"home-{name}-", dir=self.folder
        )  # with no compile kept in it
        environment = {
            **os.environ, "HOME": home, "OUTRIDER_TOOLCHAINS": str(markers),
            "OUTRIDER_URL": self.installation.endpoints.api, "OUTRIDER_TOKEN": self.token("worker"),
        }  # fmt: skip
        environment.pop("XDG_CACHE_HOME", None)
        log = self.folder / f"{name}.log"
        argv = [sys.executable, "-m", "fleet.cli.root", "worker", "--name", name, *arguments]
        with log.open("ab") as file:
            process = subprocess.Popen(
                argv, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        made = WorkerProcess(name, process, log)
        self.workers.append(made)
        return made

    def pid(self, name: str) -> int:
        """Process id of the broker or the cloud."""
        return self.supervisor.pids()[name]

    def kill(self, name: str) -> None:
        """Kill the broker or the cloud; its supervisor starts it again."""
        os.kill(self.pid(name), signal.SIGKILL)

    @contextmanager
    def standing_still(self, *names: str) -> Iterator[None]:
        """Stop the broker or the cloud for a while, without ending a connection."""
        pids = [self.pid(name) for name in names]
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def compilers(self) -> list[psutil.Process]:
        """Compilers that work for any worker of ours."""
        found = []
        for worker in self.workers:
            with suppress(psutil.NoSuchProcess):
                found += psutil.Process(worker.process.pid).children(recursive=True)
        return found

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.kill()


def answers(remote: Remote) -> bool:
    with suppress(Exception):
        return remote.get("/workers") is not None
    return False


@contextmanager
def start(template: Path, folder: Path, **settings: Any) -> Iterator[JobCloud]:
    """Run a cloud without a worker of its own, unless `settings` say otherwise."""
    data = folder / "data"
    shutil.copytree(template, data)
    ports = dict.fromkeys(bootstrap.PORTS, 0)
    chosen = {"worker": False, "redeliver_s": REDELIVER_S, **settings}
    installation = bootstrap.initialise(data, **ports, **chosen)
    with Supervisor(pid_dir=folder / "run") as supervisor:
        supervisor.start(server.spec(data / "broker", folder / "broker.log"))
        environment = {"OUTRIDER_TOOLCHAINS": str(folder / "no-toolchains"), "HOME": str(folder)}
        argv = (sys.executable, "-m", "cloud.main", "--data", str(data))
        supervisor.start(
            Spec(name="cloud", argv=argv, log_path=folder / "cloud.log", env=environment)
        )
        token = (data / "admin.token").read_text().strip()
        remote = Remote(installation.endpoints.api, token)
        eventually(lambda: answers(remote), "the cloud answers", 60)
        made = JobCloud(folder, installation, supervisor, remote)
        try:
            made.push()
            yield made
        finally:
            made.close()
