"""External data: read from files that lie inside the model's folder, into the model itself.

Rules:
- A location is a relative path; links are followed before it is judged, so that none leads outside.
- What a tensor's shape asks for is what is read: a wrong length or a range beyond the file's end is told
  before a byte is.
"""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto, TensorProto

from compiler.errors import ModelError
from compiler.graph import tensors, walk
from compiler.graph.onnx_model import MAX_MODEL_BYTES


def inline(where: str, folder: Path, model: ModelProto) -> list[bytes]:
    """Read external data into the model; returns what was read.

    Raises:
        ModelError: a file that is missing, lies outside, or is shorter than a tensor says.
    """
    read: list[bytes] = []
    total = model.ByteSize()
    for tensor in walk.tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        file, offset, length = _range(where, folder, tensor)
        total += length
        if total > MAX_MODEL_BYTES:
            raise ModelError(
                f"{where}: expected at most {MAX_MODEL_BYTES} bytes with external data, found more at "
                f"tensor {tensor.name!r}; one file cannot hold them"
            )
        with file.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(length)
        read.append(data)
        tensor.raw_data = data
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
    return read


def _range(where: str, folder: Path, tensor: TensorProto) -> tuple[Path, int, int]:
    """The file, offset and length of a tensor's data."""
    named = f"{where}: tensor {tensor.name!r}"
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = _file(named, folder, entries.get("location", ""))
    size = file.stat().st_size
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(max(0, size - offset))))
    except ValueError:
        raise ModelError(
            f"{named}: expected whole numbers as offset and length of its external data, found "
            f"{entries.get('offset', '')[:40]!r} and {entries.get('length', '')[:40]!r}"
        ) from None
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelError(
            f"{named}: expected external data within {file.name} of {size} bytes, found {length} bytes at "
            f"{offset}; the file is truncated, or belongs to another model"
        )
    expected = tensors.expected_bytes(tensor)
    if expected is not None and expected != length:
        raise ModelError(
            f"{named}: expected {expected} bytes of external data for shape {list(tensor.dims)}, "
            f"found {length} in {file.name}"
        )
    return file, offset, length


def _file(named: str, folder: Path, location: str) -> Path:
    home = folder.resolve()
    try:
        file = (home / location).resolve()
        inside = bool(location) and file.is_relative_to(home)
        there = inside and file.is_file()
    except (OSError, ValueError, RuntimeError):  # a name that is none, or links in a circle
        inside = there = False
    if not inside:
        raise ModelError(
            f"{named}: expected external data inside the model's folder, found location {location[:200]!r}, "
            "which is not; put the file beside the model"
        )
    if not there:
        raise ModelError(
            f"{named}: expected external data in the file {location[:200]!r} beside the model, found none; "
            "copy it there"
        )
    return file
