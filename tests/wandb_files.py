"""What an offline run of wandb wrote: wandb ships the types of its messages and no reader of its files."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def records(folder: Path) -> Iterator[Any]:
    """The messages in a run's one ``.wandb`` file, as far as it is written.

    It is LevelDB's log format (blocks of 32 KiB; records of checksum, length, kind, bytes) after a header of its own.
    """
    from wandb.proto import wandb_internal_pb2

    [path] = folder.glob("*.wandb")
    data, place, message = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (rest := 32768 - place % 32768) < 7:
            place += rest
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        if place + 7 + length > len(data):
            return  # still being written
        message += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(message)
            message = b""


def history(folder: Path) -> dict[int, dict[str, Any]]:
    """What was logged, by step."""
    logged: dict[int, dict[str, Any]] = {}
    for record in records(folder):
        items = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
        if items:
            values = {name: json.loads(value) for name, value in items.items()}
            logged.setdefault(values["_step"], {}).update(values)
    return logged


def begun(folder: Path) -> Any:
    """The run as it was begun: its project, group, job type, display name and configuration."""
    return next(record.run for record in records(folder) if record.HasField("run"))
