"""Width and height of a JPEG or PNG file from its header, without decoding it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_PNG_SIZE = 16  # offset of width and height, in the first chunk
_ALONE = {0x01, *range(0xD0, 0xD9)}  # JPEG markers without a length: TEM, RST0..7, SOI
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # among C0..CF: tables and an extension, not the header of a frame


def compressed_size(data: NDArray[np.uint8], kind: str) -> tuple[int, int] | None:
    """Width and height (px) of a file of ``kind`` jpeg or png; None when its header does not say them."""
    if kind == "png":
        head = data[_PNG_SIZE : _PNG_SIZE + 8].tobytes()
        return (int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")) if len(head) == 8 else None
    place = 2
    while place + 9 <= len(data):
        if data[place] != 0xFF:
            return None
        marker = int(data[place + 1])
        if marker == 0xFF:  # fill byte
            place += 1
        elif marker in _ALONE:
            place += 2
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            return (int(data[place + 7]) << 8 | int(data[place + 8])), (
                int(data[place + 5]) << 8 | int(data[place + 6])
            )
        else:
            place += 2 + (int(data[place + 2]) << 8 | int(data[place + 3]))
    return None
