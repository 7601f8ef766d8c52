"""Watch on a camera's topic: silence, lost images, and publishers whose QoS does not match."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible, qos_profile_sensor_data

from ivf_ros.compat import TopicEndpointInfo, profile_variables
from ivf_ros.diagnostics import ERROR, OK, WARN

__all__ = ["CameraWatch"]

_WATCHED_FRAMES = 60
_LOSS_TO_REPORT = 0.05
_REPEATED_FRAMES = 10
_PAUSE_SECONDS = 0.5
"""Longest gap that counts as loss; a longer one is a pause of the camera.

Thermal cameras close their shutter now and then.
"""

_ABSENCE_SECONDS = 2.0
"""Gap of the stamps after which the loss is estimated from the images behind it alone."""

_LOSS_REMEDY = (
    "Fast DDS drops messages larger than its shared-memory segment: start the camera drivers "
    f"and this node with {profile_variables()[0]} set to the package's config/fastdds.xml "
    "(docs/transport.md)"
)


@dataclass
class CameraWatch:
    """Watch on one camera's topic for silence, loss and publishers that do not match.

    Only the executor's thread may use it.

    Attributes:
        topic: resolved name of the image topic.
        qos: profile of the subscription.
        type: type of the messages, "sensor_msgs/msg/Image".
        other_transport: topic and setting of the camera's other transport, as
            ("/rgb/image_raw/compressed", "rgb_transport:=compressed"); empty if unknown.
        received: number of images so far.
        lost_events: number of losses that the middleware reported.
        last_arrival: monotonic time of the last image in seconds; None before the first.
    """

    topic: str
    qos: QoSProfile = field(default_factory=lambda: qos_profile_sensor_data)
    type: str = ""
    other_transport: tuple[str, str] = ("", "")
    received: int = 0
    lost_events: int = 0
    last_arrival: float | None = None
    _repeated: int = 0  # images in a row with the stamp of the one before
    _last_stamp: float | None = None
    _present_since: float | None = None  # when the first of the present publishers was seen
    _stamps: deque[float] = field(default_factory=lambda: deque(maxlen=_WATCHED_FRAMES))
    _info_stamps: deque[float] = field(default_factory=lambda: deque(maxlen=_WATCHED_FRAMES))

    def image(self, stamp: float, now: float) -> None:
        """Note the arrival of an image.

        Args:
            stamp: stamp of the image in seconds.
            now: monotonic time of its arrival in seconds.
        """
        self.received += 1
        self.last_arrival = now
        self._repeated = self._repeated + 1 if stamp == self._last_stamp else 0
        self._last_stamp = stamp
        self._note(self._stamps, stamp)

    def camera_info(self, stamp: float) -> None:
        """Note the arrival of a CameraInfo: it is small and arrives where images are lost.

        Args:
            stamp: stamp of the message in seconds.
        """
        self._note(self._info_stamps, stamp)

    @staticmethod
    def _note(stamps: deque[float], stamp: float) -> None:
        """Add a stamp in its order; forget all others when time jumps."""
        # A bag loops, or the camera was away and may have another rate.
        if stamps and not stamps[0] < stamp < stamps[-1] + _ABSENCE_SECONDS:
            stamps.clear()
        later = []
        while stamps and stamps[-1] > stamp:
            later.append(stamps.pop())
        stamps.append(stamp)
        stamps.extend(reversed(later))

    def lost_share(self) -> float:
        """Estimate the share of the recent images that never arrived, 0 to 1.

        If the camera sends a CameraInfo with each image, these are counted; otherwise
        the gaps between stamps are, in units of the short intervals.
        """
        images, infos = list(self._stamps), list(self._info_stamps)
        if len(images) < 5 or images[-1] <= images[0]:
            return 0.0
        if len(infos) >= 10 and infos[-1] >= images[-1] - _PAUSE_SECONDS:
            since = max(images[0], infos[0])
            sent = sum(since <= stamp <= images[-1] for stamp in infos)
            came = sum(since <= stamp for stamp in images)
            return max(0.0, 1 - came / sent) if sent else 0.0
        intervals = [b - a for a, b in pairwise(images)]
        short = sorted(intervals)[len(intervals) // 10]
        if short <= 0:
            return 0.0
        period = statistics.mean(i for i in intervals if short <= i < 1.6 * short)
        lost = sum(round(i / period) - 1 for i in intervals if i < _PAUSE_SECONDS)
        return max(0.0, lost / (len(images) + lost))

    def check(
        self,
        now: float,
        since: float,
        timeout: float,
        publishers: Sequence[TopicEndpointInfo],
        others: int = 0,
    ) -> tuple[bytes, str]:
        """Return level and message for diagnostics: ERROR while no image arrives.

        Args:
            now: monotonic time in seconds.
            since: monotonic time at which watching began, in seconds.
            timeout: silence of this many seconds is reported.
            publishers: present publishers of the topic.
            others: number of publishers of the camera's other transport.
        """
        last = self.last_arrival
        silence = now - (since if last is None else last)
        mismatched = self._mismatched(publishers)
        if mismatched and len(mismatched) == len(publishers):
            return ERROR, "; ".join(mismatched)
        if not publishers:
            self._present_since = None
        elif self._present_since is None:
            self._present_since = now
        if silence > timeout:
            # A driver that has just started has not failed to deliver yet.
            known = self._present_since is not None and now - self._present_since > timeout
            return ERROR, self._silence(silence, publishers if known else [], others)
        if self._repeated >= _REPEATED_FRAMES:
            return ERROR, (
                f"the images on {self.topic} all have the stamp {self._last_stamp:.3f} s: the "
                "driver must set header.stamp for each image"
            )
        if mismatched:
            return WARN, "; ".join(mismatched)
        share = self.lost_share()
        if share > _LOSS_TO_REPORT:
            return WARN, f"{share:.0%} of the images on {self.topic} are lost. {_LOSS_REMEDY}"
        return OK, "receiving" if last is not None else f"waiting for {self.topic}"

    def _silence(self, seconds: float, publishers: Sequence[TopicEndpointInfo], others: int) -> str:
        """Return the message while no image arrives."""
        before = "" if self.last_arrival is None else f" for {seconds:.1f} s"
        if not publishers:
            text = f"no publisher on {self.topic}"
            topic, setting = self.other_transport
            if others and topic and topic != self.topic:  # both may be remapped to one
                return f"{text}, but {others} on {topic}: set {setting}"
            if self.last_arrival is None:
                return text
            return f"no image on {self.topic}{before}, and no publisher: its driver has ended"
        if self.last_arrival is None:
            return (
                f"{len(publishers)} publisher(s) on {self.topic}, but no image has arrived "
                f"in {seconds:.1f} s. {_LOSS_REMEDY}"
            )
        text = f"no image on {self.topic}{before}"
        # A CameraInfo is small and arrives where images are lost.
        if self._info_stamps and self._stamps and self._info_stamps[-1] > self._stamps[-1] + 1:
            return f"{text}, while its calibration arrives. {_LOSS_REMEDY}"
        return f"{text}: check power, cable and driver of the camera"

    def _mismatched(self, publishers: Sequence[TopicEndpointInfo]) -> list[str]:
        """Return a sentence for each publisher whose type or QoS does not match."""
        sentences = []
        for publisher in publishers:
            if self.type and publisher.topic_type and publisher.topic_type != self.type:
                hint = f": set {self.other_transport[1]}" if self.other_transport[1] else ""
                sentences.append(
                    f"{publisher.node_name} publishes {publisher.topic_type} on {self.topic}, "
                    f"expected {self.type}{hint}"
                )
                continue
            verdict, reason = qos_check_compatible(publisher.qos_profile, self.qos)
            if verdict == QoSCompatibility.ERROR:
                sentences.append(
                    f"{publisher.node_name} offers a QoS on {self.topic} that does not match "
                    f"({reason.rstrip(';')}): change it there, or here with "
                    f"qos_overrides.{self.topic}.subscription.*"
                )
        return sentences

    def report(self) -> dict[str, str]:
        """Return the counters of the camera as text, by the keys of diagnostics."""
        return {
            "topic": self.topic,
            "received": str(self.received),
            "lost_share_estimate": f"{self.lost_share():.3f}",
            "lost_events": str(self.lost_events),
        }
