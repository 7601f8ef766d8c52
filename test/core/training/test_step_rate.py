"""Tests of the measurement of training steps, on a CPU."""

import pytest
import torch

from ivf_core.inference.gpu_measurements import Settings
from ivf_core.training.step_rate import Networks, our_step, plain_step, synthetic_crops


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_the_plain_loop_learns_the_same_as_ours(network: str) -> None:
    crops = synthetic_crops(Settings("cpu", quick=True))
    assert crops.visible_masks.flatten(2).any(dim=2).any(dim=1).all()
    gradients = []
    for prepare in (plain_step, our_step):
        networks = Networks("cpu")
        prepare(networks, crops, network, "fp32")()
        parts = [p.grad for p in getattr(networks, network).parameters() if p.grad is not None]
        gradients.append(torch.cat([part.flatten() for part in parts]))
        other = networks.teacher if network == "student" else networks.student
        assert all(parameter.grad is None for parameter in other.parameters())
    plain, ours = gradients
    assert plain.norm() > 0
    assert (plain - ours).norm() < 1e-3 * plain.norm()


@pytest.mark.parametrize("prepare", [plain_step, our_step])
def test_steps_change_the_network_that_learns(prepare: object) -> None:
    assert callable(prepare)
    networks = Networks("cpu")
    before = networks.student.decoder.weight.detach().clone()
    prepare(networks, synthetic_crops(Settings("cpu", quick=True)), "student", "bf16")()
    assert not torch.equal(networks.student.decoder.weight, before)
