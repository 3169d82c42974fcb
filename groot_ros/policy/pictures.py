"""Where pictures become what the network takes: on the host, or as raw bytes on the device. torch is imported late."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.observation.types import Observation
from groot_ros.policy.news import Notices
from groot_ros.policy.sampler import said
from groot_ros.processing.errors import ProcessorError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from groot_ros.processing.processor import Processor, Sample

FRAMES = "frames"  # beside the inputs of ``GrootModel.sample``, in place of pixel_values
ON_HOST = "they are transformed on the host"
GREY = 127.5  # per unit of pixel_values: they run from -1 to 1
LEVELS = 1.01  # of 255 by which a value may differ: a fused product and sum can change a rounded one by 1


class Pictures:
    """On the device for as long as that works, else on the host.

    Args:
        processor: of the checkpoint.
        notices: told when the device is given up.
        on_device: None: on the host from the start.

    Attributes:
        on_device: None: on the host by now.
    """

    def __init__(self, processor: Processor, notices: Notices, on_device: DevicePictures | None = None) -> None:
        self._processor, self._notices, self.on_device = processor, notices, on_device

    @property
    def where(self) -> str:
        """They are transformed, and how far from the host's way that is."""
        on_device = self.on_device
        return "host" if on_device is None else f"{on_device.device}, {on_device.agreement}"

    def encode(self, observation: Observation) -> dict[str, Tensor]:
        """The inputs of ``GrootModel.sample``, with frames in place of pixel_values where ``finish`` makes these.

        From any thread.

        Raises:
            ProcessorError: see ``Processor.encode``.
        """
        on_device = self.on_device  # which another thread may give up meanwhile
        if on_device is not None:
            try:
                return on_device.encode(observation.video, observation.state, observation.instruction)
            except RuntimeError as error:  # pinned memory is the driver's
                self._give_up(error)
        return self._on_host(observation)

    def finish(self, inputs: dict[str, Tensor], observation: Observation) -> dict[str, Tensor]:
        """The inputs with pixel_values, of what ``encode`` returned for ``observation``."""
        if FRAMES not in inputs:
            return inputs
        if self.on_device is not None:
            try:
                return self.on_device.finish(inputs)
            except RuntimeError as error:
                self._give_up(error)
        return self._on_host(observation)

    def _on_host(self, observation: Observation) -> dict[str, Tensor]:
        seen = observation.video, observation.state, observation.instruction
        return self._processor.collate([self._processor.encode(*seen)])

    def _give_up(self, error: RuntimeError) -> None:
        """For good, if memory ran out."""
        from groot_ros.model.engine.memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise error
        self.on_device = None
        self._notices.add(f"pictures_on_device: {said(error)}; {ON_HOST} from now on")
        gc.collect()  # torch gave back what it had cached before it raised


def device_pictures(
    processor: Processor, sizes: Mapping[str, tuple[int, int]], device: torch.device, notices: Notices
) -> DevicePictures | None:
    """``DevicePictures``; None, and a notice, where it cannot be used."""
    try:
        return DevicePictures(processor, sizes, device)
    except (ValueError, RuntimeError) as error:  # its own words, or torch's
        reason = str(error) if isinstance(error, ValueError) else said(error)
    notices.add(f"pictures_on_device: {reason}; {ON_HOST} instead")
    return None


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
        device: as given.
    """

    def __init__(self, processor: Processor, sizes: Mapping[str, tuple[int, int]], device: torch.device) -> None:
        from groot_ros.processing.device_images import DeviceImages

        if len(set(sizes.values())) != 1:
            found = ", ".join(f"{key} {width}x{height}" for key, (height, width) in sizes.items())
            raise ValueError(f"expected cameras of one size, found {found}")
        self._processor, self.device = processor, device
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
        pinned = self.device.type == "cuda"
        frames = torch.empty((self._count, *self._size, 3), dtype=torch.uint8, pin_memory=pinned)
        sample: Sample = self._processor.encode(video, state, text, raw=frames.numpy())
        return {**self._processor.collate([sample]), FRAMES: frames}

    def finish(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs with pixel_values, on the device; not waited for."""
        rest = {name: value for name, value in inputs.items() if name != FRAMES}
        return {**rest, "pixel_values": self._module(inputs[FRAMES].to(self.device, non_blocking=True))}

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
