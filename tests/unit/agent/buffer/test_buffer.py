"""The buffer: what survives kill -9 and damage, what merges, what is evicted, and that it is told."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.buffer.store import Buffer
from agent.core.commands import Append
from fleet.telemetry import histogram
from fleet.telemetry.window import Window
from fleet.wire import codec

pytestmark = pytest.mark.agent
MIB = 1 << 20
EDGES = (0.0, 1.0, 2.0)


def window(seq: int, *, release: str = "1", inferences: int = 10) -> Append:
    made = Window(
        boot_epoch="e",
        seq=seq,
        model="digits",
        release=release,
        sha256=release * 64,
        started=float(seq),
        ended=float(seq + 1),
        inferences=inferences,
        features={"input:image:mean": histogram.empty(EDGES)},
        classes={seq % 3: inferences},
    )
    return Append(boot_epoch="e", seq=seq, kind="telemetry", payload=codec.to_msgpack(made))


def row(seq: int, kind: str = "event", size: int = 100, epoch: str = "e") -> Append:
    return Append(boot_epoch=epoch, seq=seq, kind=kind, payload=b"x" * size)


def windows(buffer: Buffer) -> list[Window]:
    rows = buffer.load(0, 100_000)
    return [codec.from_msgpack(Window, r.payload) for r in rows if r.kind == "telemetry"]


@pytest.fixture
def buffer(tmp_path: Path):
    made = Buffer(tmp_path / "buffer.sqlite", max_bytes=MIB)
    yield made
    made.close()


def test_rows_come_back_in_order_until_they_are_forgotten(buffer: Buffer):
    for seq in range(1, 6):
        buffer.append(row(seq))
    assert [r.seq for r in buffer.load(0, 10)] == [1, 2, 3, 4, 5]
    assert [r.seq for r in buffer.load(buffer.load(0, 2)[-1].position, 2)] == [3, 4]
    buffer.forget([("e", 1), ("e", 3), ("other", 4)])
    assert [r.seq for r in buffer.load(0, 10)] == [2, 4, 5]
    assert len(buffer) == 3


def test_a_position_never_comes_again(buffer: Buffer):
    buffer.append(row(1))
    first = buffer.load(0, 1)[0].position
    buffer.forget([("e", 1)])
    buffer.append(row(2))
    assert buffer.load(0, 1)[0].position > first


def test_the_same_key_is_kept_once(buffer: Buffer):
    buffer.append(row(1))
    size = buffer.size_bytes
    buffer.append(row(1, size=999))
    assert len(buffer) == 1
    assert buffer.size_bytes == size


def test_over_the_bound_windows_merge_and_no_count_is_lost(tmp_path: Path):
    buffer = Buffer(tmp_path / "b", max_bytes=24 << 10)
    for seq in range(1, 601):
        buffer.append(window(seq))
    held = windows(buffer)
    trimmed = buffer.take_trimmed()
    buffer.close()
    assert sum(w.inferences for w in held) == 6_000
    assert sum(w.merged for w in held) == 600
    assert {c: sum(w.classes.get(c, 0) for w in held) for c in range(3)} == {
        c: sum(10 for seq in range(1, 601) if seq % 3 == c) for c in range(3)
    }
    assert trimmed is not None
    assert trimmed.evicted == 0
    assert trimmed.merged == 600 - len(held)


def test_a_window_that_was_sent_is_never_merged(tmp_path: Path):
    buffer = Buffer(tmp_path / "b", max_bytes=32 << 10)
    for seq in range(1, 21):
        buffer.append(window(seq))
    buffer.load(0, 20)
    for seq in range(21, 400):
        buffer.append(window(seq))
    held = {w.seq: w for w in windows(buffer)}
    buffer.close()
    assert all(held[seq].merged == 1 for seq in range(1, 21))


def test_windows_of_other_bytes_do_not_merge(tmp_path: Path):
    buffer = Buffer(tmp_path / "b", max_bytes=16 << 10)
    for seq in range(1, 301):
        buffer.append(window(seq, release="12"[seq % 2]))
    held = windows(buffer)
    buffer.close()
    assert {w.release for w in held} == {"1", "2"}
    for release in "12":
        assert sum(w.inferences for w in held if w.release == release) == 1500


def test_reports_are_evicted_last_and_every_eviction_is_counted(tmp_path: Path):
    buffer = Buffer(tmp_path / "b", max_bytes=32 << 10)
    for seq in range(1, 11):
        buffer.append(row(seq, "reported"))
    for seq in range(11, 411):
        buffer.append(row(seq, "event", 200))
    kept = buffer.load(0, 10_000)
    trimmed = buffer.take_trimmed()
    buffer.close()
    assert [r.seq for r in kept if r.kind == "reported"] == list(range(1, 11))
    assert trimmed is not None
    assert trimmed.evicted == 410 - len(kept)
    assert kept[-1].seq == 410


def test_the_file_stays_within_its_bound(tmp_path: Path):
    path = tmp_path / "b"
    buffer = Buffer(path, max_bytes=96 << 10)
    for seq in range(1, 1001):
        buffer.append(row(seq, size=500))
        assert buffer.size_bytes <= 96 << 10
    files = sum(p.stat().st_size for p in tmp_path.iterdir())
    buffer.close()
    assert files < 8 * MIB
    assert path.stat().st_size < MIB // 2


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.just("append"), st.sampled_from(["event", "reported"]), st.integers(0, 400)
            ),
            st.tuples(st.just("forget"), st.just(""), st.integers(0, 30)),
            st.tuples(st.just("load"), st.just(""), st.integers(1, 20)),
            st.tuples(st.just("reopen"), st.just(""), st.just(0)),
        ),
        max_size=40,
    )
)
def test_any_sequence_keeps_what_was_not_acknowledged(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, str, int]]
):
    path = tmp_path_factory.mktemp("buffer") / "b"
    buffer = Buffer(path, max_bytes=MIB)
    expected: dict[int, bytes] = {}
    seq = 0
    for action, kind, number in actions:
        if action == "append":
            seq += 1
            made = row(seq, kind, number)
            buffer.append(made)
            expected[seq] = made.payload
        elif action == "forget":
            buffer.forget([("e", number)])
            expected.pop(number, None)
        elif action == "load":
            buffer.load(0, number)
        else:
            buffer.close()
            buffer = Buffer(path, max_bytes=MIB)
        assert len(buffer) == len(expected)
    found = {r.seq: r.payload for r in buffer.load(0, 1000)}
    size = buffer.size_bytes
    buffer.close()
    assert found == expected
    assert size == sum(len(p) + 160 for p in expected.values())


WRITER = """
import sys
from pathlib import Path
from agent.buffer.store import Buffer
from agent.core.commands import Append
buffer = Buffer(Path(sys.argv[1]), max_bytes=1 << 20)
for seq in range(int(sys.argv[2]), 10**9):
    buffer.append(Append(boot_epoch="e", seq=seq, kind="event", payload=b"%d" % seq * 40))
    print(seq, flush=True)
"""


def test_kill_9_loses_nothing_that_was_appended(tmp_path: Path):
    path, last = tmp_path / "b", 0
    for turn in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(last + 1)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        for _ in range(20 + 7 * turn):
            last = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split()
        last = int(rest[-1]) if rest else last
        writer.stdout.close()
        writer.wait()
        buffer = Buffer(path, max_bytes=MIB)
        found = {r.seq for r in buffer.load(0, 100_000)}
        assert set(range(1, last + 1)) <= found
        assert buffer.quarantined == ""
        last = max(found)
        buffer.close()


def test_a_damaged_row_is_dropped_and_told(tmp_path: Path):
    path = tmp_path / "b"
    buffer = Buffer(path, max_bytes=MIB)
    for seq in range(1, 4):
        buffer.append(row(seq))
    buffer.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE rows SET payload = x'00' WHERE seq = 2")
    db.close()
    buffer = Buffer(path, max_bytes=MIB)
    assert [r.seq for r in buffer.load(0, 10)] == [1, 3]
    trimmed = buffer.take_trimmed()
    assert trimmed is not None
    assert trimmed.damaged == 1
    assert len(buffer) == 2
    buffer.close()


@pytest.mark.parametrize("damage", ["junk", "torn", "zeros", "schema"])
def test_a_damaged_file_is_set_aside_and_the_daemon_goes_on(tmp_path: Path, damage: str):
    path = tmp_path / "b"
    buffer = Buffer(path, max_bytes=MIB)
    for seq in range(1, 400):
        buffer.append(row(seq, size=500))
    buffer.close()
    data = path.read_bytes()
    if damage == "junk":
        path.write_bytes(b"not a database" * 100)
    elif damage == "torn":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "zeros":
        path.write_bytes(data[:4096] + bytes(len(data) - 4096))
    else:
        with sqlite3.connect(path) as db:
            db.execute("DROP TABLE rows")
            db.execute("CREATE TABLE rows (a, b)")
        db.close()
    buffer = Buffer(path, max_bytes=MIB)
    assert "set aside" in buffer.quarantined
    assert (tmp_path / "b.damaged").exists()
    buffer.append(row(1))
    assert [r.seq for r in buffer.load(0, 10)] == [1]
    buffer.close()


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 60_000), st.binary(min_size=1, max_size=64))
@example(3950, b"@A00A0A\xd1\xe6")  # SQLite quotes the damaged schema in its message
def test_any_damage_leaves_a_buffer_that_works(
    tmp_path_factory: pytest.TempPathFactory, at: int, junk: bytes
):
    path = tmp_path_factory.mktemp("buffer") / "b"
    buffer = Buffer(path, max_bytes=MIB)
    sent = {}
    for seq in range(1, 100):
        made = row(seq, size=300 + seq)
        buffer.append(made)
        sent[seq] = made.payload
    buffer.close()
    data = bytearray(path.read_bytes())
    at %= len(data)
    data[at : at + len(junk)] = junk[: len(data) - at]
    path.write_bytes(bytes(data))
    buffer = Buffer(path, max_bytes=MIB)
    for found in buffer.load(0, 1000):
        if found.boot_epoch == "e" and found.seq in sent:
            assert found.payload == sent[found.seq], "a damaged row must not be handed out"
    buffer.append(row(1000, epoch="new"))
    assert ("new", 1000) in {(r.boot_epoch, r.seq) for r in buffer.load(0, 1000)}
    buffer.close()


def test_a_disk_that_cannot_be_written_leaves_a_buffer_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    opened = sqlite3.connect

    def refuses(path: object, **options: object) -> sqlite3.Connection:
        if path != ":memory:":
            raise sqlite3.OperationalError("attempt to write a readonly database")
        return opened(":memory:")

    monkeypatch.setattr(sqlite3, "connect", refuses)
    buffer = Buffer(tmp_path / "b", max_bytes=MIB)
    buffer.append(row(1))
    assert [r.seq for r in buffer.load(0, 10)] == [1]
    assert "in memory" in buffer.quarantined
    buffer.close()


def test_a_full_disk_costs_the_row_and_not_the_file(tmp_path: Path):
    buffer = Buffer(tmp_path / "b", max_bytes=MIB)
    for seq in range(1, 50):
        buffer.append(row(seq))
    (pages,) = buffer._db.execute("PRAGMA page_count").fetchone()
    buffer._db.execute(f"PRAGMA max_page_count = {pages}")
    for seq in range(50, 60):
        buffer.append(row(seq, size=5000))
    trimmed = buffer.take_trimmed()
    assert trimmed is not None
    assert trimmed.evicted >= 8
    assert [r.seq for r in buffer.load(0, 49)] == list(range(1, 50))
    assert buffer.quarantined == ""
    buffer.close()
