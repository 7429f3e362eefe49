"""What devices send, stored once, whatever the network does with it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from support.artifacts import images
from support.clouds import Cloud, enrol

from cloud.errors import DeniedError
from cloud.services import enrolment, ingest, views
from fleet.artifact.manifest import TensorSpec
from fleet.drift import calibrate
from fleet.registry.errors import NotFoundError
from fleet.registry.repositories import Devices, Telemetry
from fleet.registry.tables import DeviceModel
from fleet.telemetry import features, histogram
from fleet.telemetry.window import DriftVerdict, Window
from fleet.wire.messages import (
    Birth,
    Event,
    EventLevel,
    ModelStatus,
    Reported,
    Status,
    TelemetryBatch,
)

SHA = "ab" * 32
IMAGE = [TensorSpec(name="image", dtype="float32", shape=[None, 3, 8, 8])]


def window(seq: int, **changes: object) -> Window:
    fields = {
        "boot_epoch": "epoch-1", "seq": seq, "model": "digits", "release": "1", "sha256": SHA,
        "started": 1000.0 + seq, "ended": 1001.0 + seq, "inferences": 10,
    }  # fmt: skip
    return Window(**(fields | changes))


def batch(*windows: Window) -> TelemetryBatch:
    return TelemetryBatch(device="a", windows=list(windows))


def stored(cloud: Cloud) -> list[int]:
    with cloud.context.read() as session:
        return sorted(row.seq for row in Telemetry(session).windows("a"))


def missing(cloud: Cloud) -> int:
    with cloud.context.read() as session:
        return views.device(session, "a").missing


@pytest.fixture(autouse=True)
def _device(cloud: Cloud) -> None:
    enrol(cloud, "a").connect()


def test_any_order_any_repetition_stores_each_window_once(cloud: Cloud) -> None:
    rng = random.Random(3)
    batches: list[Sequence[int]] = [(1, 2, 3), (3, 4), (2,), (6, 5), (1, 6)]
    for _ in range(3):
        rng.shuffle(batches)
        for seqs in batches:
            acked = ingest.telemetry(cloud.context, batch(*map(window, seqs)))
            assert acked == {"epoch-1": list(seqs)}, "what is stored already is acknowledged again"
    assert stored(cloud) == [1, 2, 3, 4, 5, 6]
    with cloud.context.read() as session:
        assert views.device_line(session, "a").models == []
        assert Telemetry(session).totals() == {("a", "digits"): (60, 0)}


def test_missing_windows_are_noticed_and_filled(cloud: Cloud) -> None:
    ingest.telemetry(cloud.context, batch(window(1), window(4)))
    assert missing(cloud) == 2
    ingest.telemetry(cloud.context, batch(window(2, merged=2)))
    assert missing(cloud) == 0, "a merged window stands for those it was merged from"


def test_rows_of_all_kinds_share_one_sequence(cloud: Cloud) -> None:
    event = Event(
        device="a", boot_epoch="epoch-1", seq=2, at=1.0, code="disk.low", text="5 %",
        level=EventLevel.WARNING, figures={"free": float("nan")},
    )  # fmt: skip
    ingest.telemetry(cloud.context, batch(window(1), window(3)))
    assert ingest.event(cloud.context, event) == {"epoch-1": [2]}
    ingest.event(cloud.context, event)
    assert missing(cloud) == 0
    with cloud.context.read() as session:
        (line,) = views.events(session, "a")
        assert (line.code, line.level) == ("disk.low", "warning")
        assert msgspec.json.encode(views.device(session, "a"))


def test_a_terminal_report_never_regresses(cloud: Cloud) -> None:
    def report(seq: int, state: str, *, counter: int = 1, epoch: str = "epoch-1") -> str:
        message = Reported(
            device="a", boot_epoch=epoch, seq=seq, model="digits", release="1", sha256=SHA,
            assignment_counter=counter, state=state, at=1.0,
            terminal=state in {"committed", "failed"},
        )  # fmt: skip
        ingest.reported(cloud.context, message)
        with cloud.context.read() as session:
            row = Devices(session).model("a", "digits")
            assert row is not None
            return row.state

    assert report(2, "probation") == "probation"
    assert report(1, "fetching") == "probation", "an earlier report that came late"
    assert report(4, "committed") == "committed"
    assert report(3, "activating") == "committed", "late again"
    assert report(1, "fetching", epoch="epoch-2") == "committed", "after a restart, same assignment"
    assert report(2, "fetching", counter=2, epoch="epoch-2") == "fetching", "a newer assignment"
    assert report(9, "failed", counter=1) == "fetching", "an older assignment's report, much later"


def test_a_birth_that_comes_late_does_not_take_back_the_end_of_an_assignment(cloud: Cloud) -> None:
    device = enrol(cloud, "b")

    def born(counter: int) -> DeviceModel:
        under_way = ModelStatus(
            model="digits", release="1", sha256=SHA, state="fetching", counter=counter
        )
        device.connect(models=[under_way], assignment_counter=counter)
        with cloud.context.read() as session:
            row = Devices(session).model("b", "digits")
            assert row is not None
            return row

    assert born(5).state == "fetching"
    message = Reported(
        device="b", boot_epoch="e", seq=7, model="digits", release="2", sha256=SHA,
        assignment_counter=5, state="failed", at=1.0, terminal=True, error_code="agent.self_test",
    )  # fmt: skip
    ingest.reported(cloud.context, message)
    late = born(5)
    assert (late.state, late.error_code) == ("failed", "agent.self_test")
    assert (born(6).state, born(6).counter) == ("fetching", 6), "a newer assignment is spoken of"
    assert born(4).counter == 6, "an older birth, much later"


def test_a_birth_sets_what_the_device_is_and_runs(cloud: Cloud) -> None:
    device = enrol(cloud, "b")
    running = ModelStatus(
        model="digits", release="1", sha256=SHA, state="committed", url="http://x"
    )
    device.connect(models=[running], labels={"site": "north"}, buffered=7)
    with cloud.context.read() as session:
        line = views.device_line(session, "b")
    assert (line.online, line.buffered, line.labels) == (True, 7, {"site": "north"})
    assert (line.models[0].release, line.models[0].url) == ("digits@1", "http://x")
    ingest.status(cloud.context, Status(device="b", online=False))
    with cloud.context.read() as session:
        assert views.device_line(session, "b").online is False


def test_the_answer_to_a_birth_carries_its_nonce_and_the_time(cloud: Cloud) -> None:
    desired = enrol(cloud, "b").connect(nonce="only-this-once")
    assert (desired.nonce, desired.now) == ("only-this-once", cloud.clock.now)


def test_strangers_and_revoked_devices_are_refused(cloud: Cloud) -> None:
    with pytest.raises(NotFoundError, match="'ghost'"):
        ingest.telemetry(cloud.context, TelemetryBatch(device="ghost", windows=[window(1)]))
    with cloud.context.unit() as unit:
        enrolment.revoke(unit, "a", actor="op")
    for send in (
        lambda: ingest.telemetry(cloud.context, batch(window(1))),
        lambda: ingest.event(
            cloud.context, Event(device="a", boot_epoch="e", seq=1, at=1.0, code="c", text="t")
        ),
        lambda: ingest.birth(
            cloud.context,
            Birth(
                device="a", boot_epoch="e", agent_version="0", hardware_class="h", runtimes=[],
                models=[], trust={}, nonce="n",
            ),
        ),
    ):  # fmt: skip
        with pytest.raises(DeniedError, match="revoked"):
            send()
    assert stored(cloud) == []


def test_a_release_is_summed_over_all_devices(cloud: Cloud) -> None:
    digests = cloud.release()
    latency = histogram.of(
        (1.0, 2.0, 4.0), np.array([0.5, 1.5, 1.5, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 9.0])
    )
    for name, seqs in (("a", (1, 2)), ("b", (1,))):
        if name == "b":
            enrol(cloud, "b").connect()
        windows = [
            window(
                seq, sha256=digests["litert-cpu"], ended=cloud.clock.now, latency_ms=latency,
                classes={3: 9, 7: 1}, merged=seq,
            )
            for seq in seqs
        ]  # fmt: skip
        ingest.telemetry(cloud.context, TelemetryBatch(device=name, windows=windows))
    with cloud.context.read() as session:
        litert, onnx = views.traffic(session, "digits@1", now=cloud.clock.now)
        later = views.traffic(session, "digits@1", now=cloud.clock.now + 7200)
    assert (onnx.target, onnx.devices, onnx.inferences) == ("onnx-cpu", 0, 0)
    assert (litert.devices, litert.windows, litert.inferences, litert.left_out) == (2, 4, 30, 0)
    assert (litert.latency_ms_p50, litert.latency_ms_p95) == (4.0, 4.0)
    assert litert.classes == {"3": 27, "7": 3}
    assert [each.inferences for each in later] == [0, 0]


def test_the_registry_sees_drift_by_itself(cloud: Cloud) -> None:
    """Blurred inputs after sharp ones: the same detector, over merged windows, turns once."""
    names = features.names_for(IMAGE, [])
    reference = features.of({"image": images(512)}, {}, names=names)
    rng = np.random.default_rng(0)
    watched = [
        calibrate.feature(n, v, rng=rng, features_n=len(names)) for n, v in reference.items()
    ]
    artifact = cloud.add_artifact(features=watched)
    edges = {feature.name: feature.reference.edges for feature in watched}

    def send(seq: int, batch_of_images: np.ndarray) -> None:
        values = features.of({"image": batch_of_images}, {}, names=names)
        histograms = {name: histogram.of(edges[name], values[name]) for name in names}
        ingest.telemetry(
            cloud.context,
            batch(
                window(
                    seq,
                    sha256=artifact.sha256,
                    inferences=len(batch_of_images),
                    features=histograms,
                    drift=DriftVerdict(changed=seq > 10, score=float(seq)),
                )
            ),
        )

    def drifting() -> bool:
        with cloud.context.read() as session:
            state = Telemetry(session).drift("a", "digits")
            return state is not None and state.changed

    for seq in range(1, 11):
        send(seq, images(32, seed=seq))
    assert not drifting()
    cloud.notes.clear()
    for seq in range(11, 19):
        noisy = images(32, seed=seq)
        send(seq, (noisy + np.roll(noisy, 1, 3)) / 2)
    assert drifting()
    turns = [note for note in cloud.notes if note.topic == "drift"]
    assert len(turns) == 1
    with cloud.context.read() as session:
        state = Telemetry(session).drift("a", "digits")
        assert state is not None
        assert (state.sha256, state.samples) == (artifact.sha256, 256)
