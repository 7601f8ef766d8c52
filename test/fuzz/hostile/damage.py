"""Damage to the bytes of a file or message."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from hostile.texts import edited

_VALUES = (b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0" * 8, b"\xff" * 8)
_ENDS = 512  # headers and indices are there


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """Draw a damaged copy: cut off, overwritten, with bytes inserted or removed, or random.

    Args:
        content: a valid file. Half of the damage is near its beginning or end.
    """
    size = len(content)
    anywhere = st.integers(0, size)
    near_ends = st.integers(0, min(_ENDS, size)) | st.integers(max(0, size - _ENDS), size)
    position = near_ends | anywhere
    value = st.sampled_from(_VALUES) | st.binary(min_size=1, max_size=16)
    kind = st.sampled_from(("overwrite", "overwrite", "flip", "insert", "remove"))
    change = st.tuples(kind, position, value)
    changed = st.lists(change, min_size=1, max_size=4).map(lambda some: _change(content, some))
    cut = position.map(lambda end: content[:end])
    return changed | changed | cut | st.binary(max_size=64)


def _change(content: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    data = bytearray(content)
    for kind, position, value in changes:
        if kind == "overwrite":
            data[position : position + len(value)] = value
        elif kind == "insert":
            data[position:position] = value
        elif kind == "remove":
            del data[position : position + len(value)]
        elif position < len(data):
            data[position] ^= 1 << value[0] % 8
    return bytes(data)


def damaged_safetensors(content: bytes) -> st.SearchStrategy[bytes]:
    """Draw a damaged safetensors file, also with a header that is edited as text.

    Args:
        content: a valid file.
    """
    length = int.from_bytes(content[:8], "little")
    header, tensors = content[8 : 8 + length], content[8 + length :]
    texts = edited(header.decode()) | st.sampled_from(_relabelled(json.loads(header)))

    def rebuilt(text: str) -> bytes:
        new = text.encode()
        return len(new).to_bytes(8, "little") + new + tensors

    return damaged(content) | texts.map(rebuilt)


def _relabelled(header: dict) -> list[str]:
    """Return headers of which one entry of the metadata is replaced or missing."""
    headers = []
    values = ("", "null", "[]", "{}", "1", '"x"', '{"a": 1}', "9" * 30, "NaN", "[[1]]", "x" * 3000)
    for key in header["__metadata__"]:
        others = {k: v for k, v in header["__metadata__"].items() if k != key}
        for metadata in (others, *({**others, key: value} for value in values)):
            headers.append(json.dumps({**header, "__metadata__": metadata}))
    return headers
