"""Transport of images: topics of raw and compressed images, and the profile of Fast DDS."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ivf_ros.compat import profile_variables

__all__ = ["USERS_OWN", "environment", "image_topics", "profile_path", "reason_not_applied"]

_COMPRESSED = "/compressed"

USERS_OWN = (
    "FASTRTPS_DEFAULT_PROFILES_FILE",
    "FASTDDS_DEFAULT_PROFILES_FILE",
    "FASTDDS_BUILTIN_TRANSPORTS",
)
"""Variables with which users choose a transport of Fast DDS 2 or 3."""


def image_topics(node: Any, base: str) -> dict[str, str]:
    """Return the resolved topic of a camera's images by transport, "raw" and "compressed".

    A remapping of the base topic is followed by the compressed one, as image_transport does,
    unless that is remapped itself.

    Args:
        node: node whose remappings apply.
        base: name of the raw topic in the node, "rgb/image_raw".
    """
    raw, compressed = node.resolve_topic_name(base), node.resolve_topic_name(base + _COMPRESSED)
    if compressed == node.resolve_topic_name(base + _COMPRESSED, only_expand=True):
        compressed = raw.removesuffix(_COMPRESSED) + _COMPRESSED
    return {"raw": raw, "compressed": compressed}


def profile_path() -> Path:
    """Return the path of config/fastdds.xml, in the source tree or the share folder.

    Raises:
        FileNotFoundError: it is in neither place.
    """
    package = Path(__file__).resolve().parent
    candidates = [package.parent / "config" / "fastdds.xml"]
    # Installed: <prefix>/lib/pythonX.Y/site-packages/ivf_ros and <prefix>/share/ivf_ros.
    candidates += [
        prefix / "share" / "ivf_ros" / "config" / "fastdds.xml" for prefix in package.parents
    ]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"fastdds.xml: found neither at {candidates[0]} nor in share/ivf_ros/config above {package}"
    )


def reason_not_applied(base: Mapping[str, str]) -> str | None:
    """Return the setting that makes `environment` leave out the profile, or None.

    Such a setting is a profile or transport of the user's own, or another middleware.

    Args:
        base: variables of the process by name.

    Returns:
        The setting as "NAME=VALUE".
    """
    for name in USERS_OWN:
        if base.get(name):
            return f"{name}={base[name]}"
    middleware = base.get("RMW_IMPLEMENTATION", "")
    if middleware and not middleware.startswith("rmw_fastrtps"):
        return f"RMW_IMPLEMENTATION={middleware}"
    return None


def environment(
    base: Mapping[str, str] | None = None, profile: str | Path | None = None
) -> dict[str, str]:
    """Return the environment for a process that publishes images: `base` with the profile.

    Args:
        base: variables by name; by default the environment of this process.
        profile: XML profile to use instead of config/fastdds.xml.

    Returns:
        A copy of `base`, unchanged if the user chose a transport: see `reason_not_applied`.

    Raises:
        FileNotFoundError: the profile does not exist.
    """
    result = dict(os.environ if base is None else base)
    if reason_not_applied(result) is None:
        path = profile_path() if profile is None else Path(profile).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"Fast DDS profile '{path}': no such file")
        result.update(dict.fromkeys(profile_variables(), str(path.resolve())))
    return result
