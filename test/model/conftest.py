"""The golden networks, loaded once each, with what NVIDIA's code computed on the golden inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_set import COSMOS_SETS, EAGLE_SETS, Golden, as_checkpoint
from safetensors.torch import load_file

from groot_ros.model.checkpoint import load_model

LoadGolden = Callable[..., Golden]
GetGolden = Callable[[str], Golden]


@pytest.fixture(scope="session")
def load_golden(golden_root: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadGolden:
    """`load_golden(name, dtype=torch.float32, root=golden_root, **options)`: a golden set and its model, made anew;
    the options are those of `as_checkpoint`."""

    def load(name: str, *, dtype: torch.dtype = torch.float32, root: Path = golden_root, **options: Any) -> Golden:
        path = root / name
        directory = as_checkpoint(path, tmp_path_factory.mktemp("golden"), **options)
        return Golden(name, path, load_model(directory, dtype=dtype), load_file(path / "io.safetensors"))

    return load


@pytest.fixture(scope="session")
def goldens(load_golden: LoadGolden) -> GetGolden:
    """`goldens(name)`: a golden set and its model, shared by all tests, which leave it as it is."""
    return functools.cache(load_golden)


@pytest.fixture(scope="session")
def own_sets(load_golden: LoadGolden, goldens: GetGolden, golden_root: Path) -> GetGolden:
    """The same from the project's own copy, for tests that know its sizes. They need some working network, not
    references."""
    root = Path(__file__).resolve().parent.parent / "golden"
    return goldens if root == golden_root else functools.cache(functools.partial(load_golden, root=root))


@pytest.fixture(scope="session", params=(*EAGLE_SETS, *COSMOS_SETS))
def golden(request: pytest.FixtureRequest, goldens: GetGolden) -> Golden:
    """Every golden set."""
    return goldens(request.param)


@pytest.fixture(scope="session", params=COSMOS_SETS)
def golden_cosmos(request: pytest.FixtureRequest, goldens: GetGolden) -> Golden:
    """N1.7's golden sets."""
    return goldens(request.param)


@pytest.fixture(scope="session", params=EAGLE_SETS)
def golden_eagle(request: pytest.FixtureRequest, goldens: GetGolden) -> Golden:
    """N1.5's and N1.6's golden sets."""
    return goldens(request.param)


@pytest.fixture(scope="session")
def golden_n1d5(goldens: GetGolden) -> Golden:
    """N1.5's golden set."""
    return goldens("n1d5")


@pytest.fixture(scope="session")
def golden_n1d6(goldens: GetGolden) -> Golden:
    """N1.6's golden set."""
    return goldens("n1d6")


@pytest.fixture(scope="session")
def golden_n1d7(goldens: GetGolden) -> Golden:
    """N1.7's main golden set."""
    return goldens("n1d7")


@pytest.fixture(scope="session")
def own_n1d5(own_sets: GetGolden) -> Golden:
    """The project's own N1.5 set."""
    return own_sets("n1d5")


@pytest.fixture(scope="session")
def own_n1d6(own_sets: GetGolden) -> Golden:
    """The project's own N1.6 set."""
    return own_sets("n1d6")


@pytest.fixture(scope="session")
def own_n1d7(own_sets: GetGolden) -> Golden:
    """The project's own N1.7 set."""
    return own_sets("n1d7")
