"""Parameters of ``/groot_policy``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from groot_ros.embodiment.control_schema import Chunking
from groot_ros.nodes.parameters import parameter
from groot_ros.policy.local import DTYPES
from groot_ros.policy.sampler import PRECISIONS


@dataclass(frozen=True)
class PolicyParameters:
    """Parameters of ``/groot_policy``; read on configure."""

    embodiment: str = parameter("sim_arm", "Name in config/embodiments, or path of a YAML file")
    checkpoint: str = parameter("", "Directory in NVIDIA's layout, or hub id; required")
    tokenizer: str = parameter("", "Folder or hub id of the backbone's tokenizer; empty: the checkpoint's own")
    device: str = parameter(
        "auto", "Torch device: cpu, cuda, cuda:N; auto: cuda where there is one and the model fits, else cpu"
    )
    dtype: str = parameter("auto", "Precision; auto: bfloat16 on a GPU, float32 on a CPU", choices=DTYPES)
    match_reference_bf16: bool = parameter(
        False, "Round the rotary frequencies to bfloat16, as NVIDIA's policies of N1.6 and N1.7 do; else float32"
    )
    engine: bool = parameter(
        True, "Compute with the engine, where it agrees with the model; false: with the model as it is loaded"
    )
    graphs: bool = parameter(True, "Engine: record CUDA graphs and replay them; only on a GPU")
    compile: bool = parameter(
        False, "Engine: torch.compile before recording, a longer start; only with graphs, on a GPU"
    )
    precision: str = parameter(
        "model",
        "Engine: of the large products. model: dtype; fp8_weights, fp8: where precision_file says that they passed",
        choices=PRECISIONS,
    )
    precision_file: str = parameter("", "Result of `groot-ros precision` for this checkpoint; empty: the user's cache")
    pictures_on_device: bool = parameter(
        False, "Resize and cut pictures on the GPU, if that gives what the host's libraries give; cameras of one size"
    )
    keep_warm_s: float = parameter(
        1.0,
        "While active: run the model without effect after so long without a request, so that a GPU keeps its clocks "
        "up; 0: never",
        unit="s",
        minimum=0.0,
        maximum=3600.0,
    )
    instruction: str = parameter("", "Instruction at the start; empty: the embodiment's default, else wait for a topic")
    denoising_steps: int = parameter(0, "Euler steps; 0: the checkpoint's number", unit="steps", minimum=0, maximum=100)
    replan_steps: int = parameter(
        0,
        "Steps of a chunk until the next inference starts, earlier if the queue would run empty; 0: half the chunk",
        unit="steps",
        minimum=0,
        maximum=1000,
    )
    control_rate_hz: float = parameter(
        0.0, "Control ticks per second; 0: the YAML's control.rate_hz", unit="Hz", minimum=0.0, maximum=1000.0
    )
    chunking: str = parameter(
        "", "How a chunk follows the one before; empty: the YAML's control.chunking", choices=("", *get_args(Chunking))
    )
    inference_timeout_s: float = parameter(
        0.0,
        "An inference that takes longer stops the robot (latched); 0: ten times the warm-up's, at least 1 s",
        unit="s",
        minimum=0.0,
        maximum=3600.0,
    )
    seed: int = parameter(-1, "Seed of every chunk's noise; -1: a fresh one per chunk", minimum=-1, maximum=2**31 - 1)
    torch_threads: int = parameter(0, "CPU threads of torch; 0: torch's choice", unit="threads", minimum=0, maximum=256)
    dry_run: bool = parameter(False, "Do and publish everything but commands to the robot")
    start_on_activate: bool = parameter(False, "Start on activation instead of waiting for ~/start")
    autostart: bool = parameter(False, "Configure and activate by itself when the process starts")
