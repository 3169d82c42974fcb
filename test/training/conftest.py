"""The golden networks, as the tests of the networks have them, and base checkpoints for small runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_run import model_conftest, write_base

_golden = model_conftest()
load_golden, goldens = _golden.load_golden, _golden.goldens


@pytest.fixture(params=("n1d5", "n1d6", "n1d7"))
def generation(request: pytest.FixtureRequest) -> str:
    """Every generation."""
    return request.param


@pytest.fixture(scope="session")
def base_n1d7(goldens, tmp_path_factory) -> Path:
    """A base checkpoint of N1.7 with dropout in it."""
    return write_base(goldens("n1d7"), tmp_path_factory.mktemp("n1d7"))
