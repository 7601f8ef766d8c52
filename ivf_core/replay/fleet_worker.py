"""One bag of a fleet: `python -m ivf_core.replay.worker JOB`, JOB in JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ivf_core.replay.run import replay_bag
from ivf_core.replay.settings import ReplaySettings
from ivf_core.system.memory import keep_freed_memory

__all__ = ["main"]


def main() -> int:
    """Returns 1 where the bag cannot be replayed, with the reason in the last line of stderr."""
    job = json.loads(sys.argv[1])
    keep_freed_memory()
    try:
        replay_bag(Path(job["bag"]), Path(job["output"]), ReplaySettings.from_json(job["settings"]))
    except Exception as error:  # whatever it is, the other bags go on
        print(" ".join(f"{type(error).__name__}: {error}".split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
