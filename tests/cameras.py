"""Files as cameras and phones write them, made by hand: an ICC profile, camera raw."""

from __future__ import annotations

import struct

import numpy as np


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def display_p3() -> bytes:
    """Display P3 as an ICC profile: its primaries (D50) and sRGB's curve."""
    primaries = {
        b"r": (0.5151, 0.2412, -0.0011),
        b"g": (0.2920, 0.6922, 0.0419),
        b"b": (0.1571, 0.0666, 0.7841),
    }
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0)
    curve += _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 3) + b"P3\0" + bytes(79)}
    tags[b"wtpt"] = b"XYZ " + bytes(4) + _fixed(0.9642, 1, 0.8249)
    for channel, xyz in primaries.items():
        tags[channel + b"XYZ"] = b"XYZ " + bytes(4) + _fixed(*xyz)
        tags[channel + b"TRC"] = curve
    table, content = b"", b""
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(content), len(value))
        content += value
    head = struct.pack(">I4sI", 132 + len(table) + len(content), bytes(4), 0x02400000)
    head += b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28) + _fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + content


def dng(grey: np.ndarray, orientation: int = 1) -> bytes:
    """(H, W) linear greys, 65535 = white, even sides, as camera raw.

    The sensor has RGGB filters and sRGB's primaries and sees half the light in red and in blue.
    """
    sensor = grey.astype("<u2")
    sensor[::2, ::2] //= 2
    sensor[1::2, 1::2] //= 2

    def ratios(*values: float) -> bytes:
        return b"".join(struct.pack("<ii", round(value * 10000), 10000) for value in values)

    def short(*values: int) -> tuple[int, int, bytes]:
        return 3, len(values), struct.pack(f"<{len(values)}H", *values)

    def long(value: int) -> tuple[int, int, bytes]:
        return 4, 1, struct.pack("<I", value)

    matrix = (3.2406, -1.5372, -0.4986, -0.9689, 1.8758, 0.0415, 0.0557, -0.2040, 1.0570)
    height, width = grey.shape
    tags = {
        **{254: long(0), 256: long(width), 257: long(height), 258: short(16), 259: short(1)},
        **{262: short(32803), 271: (2, 5, b"dgkd\0"), 273: long(0), 274: short(orientation)},
        **{277: short(1), 278: long(height), 279: long(sensor.nbytes), 33421: short(2, 2)},
        **{33422: (1, 4, bytes([0, 1, 1, 2])), 50706: (1, 4, bytes([1, 4, 0, 0]))},
        **{50708: (2, 5, b"test\0"), 50717: short(65535), 50721: (10, 9, ratios(*matrix))},
        **{50728: (5, 3, ratios(0.5, 1, 0.5)), 50778: short(21)},
    }
    start, table, content = 14 + 12 * len(tags), b"", b""
    longer = sum(len(value) + len(value) % 2 for _, _, value in tags.values() if len(value) > 4)
    tags[273] = long(start + longer)
    for tag, (kind, count, value) in tags.items():
        if len(value) > 4:
            place = struct.pack("<I", start + len(content))
            content += value + bytes(len(value) % 2)
            value = place
        table += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + table + bytes(4) + content + sensor.tobytes()
