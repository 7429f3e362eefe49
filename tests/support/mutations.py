"""Mutated inputs for the compiler's readers: models, data and descriptions that almost hold.

Every mutation is drawn from a seeded generator: the number of an input is all that it takes to make it
again. Some work on bytes, as damage does; others on the parsed message, as an attacker would.
"""

from __future__ import annotations

import io
import os
import random
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import TensorProto, helper, numpy_helper
from support import model_folders
from support.model_folders import info

MODELS = Path(__file__).parent.parent / "data" / "models"
CORPUS = Path(os.environ.get("OUTRIDER_CORPUS") or Path(__file__).parents[3] / "shared/corpus/dev")
MAX_SEED_BYTES = 1536 << 10

NUMBERS = (
    -(1 << 63), -(1 << 31), -1, 0, 1, 2, 3, 7, 255, 1 << 16, 1 << 31, 1 << 40, (1 << 62) + 1, (1 << 63) - 1,
)  # fmt: skip
TEXTS = (
    "", "x", "image", "ai.onnx", "evil", "Relu", "If", "Loop", "../../etc/passwd", "/etc/passwd",
    "weights.bin", "a" * 300, "nul\0l", "éè", "'; --",
)  # fmt: skip


@cache
def models() -> tuple[bytes, ...]:
    """Real models to mutate: small files of the tests and the corpus, and every construct that is read."""
    found = [model_folders.classifier(opset=opset) for opset in (7, 9, 11, 13, 17)]
    found += [_branching(), _calling(), _sparse(), _external()]
    files = [*sorted(MODELS.glob("*.onnx")), *sorted(CORPUS.glob("*/model.onnx"))]
    data = [file.read_bytes() for file in files if file.stat().st_size <= MAX_SEED_BYTES]
    return tuple([model.SerializeToString() for model in found] + data)


@cache
def archives() -> tuple[bytes, ...]:
    """Data files to mutate."""
    images = np.random.default_rng(0).normal(0, 1, (4, 3, 8, 8)).astype(np.float32)
    label = np.arange(4)
    plain, packed = io.BytesIO(), io.BytesIO()
    np.savez(plain, image=images, label=label)
    np.savez_compressed(packed, image=np.asfortranarray(images), label=label.astype(np.uint8))
    return plain.getvalue(), packed.getvalue()


def model(rng: random.Random) -> bytes:
    """A mutated model."""
    data = rng.choice(models())
    if rng.random() < 0.5:
        return damaged(data, rng)
    made = onnx.load_model_from_string(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        rng.choice(_ON_MODELS)(made, rng)
    data = made.SerializeToString()
    return damaged(data, rng) if rng.random() < 0.1 else data


def archive(rng: random.Random) -> bytes:
    """A mutated npz file."""
    data = rng.choice(archives())
    return damaged(data, rng) if rng.random() < 0.5 else _repacked(data, rng)


def description(rng: random.Random) -> bytes:
    """A mutated ``outrider.toml``."""
    return damaged(model_folders.TOML.encode(), rng)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, cut, doubled, moved or replaced."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if not found:
            break
        at, length = rng.randrange(len(found)), rng.choice((1, 1, 2, 4, 16, 256))
        kind = rng.randrange(6)
        if kind == 0:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at : at + length] = rng.randbytes(length)
        elif kind == 2:
            del found[at:]
        elif kind == 3:
            del found[at : at + length]
        elif kind == 4:
            found[at:at] = found[rng.randrange(len(found)) :][:length]
        else:
            found[at : at + length] = bytes([rng.choice((0, 127, 128, 255))]) * length
    return bytes(found)


def _repacked(data: bytes, rng: random.Random) -> bytes:
    """The archive with members whose headers lie, twice, damaged, or of other kinds."""
    buffer = io.BytesIO()
    method = rng.choice(
        (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    )
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", method) as new:
        for name in old.namelist():
            member = old.read(name)
            kind = rng.randrange(5)
            if kind == 0:
                member = member.replace(b"(4,", f"({rng.choice(NUMBERS)},".encode(), 1)
            elif kind == 1:
                dtype = rng.choice(
                    (b"|O", b"<f2", b">f8", b"<c8", b"<M8[s]", b"|V9", b"<U5", b"|S0")
                )
                member = member.replace(b"<f4", dtype, 1)
            elif kind == 2:
                member = damaged(member, rng)
            new.writestr(rng.choice((name, name, name, "label.npy", "x", "../y.npy")), member)
    return buffer.getvalue()


# --- on parsed models --------------------------------------------------------------------------------


def _any_field(made: onnx.ModelProto, rng: random.Random) -> None:
    """Change a field of a message somewhere below the model."""
    message: Message = made
    for _ in range(rng.randrange(1, 9)):
        below = [
            value
            for field, value in message.ListFields()
            if field.type == field.TYPE_MESSAGE
            for value in (value if field.is_repeated else [value])
        ]
        if not below:
            break
        message = rng.choice(below)
    fields = [f for f in message.DESCRIPTOR.fields if f.type != f.TYPE_MESSAGE]
    if not fields:
        return
    field = rng.choice(fields)
    try:
        value = _value(field, rng)
        if field.is_repeated:
            getattr(message, field.name).extend([value] * rng.choice((1, 1, 3)))
        elif rng.random() < 0.2:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, value)
    except (ValueError, TypeError, UnicodeError):
        return  # a number that the field does not hold


def _value(field, rng: random.Random):
    if field.type == field.TYPE_STRING:
        return rng.choice(TEXTS)
    if field.type == field.TYPE_BYTES:
        return rng.randbytes(rng.choice((0, 1, 4, 300)))
    if field.type in {field.TYPE_FLOAT, field.TYPE_DOUBLE}:
        return rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e38))
    if field.type == field.TYPE_ENUM:
        return rng.randrange(0, 30)
    return rng.choice(NUMBERS)


def _rewired(made: onnx.ModelProto, rng: random.Random) -> None:
    """Have a node use or make another value."""
    names = [name for node in made.graph.node for name in (*node.input, *node.output)]
    node = rng.choice(made.graph.node) if made.graph.node else None
    side = node and (node.input if rng.random() < 0.6 else node.output)
    if side:
        side[rng.randrange(len(side))] = rng.choice(names + list(TEXTS[:3]))


def _shuffled(made: onnx.ModelProto, rng: random.Random) -> None:
    nodes = list(made.graph.node)
    rng.shuffle(nodes)
    del made.graph.node[:]
    made.graph.node.extend(nodes)


def _dropped(made: onnx.ModelProto, rng: random.Random) -> None:
    parts = [
        made.graph.node,
        made.graph.initializer,
        made.graph.input,
        made.graph.output,
        made.functions,
    ]
    part = rng.choice([p for p in parts if len(p)] or [made.opset_import])
    if len(part):
        del part[rng.randrange(len(part))]


def _doubled(made: onnx.ModelProto, rng: random.Random) -> None:
    parts = [
        made.graph.node,
        made.graph.initializer,
        made.graph.input,
        made.graph.output,
        made.functions,
    ]
    part = rng.choice([p for p in parts if len(p)] or [made.opset_import])
    if len(part):
        part.add().CopyFrom(rng.choice(part))


def _resized(made: onnx.ModelProto, rng: random.Random) -> None:
    """Give an initializer or an input another shape."""
    if made.graph.initializer and rng.random() < 0.5:
        tensor = rng.choice(made.graph.initializer)
        dims = [rng.choice(NUMBERS) for _ in range(rng.choice((0, 1, 2, 70)))]
        del tensor.dims[:]
        tensor.dims.extend(dims)
    elif made.graph.input:
        rng.choice(made.graph.input).CopyFrom(info("image", [rng.choice(NUMBERS), "n"]))


def _versioned(made: onnx.ModelProto, rng: random.Random) -> None:
    if made.opset_import:
        one = rng.choice(made.opset_import)
        one.version = rng.choice((*NUMBERS, *range(1, 30)))
        one.domain = rng.choice((one.domain, one.domain, *TEXTS))


def _operator(made: onnx.ModelProto, rng: random.Random) -> None:
    if made.graph.node:
        node = rng.choice(made.graph.node)
        node.op_type = rng.choice(
            ("Relu", "If", "Loop", "Scan", "Resize", "Upsample", "LSTM", "Nope")
        )
        node.domain = rng.choice(("", "", "ai.onnx", "com.microsoft", "evil"))


_ON_MODELS: Sequence[Callable[[onnx.ModelProto, random.Random], None]] = (
    _any_field, _any_field, _any_field, _rewired, _shuffled, _dropped, _doubled, _resized, _versioned,
    _operator,
)  # fmt: skip


# --- seeds that hold every construct -----------------------------------------------------------------


def _made(nodes, inputs, initializers=(), **more) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "seed", inputs, [info("y", ["n", 2])], initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)


def _branching() -> onnx.ModelProto:
    """`If` within `If`."""
    leaf = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["a"])], "leaf", [], [info("a", ["n", 2])]
    )
    inner = helper.make_node("If", ["c"], ["b"], then_branch=leaf, else_branch=leaf)
    body = helper.make_graph([inner], "body", [], [info("b", ["n", 2])])
    outer = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=leaf)
    return _made([outer], [info("x", ["n", 2]), info("c", [], TensorProto.BOOL)])


def _calling() -> onnx.ModelProto:
    """Functions that call functions."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    low = helper.make_function(
        "mine", "low", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opsets
    )
    calls = [helper.make_node("low", ["a"], ["b"], domain="mine")]
    high = helper.make_function("mine", "high", ["a"], ["b"], calls, opsets)
    node = helper.make_node("high", ["x"], ["y"], domain="mine")
    return _made([node], [info("x", ["n", 2])], functions=[low, high])


def _sparse() -> onnx.ModelProto:
    made = _made([helper.make_node("Add", ["x", "w"], ["y"])], [info("x", ["n", 2])])
    sparse = made.graph.sparse_initializer.add(dims=[2])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), ""))
    return made


def _external() -> onnx.ModelProto:
    """Weights in ``weights.bin``, which the campaign writes beside the model."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", "offset": "4", "length": "8"}.items():
        tensor.external_data.add(key=key, value=value)
    return _made([helper.make_node("Add", ["x", "w"], ["y"])], [info("x", ["n", 2])], [tensor])
