"""Where pictures become what the network takes: on the host, or as raw bytes on the device. torch is imported late."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.processing.errors import ProcessorError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from groot_ros.processing.processor import Processor, Sample

FRAMES = "frames"  # beside the inputs of ``GrootModel.sample``, in place of pixel_values
GREY = 127.5  # per unit of pixel_values: they run from -1 to 1
LEVELS = 1.01  # of 255 by which a value may differ: a fused product and sum can change a rounded one by 1


class DevicePictures:
    """Frames to the device as they come from the cameras, and all arithmetic there.

    Args:
        processor: of the checkpoint.
        sizes: camera key -> (height, width), of all views.
        device: where the model is.

    Raises:
        ValueError: views of several sizes, a transform that has no such way, or one that gives other values than the
            host does; the message says how far.

    Attributes:
        agreement: how far its values are from the host's, in words.
    """

    def __init__(self, processor: Processor, sizes: Mapping[str, tuple[int, int]], device: torch.device) -> None:
        from groot_ros.processing.device_images import DeviceImages

        if len(set(sizes.values())) != 1:
            found = ", ".join(f"{key} {width}x{height}" for key, (height, width) in sizes.items())
            raise ValueError(f"expected cameras of one size, found {found}")
        self._processor, self._device = processor, device
        self._size = next(iter(sizes.values()))
        self._count = len(sizes) * len(processor.modality["video"].delta_indices)
        try:
            self._module = DeviceImages(processor.images, self._size).to(device)
        except (TypeError, ProcessorError) as error:
            raise ValueError(str(error)) from error
        self.agreement = self._compared()

    def encode(self, video: Mapping[str, NDArray[np.uint8]], state: Mapping[str, Any], text: str) -> dict[str, Tensor]:
        """As ``Processor.encode`` and ``collate``, with frames in place of pixel_values. From any thread.

        Raises:
            ProcessorError: see ``Processor.encode``.
        """
        import torch

        # torch keeps pinned memory for the next one, and not before a copy from it is done.
        pinned = self._device.type == "cuda"
        frames = torch.empty((self._count, *self._size, 3), dtype=torch.uint8, pin_memory=pinned)
        sample: Sample = self._processor.encode(video, state, text, raw=frames.numpy())
        return {**self._processor.collate([sample]), FRAMES: frames}

    def finish(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs with pixel_values, on the device; not waited for."""
        rest = {name: value for name, value in inputs.items() if name != FRAMES}
        return {**rest, "pixel_values": self._module(inputs[FRAMES].to(self._device, non_blocking=True))}

    def _compared(self) -> str:
        """On noise, whose every pixel counts."""
        rng = np.random.default_rng(0)
        keys = self._processor.modality["video"].modality_keys
        shape = (self._count // len(keys), *self._size, 3)
        video = {key: rng.integers(0, 256, shape, dtype=np.uint8) for key in keys}
        state, text = self._processor.blank_state(), "compare"
        expected = self._processor.collate([self._processor.encode(video, state, text)])["pixel_values"]
        found = self.finish(self.encode(video, state, text))["pixel_values"].float().cpu()
        if found.shape != expected.shape:
            raise ValueError(f"expected patches {list(expected.shape)}, found {list(found.shape)}")
        levels = GREY * float((found - expected).abs().max())
        said = f"largest difference from the host's {levels:.2g} of 255 levels"
        if not levels <= LEVELS:
            raise ValueError(f"{said}, expected at most 1")
        return said
