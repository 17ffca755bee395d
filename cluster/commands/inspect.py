"""`raydix inspect`: what a model is, what it takes, and how much of it fits."""

import argparse
import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds, and other commands read this file too
    from workers.weights.inspection import Inspection, Room

UNITS = {"": 1, "B": 1, "MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def add_inspect_options(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("model", metavar="DIR_OR_ID", help="model directory or Hugging Face Hub id")
    parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")
    parser.add_argument(
        "--memory", type=read_bytes, metavar="SIZE", help="what is to hold weights and KV, as 24GiB (this machine's)"
    )
    parser.add_argument("--group-size", type=int, default=64, metavar="N", help="weights per int4 scale (64)")
    parser.set_defaults(command=run_inspect)


def read_bytes(text: str) -> int:
    """A size as 24GiB, 80GB or 1000. Raises ArgumentTypeError for any other text."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([a-zA-Z]*)", text)
    if found is None or found[2].upper() not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write one as 24GiB, 80GB or 1000")
    return int(float(found[1]) * UNITS[found[2].upper()])


def run_inspect(options: argparse.Namespace) -> None:
    """Print what there is to know. Raises ModelError for a model that cannot be served."""
    from workers.config import WeightConfig
    from workers.engine.build import pick_device
    from workers.weights.footprint import memory_bytes
    from workers.weights.inspection import inspect_model
    from workers.weights.model_dir import resolve_model_dir

    inspection = inspect_model(resolve_model_dir(options.model), WeightConfig(group_size=options.group_size))
    memory = memory_bytes(pick_device("auto")) if options.memory is None else options.memory
    room = inspection.room_in(memory)
    print(as_json(inspection, room) if options.json else as_text(options.model, inspection, room))


def as_json(inspection: "Inspection", room: "Room") -> str:
    """All figures, with the totals."""
    return json.dumps(asdict(inspection) | {"total": asdict(inspection.total), "room": asdict(room)}, indent=2)


def as_text(model: str, inspection: "Inspection", room: "Room") -> str:
    """A table of the parts between two lines."""
    rows = [*inspection.parts.items(), ("total", inspection.total)]
    lines = [f"{'':10} {'parameters':>16} {'stored':>12} {'served':>12}"]
    for name, part in rows:
        sizes = f"{shown(part.stored_bytes):>12} {shown(part.served_bytes):>12}"
        lines.append(f"{name:10} {part.parameters:16,} {sizes}")
    return "\n".join(
        [
            f"{model}: {inspection.architecture}, {inspection.format}, served {inspection.served_as}",
            f"context {inspection.max_model_len:,}, vocabulary {inspection.vocab_size:,}",
            *lines,
            f"KV: {inspection.kv_bytes_per_token:,} bytes a token",
            room_line(room),
        ]
    )


def room_line(room: "Room") -> str:
    """What fits."""
    if not room.kv_tokens:
        return f"{shown(room.memory_bytes)} do not hold the weights"
    tokens, sequences = f"{room.kv_tokens:,} tokens of KV", f"{room.full_sequences:,} sequences of the whole context"
    return f"{shown(room.memory_bytes)} hold the weights and {tokens}: {sequences}"


def shown(num_bytes: int) -> str:
    """A size for people."""
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.2f} MiB"
