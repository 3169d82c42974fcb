"""One run of every fault against the policy node as a process, over real DDS; ``make chaos`` does many more."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos_faults import FAULTS
from chaos_run import Tally, run_all, scenario, table

SEED = 0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_whatever_goes_wrong_the_robot_stays_in_its_limits_stops_for_a_reason_and_runs_again(tmp_path: Path) -> None:
    scenarios = [scenario(SEED + number) for number in range(len(FAULTS))]
    assert {fault for one in scenarios for fault in one.faults} == set(FAULTS)
    tally = Tally()
    run_all(scenarios, tmp_path, tally)
    assert not tally.failures, "\n".join(tally.failures)
    assert all(tally.commands[output] > 50 for output in ("arm", "gripper", "base")), table(tally)


def test_a_seed_says_all_of_its_scenario() -> None:
    assert [scenario(seed) for seed in range(100)] == [scenario(seed) for seed in range(100)]
    assert any(len(scenario(seed).faults) == 2 for seed in range(100))
