"""The Fast DDS profile for images, and the environment that applies it to a process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["PROFILE_VARIABLES", "environment", "profile_path", "reason_not_applied"]

PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""What Fast DDS 2 (Humble, Jazzy) and Fast DDS 3 (Kilted and later) read."""

_USERS_OWN = (*PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS")


def profile_path() -> Path:
    """Where config/fastdds.xml lies: in the source tree or in the share folder of an install.

    Raises:
        FileNotFoundError: if it is in neither place.
    """
    package = Path(__file__).resolve().parent
    candidates = [package.parent / "config" / "fastdds.xml"]
    # An install has <prefix>/lib/pythonX.Y/site-packages/ivf_ros and <prefix>/share/ivf_ros.
    candidates += [
        prefix / "share" / "ivf_ros" / "config" / "fastdds.xml" for prefix in package.parents
    ]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"fastdds.xml: neither {candidates[0]} nor share/ivf_ros/config above {package}"
    )


def reason_not_applied(base: Mapping[str, str]) -> str | None:
    """Name the setting in an environment that `environment` leaves in charge; None where none is.

    That is a profile or transport of the user's own, or another middleware.
    """
    for name in _USERS_OWN:
        if base.get(name):
            return f"{name}={base[name]}"
    middleware = base.get("RMW_IMPLEMENTATION", "")
    if middleware and not middleware.startswith("rmw_fastrtps"):
        return f"RMW_IMPLEMENTATION={middleware}"
    return None


def environment(
    base: Mapping[str, str] | None = None, profile: str | Path | None = None
) -> dict[str, str]:
    """Environment for a process that publishes images: `base`, and the profile.

    Args:
        base: what to start from; the environment of this process by default.
        profile: another XML profile than ours.

    Returns:
        A copy of `base`, unchanged where the user chose a transport: see `reason_not_applied`.

    Raises:
        FileNotFoundError: if the profile does not exist.
    """
    result = dict(os.environ if base is None else base)
    if reason_not_applied(result) is None:
        path = profile_path() if profile is None else Path(profile).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"Fast DDS profile '{path}': no such file")
        result.update(dict.fromkeys(PROFILE_VARIABLES, str(path.resolve())))
    return result
