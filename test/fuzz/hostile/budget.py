"""Number of inputs: the same ones in each run of the tests, random ones in a campaign."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

__all__ = ["CAMPAIGN_SECONDS", "inputs"]

CAMPAIGN_SECONDS = float(os.environ.get("FUZZ_SECONDS") or 0)
"""Duration of the campaign; 0 without one."""


def inputs(count: int, *, shrink: bool = True) -> settings:
    """Return the settings of a test, as its decorator.

    Args:
        count: number of inputs in a run of the tests, and in each round of a campaign.
        shrink: whether the smallest input that fails is searched; too slow with a live node.
    """
    random = {} if CAMPAIGN_SECONDS else {"derandomize": True, "database": None}
    return settings(
        max_examples=count,
        deadline=None,
        print_blob=True,
        phases=[phase for phase in Phase if shrink or phase is not Phase.shrink],
        # A node, a weights file or a folder serves all inputs of a test.
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
        ],
        **random,
    )
