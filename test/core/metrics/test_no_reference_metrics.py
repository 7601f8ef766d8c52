"""Tests of no-reference metrics: their inputs, and their networks with random weights.

The true weights cannot be had where tests run, so no true score is checked.
"""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ivf_core.metrics.no_reference import (
    NO_REFERENCE_METRICS,
    MetricUnavailableError,
    no_reference_metrics,
    weights_directory,
)

GREY, OTHER = np.random.default_rng(0).uniform(0, 255, (2, 192, 200)).astype(np.float32)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def reject(*_arguments: object) -> None:
        raise AssertionError("something is downloaded")

    monkeypatch.setattr(socket.socket, "connect", reject)
    monkeypatch.setattr(socket, "getaddrinfo", reject)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write weights files like the published ones, with random numbers."""
    pytest.importorskip("pyiqa")
    import torchvision
    from pyiqa.archs.musiq_arch import MUSIQ
    from pyiqa.archs.paq2piq_arch import AdaptiveConcatPool2d
    from scipy.io import savemat

    folder = tmp_path_factory.mktemp("no_reference")
    torch.manual_seed(0)
    files = {name: folder / metric.weights for name, metric in NO_REFERENCE_METRICS.items()}
    torch.save((torch.rand(5), torch.rand(5, 36)), files["BRISQUE"])
    savemat(files["NIQE"], {"mu_prisparam": np.zeros((1, 36)), "cov_prisparam": np.eye(36)})
    torch.save(MUSIQ(pretrained=False).state_dict(), files["MUSIQ"])
    network = torch.nn.ModuleDict(
        {
            "body": torch.nn.Sequential(*list(torchvision.models.resnet18().children())[:-2]),
            "head": torch.nn.Sequential(
                AdaptiveConcatPool2d(), torch.nn.Flatten(), torch.nn.BatchNorm1d(1024),
                torch.nn.Dropout(), torch.nn.Linear(1024, 512), torch.nn.ReLU(),
                torch.nn.BatchNorm1d(512), torch.nn.Dropout(), torch.nn.Linear(512, 1),
            ),
        }
    )  # fmt: skip
    torch.save(network.state_dict(), files["PaQ-2-PiQ"])
    return folder


@pytest.mark.parametrize("name", NO_REFERENCE_METRICS)
def test_networks_run(name: str, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = [no_reference_metrics(x, [name], weights=weights)[name] for x in (GREY, OTHER)]
    assert np.isfinite(values).all()
    assert values[0] != values[1]
    double = no_reference_metrics(OTHER.astype(np.float64), [name], weights=weights, device="auto")
    assert double[name] == pytest.approx(values[1], rel=1e-4)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("name", "tolerance"), [("BRISQUE", 0.2), ("PaQ-2-PiQ", 1e-6)])
def test_color(name: str, tolerance: float, weights: Path) -> None:
    """Compare grey and colour images; BRISQUE's luma of colours is in 16 to 235."""
    image = GREY[:64, :64]
    grey, color = (
        no_reference_metrics(x, [name], weights=weights)[name]
        for x in (image, np.dstack([image] * 3))
    )
    assert color == pytest.approx(grey, rel=tolerance)


def test_values_are_those_of_the_library(weights: Path) -> None:
    pyiqa = pytest.importorskip("pyiqa")
    path = weights / NO_REFERENCE_METRICS["BRISQUE"].weights
    theirs = pyiqa.create_metric("brisque", device="cpu", pretrained_model_path=str(path))
    ours = no_reference_metrics(GREY, ["BRISQUE"], weights=weights)["BRISQUE"]
    assert ours == pytest.approx(theirs(torch.from_numpy(GREY)[None, None] / 255).item())


@pytest.mark.parametrize("name", NO_REFERENCE_METRICS)
def test_smallest_images(name: str, weights: Path) -> None:
    side = NO_REFERENCE_METRICS[name].smallest
    image = GREY[:side, :side]
    assert np.isfinite(no_reference_metrics(image, [name], weights=weights)[name])
    message = f"fused is {side} x {side - 1}, expected at least {side} x {side}"
    with pytest.raises(ValueError, match=message):
        no_reference_metrics(image[:, 1:], [name], weights=weights)


@pytest.mark.parametrize("name", NO_REFERENCE_METRICS)
def test_missing_weights(name: str, tmp_path: Path) -> None:
    file = NO_REFERENCE_METRICS[name].weights
    with pytest.raises(MetricUnavailableError) as caught:
        no_reference_metrics(GREY, [name], weights=tmp_path)
    message = str(caught.value)
    assert message.startswith(f"metric '{name}': no weights at '{tmp_path / file}'; get them: curl")
    assert message.endswith(
        f"https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/{file}"
    )


def test_place_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert weights_directory() == tmp_path / "hub" / "pyiqa"
    with pytest.raises(MetricUnavailableError, match=re.escape(f"'{tmp_path}/hub/pyiqa/niqe")):
        no_reference_metrics(GREY, ["NIQE"])


def test_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "niqe_modelparameters.mat").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(MetricUnavailableError, match=r"'NIQE' needs pyiqa .*\[no-reference\]"):
        no_reference_metrics(GREY, ["NIQE"], weights=tmp_path)


def test_missing_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MetricUnavailableError, match=r"'NIQE' needs pyiqa .*\[no-reference\]"):
        no_reference_metrics(GREY, ["NIQE"], weights=tmp_path)


class Code:
    def __reduce__(self) -> tuple:
        return print, ("code ran",)


@pytest.mark.parametrize("content", ["nothing", "text", "code", "other"])
@pytest.mark.parametrize("name", ["BRISQUE", "NIQE", "PaQ-2-PiQ"])
def test_damaged_weights(
    name: str, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyiqa")
    path = tmp_path / NO_REFERENCE_METRICS[name].weights
    path.write_bytes(b"" if content == "nothing" else b"<html>not found</html>")
    if content in ("code", "other"):
        torch.save(Code() if content == "code" else {"a": torch.zeros(2)}, path)
    with pytest.raises(MetricUnavailableError, match=f"metric '{name}': .*is not its file of w"):
        no_reference_metrics(GREY, [name], weights=tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("fused", "message"),
    [
        (np.zeros((300, 300, 2)), "fused is (300, 300, 2), expected H x W or H x W x 3"),
        (np.full((300, 300), 256.0), "fused has values 256 to 256, expected 0 to 255"),
        (np.zeros((300, 300), np.int16), "fused is int16, expected"),
    ],
)
def test_wrong_images_are_rejected(fused: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        no_reference_metrics(fused, ["NIQE"])


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="metric 'PIQE', known: BRISQUE, NIQE"):
        no_reference_metrics(GREY, ["PIQE"])
