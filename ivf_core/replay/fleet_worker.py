"""Process that replays one bag of a fleet: `python -m ivf_core.replay.fleet_worker JOB`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ivf_core.replay.run import replay_bag
from ivf_core.replay.settings import ReplaySettings
from ivf_core.system.memory import keep_freed_memory

__all__ = ["main"]


def main() -> int:
    """Replay the bag of the JSON in the first argument: an object of bag, output and settings.

    Returns:
        The exit status: 1 if the bag cannot be replayed, with the reason in the last line
        of stderr.
    """
    job = json.loads(sys.argv[1])
    keep_freed_memory()
    try:
        replay_bag(Path(job["bag"]), Path(job["output"]), ReplaySettings.from_json(job["settings"]))
    except Exception as error:  # no error of one bag may stop the others
        print(" ".join(f"{type(error).__name__}: {error}".split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
