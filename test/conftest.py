"""What all tests share: where the numeric references are, and a ROS 2 network of each process's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from groot_ros.processes import own_domain

# The same examples in every run, so that a failure is there again in the next one.
settings.register_profile("seeded", derandomize=True)
settings.load_profile("seeded")

TEST_DIR = Path(__file__).resolve().parent


# At import, before any test module or subprocess can create a ROS 2 context. Only localhost is searched, so that
# neither another machine nor (with the domain id) another test process is heard.
os.environ["ROS_DOMAIN_ID"] = str(own_domain())
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.pop("ROS_LOCALHOST_ONLY", None)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def golden_root() -> Path:
    """Folder of the numeric references: `$GROOT_GOLDEN`, else the copy the project carries in test/golden."""
    named = os.environ.get("GROOT_GOLDEN")
    root = Path(named).expanduser() if named else TEST_DIR / "golden"
    if not root.is_dir():
        source = "GROOT_GOLDEN names" if named else "the project should carry"
        pytest.fail(f"no folder of golden references at {root}, which {source}: set GROOT_GOLDEN to one")
    return root.resolve()


@pytest.fixture(scope="session")
def ros_domain_id() -> int:
    """The domain that this process and the nodes it starts talk on."""
    return int(os.environ["ROS_DOMAIN_ID"])
