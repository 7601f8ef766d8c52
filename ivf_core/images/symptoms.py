"""Symptoms of cameras that do not see well, and the record of what is wrong at a moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

__all__ = ["REMEDIES", "HealthRecord", "Lasting", "Severity", "Symptom"]


class Severity(IntEnum):
    """Severity of a symptom.

    Attributes:
        OK: nothing is wrong.
        NOTE: normal for a while, such as a flat-field correction.
        FAULT: results suffer.
        UNUSABLE: the image tells nothing; the other camera alone does better.
    """

    OK = 0
    NOTE = 1
    FAULT = 2
    UNUSABLE = 3


REMEDIES = {
    "black": "check lens cap, shutter, exposure and cable of the camera",
    "black_hot": "set the thermal camera to white-hot: the networks expect warm things bright",
    "blurred": "clean the lens and check its focus",
    "frozen": "a flat-field correction ends by itself; otherwise restart the camera's driver",
    "low_contrast": "normal for fog, smoke, a wall or a closed shutter; otherwise clean the lens",
    "misregistered": "make a rig file with ivf register, or check the mount of the cameras",
    "noise": "raise the light or lower the gain of the camera",
    "salt": "check cable and sensor, or repair dead pixels in the driver",
    "saturated": "lower exposure or gain of the camera, or turn it away from the sun",
    "silent": "check power, cable and driver of the camera",
    "unreadable": "see the message for what the driver sends",
}
"""Remedy for each symptom, by its name."""


@dataclass(frozen=True)
class Symptom:
    """Symptom that lasts.

    Attributes:
        name: key of `REMEDIES`.
        severity: at least `Severity.NOTE`.
        text: what was measured, in words.
    """

    name: str
    severity: Severity
    text: str


@dataclass(frozen=True)
class HealthRecord:
    """Health of a camera, or of a pair of cameras, after a frame.

    Attributes:
        seconds: stamp of the frame.
        symptoms: symptoms that last, the worst first.
        values: values measured on the frame, by name.
    """

    seconds: float = 0.0
    symptoms: tuple[Symptom, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, seconds: float, symptoms: Iterable[Symptom], values: Mapping[str, float]
    ) -> HealthRecord:
        """Build a record, with the worst symptom first."""
        ordered = sorted(symptoms, key=lambda symptom: (-symptom.severity, symptom.name))
        return cls(seconds, tuple(ordered), values)

    @property
    def severity(self) -> Severity:
        """Severity of the worst symptom."""
        return self.symptoms[0].severity if self.symptoms else Severity.OK

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the symptoms, the worst first."""
        return tuple(symptom.name for symptom in self.symptoms)

    @property
    def text(self) -> str:
        """Symptoms in words; empty without any."""
        return "; ".join(symptom.text for symptom in self.symptoms)


class Lasting:
    """Condition that counts once it has lasted, and until it has been gone as long.

    Args:
        seconds: time that it must last, and be gone.
        frames: number of frames that it must last, and be gone, as well.

    Attributes:
        active: whether it counts.
    """

    def __init__(self, seconds: float, frames: int = 3) -> None:
        self._seconds = seconds
        self._frames = frames
        self.active = False
        self._since: float | None = None  # stamp of the first frame that disagrees
        self._seen = 0

    def update(self, present: bool | None, seconds: float) -> bool:
        """Take the next frame and return whether the condition counts.

        Args:
            present: whether the frame shows it; None if the frame cannot tell.
            seconds: stamp of the frame, not before that of the frame before.
        """
        if present is None:
            return self.active
        if present == self.active:
            self._since = None
            return self.active
        if self._since is None:
            self._since, self._seen = seconds, 0
        self._seen += 1
        if self._seen >= self._frames and seconds - self._since >= self._seconds:
            self.active, self._since = present, None
        return self.active
