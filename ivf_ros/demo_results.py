"""Summary that the demo prints at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ivf_core.defaults import DEFAULT_WEIGHTS

__all__ = ["print_summary"]

_REPLACED_TO_REPORT = 0.02


def print_summary(summary: Mapping[str, Any], output: Path) -> None:
    """Print the live figures of a replay's summary, and the written files.

    Args:
        summary: summary of `ivf_core.replay.run.replay_bag`.
        output: folder of the results.
    """
    live, settings = summary["live"], summary["settings"]

    def spread(values: Mapping[str, float] | None) -> str:
        if not values:
            return "unknown"
        return "  ".join(f"{key} {value:.1f}" for key, value in values.items()) + " ms"

    def counts(values: Mapping[str, int]) -> str:
        return ", ".join(f"{n} {reason}" for reason, n in values.items()) or "none"

    played = summary["pairing"]["received"]
    images = ", ".join(
        f"{camera} {n} of {played[camera]}" for camera, n in live["images_received"].items()
    )
    timings = live["timings_ms"]
    print(f"[4/4] weights '{settings['weights']}', {settings['engine']}")
    print(f"  images     {images} arrived at the node")
    print(
        f"  pairs      {live['pairs_in']} in, {live['pairs_out']} out; "
        f"dropped: {counts(live['dropped'])}"
    )
    if live["frames_without_pair"]:
        print(f"  frames without a pair: {counts(live['frames_without_pair'])}")
    print(f"  throughput {live['rate_hz'] or 0:.1f} pairs a second")
    print(f"  latency    {spread(live['latency_ms'])} from stamp to the last publish")
    print(f"  model      {spread(timings.get('model'))}")
    print(f"  waiting    {spread(timings.get('wait'))} for the model to be free")
    print(f"  overhead   {spread(timings.get('overhead'))}: the rest (transport and conversion)")
    load, memory = live["processor"]["node_cores"], live["memory_mib"]
    if load is not None:
        print(f"  node       {load:.2f} cores, {memory:.0f} MiB")
    for line in _overload(live, settings["weights"]):
        print(line)
    for name in ("report.html", "side_by_side.mp4", "bag", "summary.json"):
        if (output / name).exists():
            print(f"  {output / name}")


def _overload(live: Mapping[str, Any], weights: str) -> list[str]:
    """Return lines on what the machine can do, if pairs came faster than it fuses them."""
    replaced = live["dropped"].get("replaced_by_newer", 0)
    skipped = live["dropped"].get("skipped_by_load_policy", 0)
    if replaced + skipped <= _REPLACED_TO_REPORT * live["pairs_in"]:
        return []
    stages = ("decode", "prepare", "model", "publish")
    times = {stage: live["timings_ms"].get(stage, {}).get("median", 0.0) for stage in stages}
    # The default weights are the fastest that ship.
    faster = "" if weights == DEFAULT_WEIGHTS else f"--weights {DEFAULT_WEIGHTS}, "
    remedy = f"{faster}smaller images, or a lower --rate"
    if not skipped:
        remedy = f"--load-policy adaptive (computes less while it has to), {remedy}"
    return [
        f"  overload   {replaced + skipped} of {live['pairs_in']} pairs came while the machine "
        "was busy with earlier ones",
        f"             it sustains {live['rate_hz'] or 0:.1f} pairs a second: "
        f"{sum(times.values()):.0f} ms each, {times['model']:.0f} of them in the model",
        f"             to keep up: {remedy}",
    ]
