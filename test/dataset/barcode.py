"""A number drawn into a picture as black and white cells that survive H.264, JPEG and chroma subsampling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROWS, COLUMNS = 4, 5  # 16 cells of the number, most significant first, then 4 of the check
LIMIT = 1 << 16


def draw(number: int, height: int, width: int) -> NDArray[np.uint8]:
    """Picture of ``number`` (0 <= number < 65536), uint8 [height, width, 3] RGB, at least 16x20 px.

    Raises: ValueError for a number or a size that it cannot hold.
    """
    if not 0 <= number < LIMIT or height < 4 * ROWS or width < 4 * COLUMNS:
        raise ValueError(f"expected 0 <= number < {LIMIT} and at least 20x16 px, found {number}, {width}x{height} px")
    word = number << 4 | _check(number)
    bits = np.array([word >> shift & 1 for shift in reversed(range(ROWS * COLUMNS))]).reshape(ROWS, COLUMNS)
    cells = bits[np.arange(height) * ROWS // height][:, np.arange(width) * COLUMNS // width]
    return np.repeat((cells * 255).astype(np.uint8)[:, :, None], 3, axis=2)


def read(rgb: NDArray[np.uint8]) -> int:
    """The number in a picture uint8 [H, W, 3].

    Raises: ValueError when the picture holds no such number.
    """
    height, width = rgb.shape[:2]
    grey = rgb.astype(np.float64).mean(axis=2)
    word = 0
    for row in range(ROWS):
        for column in range(COLUMNS):
            # Only the middle half of a cell counts: its edges are blurred by the codec.
            top, left = (row + 0.25) * height / ROWS, (column + 0.25) * width / COLUMNS
            cell = grey[
                round(top) : round(top + 0.5 * height / ROWS), round(left) : round(left + 0.5 * width / COLUMNS)
            ]
            word = word << 1 | int(cell.mean() > 127.5)
    number, check = word >> 4, word & 15
    if check != _check(number):
        raise ValueError(f"expected a picture by barcode.draw, found check {check} of {number}")
    return number


def _check(number: int) -> int:
    # Not 0 for the number 0: a black picture is not a number.
    return 10 ^ (number >> 12 ^ number >> 8 ^ number >> 4 ^ number) & 15
