"""Secrets as Helm stores its releases in them: Kubernetes's protobuf, read without its definitions."""

import base64
from collections.abc import Iterator
from typing import Any

MAGIC = b"k8s\x00"
# Numbers of fields, from the generated definitions of Kubernetes's API.
RAW = 2  # runtime.Unknown
METADATA, DATA, TYPE = 1, 2, 3  # Secret
NAME, LABELS = 1, 11  # ObjectMeta
KEY, VALUE = 1, 2  # an entry of a map
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field that has a length; the others are passed over."""
    place = 0
    while place < len(data):
        tag, place = varint(data, place)
        wire = tag & 7
        if wire == VARINT:
            _, place = varint(data, place)
        elif wire in (FIXED64, FIXED32):
            place += 8 if wire == FIXED64 else 4
        else:
            length, place = varint(data, place)
            yield tag >> 3, data[place : place + length]
            place += length


def varint(data: bytes, place: int) -> tuple[int, int]:
    """A number and the place after it."""
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def entry(data: bytes) -> tuple[str, bytes]:
    """One entry of a map."""
    found = dict(fields(data))
    return found[KEY].decode(), found.get(VALUE, b"")


def read_secret(body: bytes) -> dict[str, Any]:
    """The Secret in the body of a request, as JSON would have it."""
    secret = list(fields(dict(fields(body.removeprefix(MAGIC)))[RAW]))
    meta = list(fields(dict(secret)[METADATA]))
    labels = dict(entry(value) for number, value in meta if number == LABELS)
    data = dict(entry(value) for number, value in secret if number == DATA)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": dict(meta)[NAME].decode(),
            "labels": {key: value.decode() for key, value in labels.items()},
        },
        "type": dict(secret).get(TYPE, b"Opaque").decode(),
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }
