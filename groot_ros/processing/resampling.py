"""The resizings of OpenCV, PIL and torch, done by torch operations that any device has.

Each one is separable: sums of a few neighbours with static weights, along the columns, then along the rows, in the
arithmetic of the library: OpenCV's sums of areas in float32, its linear interpolation and the antialiased filters of
PIL and torch in whole numbers, torch's filter of floats with the roundings of its code for AVX2. Nothing here waits
for the host, and all shapes are fixed when a module is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

# Bits behind the point of PIL's weights of bytes, and the most that torch's may have.
PIL_BITS = 22
_TORCH_WEIGHT, _TORCH_BITS = 1 << 15, 22
# Products of floats that torch's code for AVX2 takes together.
_TOGETHER = 4
# OpenCV's weights of linear interpolation.
_CV_UNIT = 2048
# OpenCV leaves out less of a pixel than this.
_CV_SLIVER = 1e-3

Taps = list[list[tuple[int, float]]]
Size = tuple[int, int]


class Sums(nn.Module):
    """Weighted sums of neighbours along one axis of [..., H, W]: -1 the columns, -2 the rows.

    Attributes:
        index: [K * new] int64.
        weight: [K, new] or [K, new, 1]; neighbours that an output does not have weigh nothing.
    """

    index: Tensor
    weight: Tensor

    def __init__(self, taps: Taps, axis: int, dtype: torch.dtype) -> None:
        super().__init__()
        count = max(len(row) for row in taps)
        filled = [row + [(row[-1][0], 0.0)] * (count - len(row)) for row in taps]
        pairs = torch.tensor(filled, dtype=torch.float64).permute(1, 0, 2)  # [K, new, 2]
        self._axis, self._shape = axis, tuple(pairs.shape[:2])
        weight = pairs[..., 1].to(dtype)
        self.register_buffer("index", pairs[..., 0].to(torch.int64).reshape(-1), persistent=False)
        self.register_buffer("weight", weight if axis == -1 else weight[..., None], persistent=False)

    def neighbours(self, values: Tensor) -> Tensor:
        """[..., H, W] -> [..., K, new, W], or [..., H, K, new]."""
        return values.index_select(self._axis, self.index).unflatten(self._axis, self._shape)

    def parts(self, values: Tensor) -> Iterator[Tensor]:
        """The K products, in the order of the neighbours."""
        yield from (self.neighbours(values) * self.weight).unbind(self._axis - 1)

    def forward(self, values: Tensor) -> Tensor:
        """Sums in the type of the values, neighbour by neighbour."""
        total, *others = self.parts(values)
        for other in others:
            total = total + other
        return total


class FloatSums(Sums):
    """Sums of floats with the roundings of torch's code for AVX2.

    After the first product it takes the others in fours, each rounded before it is added; what is left over is added
    without that rounding (fused).
    """

    rounded: Tensor

    def __init__(self, taps: Taps, axis: int) -> None:
        super().__init__(taps, axis, torch.float64)
        count = self._shape[0]
        rounded = [[i <= _TOGETHER * ((len(row) - 1) // _TOGETHER) for row in taps] for i in range(count)]
        mask = torch.tensor(rounded)
        self.register_buffer("rounded", mask if axis == -1 else mask[..., None], persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        exact = self.neighbours(values).to(torch.float64) * self.weight
        products = torch.where(self.rounded, exact.to(torch.float32).to(torch.float64), exact)
        total, *others = products.unbind(self._axis - 1)
        for other in others:
            total = (total + other).to(torch.float32).to(torch.float64)
        return total.to(torch.float32)


class Area(nn.Module):
    """OpenCV's INTER_AREA of bytes to a smaller picture, where a pixel of it is not a whole number of pixels."""

    def __init__(self, old: Size, new: Size) -> None:
        super().__init__()
        self.columns = Sums(_area_taps(old[1], new[1]), -1, torch.float32)
        self.rows = Sums(_area_taps(old[0], new[0]), -2, torch.float32)

    def forward(self, bytes_: Tensor) -> Tensor:
        return self.rows(self.columns(bytes_.to(torch.float32))).round().clamp(0, 255)


class WholeArea(nn.Module):
    """OpenCV's INTER_AREA of bytes where every pixel is the mean of so many rows and columns."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self._rows, self._columns = rows, columns
        self._share = torch.tensor(1 / (rows * columns), dtype=torch.float32).item()

    def forward(self, bytes_: Tensor) -> Tensor:
        blocks = bytes_.to(torch.int32).unflatten(-1, (-1, self._columns)).unflatten(-3, (-1, self._rows))
        total = blocks.sum(dim=(-3, -1), dtype=torch.int32)
        if (self._rows, self._columns) == (2, 2):
            return (total + 2) >> 2
        return (total.to(torch.float32) * self._share).round().clamp(0, 255)


class Linear(nn.Module):
    """OpenCV's INTER_AREA of bytes to a picture that is not smaller: linear interpolation in whole numbers."""

    def __init__(self, old: Size, new: Size) -> None:
        super().__init__()
        self.columns = Sums(_linear_taps(old[1], new[1], True), -1, torch.int32)
        self.rows = Sums(_linear_taps(old[0], new[0], False), -2, torch.int32)

    def forward(self, bytes_: Tensor) -> Tensor:
        lines = self.columns(bytes_.to(torch.int32)) >> 4
        first, second = ((part >> 16) for part in self.rows.parts(lines))
        return (first + second + 2) >> 2


class Antialiased(nn.Module):
    """PIL's and torch's filters of bytes: weights are whole numbers, and there are bytes between the two steps.

    Args:
        mode: bilinear or bicubic.
        bits: behind the point of the weights (PIL); None: as many as torch gives them, of which none exceeds 15 bits.
    """

    def __init__(self, old: Size, new: Size, mode: str, bits: int | None) -> None:
        super().__init__()
        self.steps = nn.ModuleList()
        self._bits: list[int] = []
        for axis in (-1, -2):
            if old[axis] == new[axis]:
                continue
            taps = _filter_taps(old[axis], new[axis], mode)
            used = _torch_bits(taps) if bits is None else bits
            unit = 1 << used
            whole = [[(i, math.trunc(w * unit + math.copysign(0.5, w))) for i, w in row] for row in taps]
            self.steps.append(Sums([[(i, float(w)) for i, w in row] for row in whole], axis, torch.int32))
            self._bits.append(used)

    def forward(self, bytes_: Tensor) -> Tensor:
        values = bytes_.to(torch.int32)
        for step, bits in zip(self.steps, self._bits, strict=True):
            values = ((step(values) + (1 << (bits - 1))) >> bits).clamp(0, 255)
        return values


class FloatAntialiased(nn.Module):
    """torch's bilinear filter of float32."""

    def __init__(self, old: Size, new: Size) -> None:
        super().__init__()
        self.steps = nn.Sequential(
            *(FloatSums(_float_taps(old[axis], new[axis]), axis) for axis in (-1, -2) if old[axis] != new[axis])
        )

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.steps(values)
        return result


def by_area(old: Size, new: Size) -> nn.Module:
    """What cv2.resize with INTER_AREA does, (height, width) to (height, width)."""
    if old == new:
        return nn.Identity()
    if new[0] > old[0] or new[1] > old[1]:
        return Linear(old, new)
    if old[0] % new[0] == 0 and old[1] % new[1] == 0:
        return WholeArea(old[0] // new[0], old[1] // new[1])
    return Area(old, new)


def _area_taps(old: int, new: int) -> Taps:
    """Shares of pixels as OpenCV computes them."""
    scale = 1 / (new / old)
    taps: Taps = []
    for place in range(new):
        begin, end = place * scale, place * scale + scale
        width = min(scale, old - begin)
        last = min(math.floor(end), old - 1)
        first = min(math.ceil(begin), last)
        row = [(first - 1, (first - begin) / width)] if first - begin > _CV_SLIVER else []
        row += [(i, 1 / width) for i in range(first, last)]
        if end - last > _CV_SLIVER:
            row.append((last, min(end - last, 1.0, width) / width))
        taps.append(row)
    return taps


def _linear_taps(old: int, new: int, columns: bool) -> Taps:
    """Two neighbours and their weights in 2048ths as OpenCV computes them; the last column stands for itself."""
    inverse = new / old
    scale = 1 / inverse
    taps: Taps = []
    for place in range(new):
        first = math.floor(place * scale)
        share = float(torch.tensor((place + 1) - (first + 1) * inverse, dtype=torch.float32))
        share = share - math.floor(share) if share > 0 else 0.0
        if columns and first >= old - 1:
            first, share = old - 1, 0.0
        weights = torch.tensor([1 - share, share], dtype=torch.float32).mul(_CV_UNIT).round().tolist()
        taps.append([(min(first + i, old - 1), weight) for i, weight in enumerate(weights)])
    return taps


def _filter_weights(old: int, new: int, mode: str, dtype: torch.dtype) -> Tensor:
    """The weights [new, old] of torch's antialiased filter, read off a picture of one bright pixel per row."""
    bright = torch.eye(old, dtype=dtype)[None, None]
    filtered = torch.nn.functional.interpolate(bright, size=(new, old), mode=mode, align_corners=False, antialias=True)
    return filtered[0, 0]


def _filter_taps(old: int, new: int, mode: str) -> Taps:
    """The neighbours with a weight; torch's are PIL's, too."""
    taps: Taps = []
    for row in _filter_weights(old, new, mode, torch.float64):
        used = row.nonzero()[:, 0].tolist()
        taps.append([(i, float(row[i])) for i in range(used[0], used[-1] + 1)])
    return taps


def _float_taps(old: int, new: int) -> Taps:
    """The neighbours that torch's bilinear filter of float32 looks at; some weigh nothing."""
    weights = _filter_weights(old, new, "bilinear", torch.float32)
    scale = torch.tensor(old, dtype=torch.float32) / new
    reach = float(scale.clamp(min=1))
    taps: Taps = []
    for place, row in enumerate(weights):
        middle = torch.tensor(float(scale) * (place + 0.5), dtype=torch.float32)
        first = max(int(float(middle - reach) + 0.5), 0)
        last = min(int(float(middle + reach) + 0.5), old)
        taps.append([(i, float(row[i])) for i in range(first, last)])
    return taps


def _torch_bits(taps: Taps) -> int:
    """The most bits with which no weight exceeds 15."""
    largest = max(weight for row in taps for _, weight in row)
    bits = 0
    while bits < _TORCH_BITS and int(0.5 + largest * (1 << (bits + 1))) < _TORCH_WEIGHT:
        bits += 1
    return bits
