"""Weights files: round trip, the published one, and everything that can be wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ivf_core.class_sets import CLASS_SETS, FMB, ClassSet
from ivf_core.models.checkpoints import (
    FusionModel,
    WeightsError,
    find_weights,
    load_model,
    save_model,
    shipped_weights,
)
from ivf_core.models.student import FusionStudent


def test_round_trip(tiny_model: FusionModel, tmp_path: Path) -> None:
    path = tmp_path / "new" / "weights.safetensors"
    save_model(tiny_model, path, source="a test")
    loaded = load_model(path)
    assert loaded.class_set == tiny_model.class_set
    assert loaded.head is not None
    assert loaded.head.widths == (8, 8, 8)
    for ours, theirs in (
        (loaded.student, tiny_model.student),
        (loaded.head, tiny_model.head),
    ):
        assert theirs is not None
        for key, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[key], value), key
        assert not ours.training
    with safe_open(path, "pt") as file:
        assert file.metadata()["source"] == "a test"
    assert [p.name for p in path.parent.iterdir()] == ["weights.safetensors"]


def test_student_without_head(tmp_path: Path) -> None:
    save_model(FusionModel(FusionStudent(4)), tmp_path / "w.safetensors")
    assert load_model(tmp_path / "w.safetensors").head is None


def test_published_checkpoint(data: Path) -> None:
    model = load_model(data / "sage_m3fd" / "sage_student_published.pt")
    assert sum(p.numel() for p in model.student.parameters()) == 135_617
    assert model.class_set is None


def test_what_ships() -> None:
    shipped = shipped_weights()
    assert "sage" in shipped
    for name, path in shipped.items():
        assert path.stat().st_size < 5_000_000
        assert path.with_suffix(".md").is_file(), "a model card"
        model = load_model(name)
        assert model.class_set is not None
        assert find_weights(name) == path


def test_missing_file_lists_what_ships() -> None:
    with pytest.raises(WeightsError, match=r"'nowhere': no such file .*shipped: .*sage"):
        load_model("nowhere")


def damaged(path: Path, tiny: Path) -> None:
    path.write_bytes(tiny.read_bytes()[:1000])


def foreign(path: Path, tiny: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path)


def incomplete(path: Path, tiny: Path) -> None:
    with safe_open(tiny, "pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    del tensors["student.decoder.weight"]
    save_file(tensors, path, metadata)


def other_structure(path: Path, tiny: Path) -> None:
    with safe_open(tiny, "pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    save_file(tensors, path, {**metadata, "ivf_structure": "huge"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damaged, "not a readable safetensors file"),
        (foreign, "expected 'ivf-weights-1'"),
        (incomplete, "decoder.weight"),
        (other_structure, "student structure 'huge', known: sage"),
    ],
)
def test_bad_safetensors(spoil: object, message: str, tiny_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    assert callable(spoil)
    spoil(path, tiny_weights)
    with pytest.raises(WeightsError, match=message) as caught:
        load_model(path)
    assert str(path) in str(caught.value)


def test_pickles_that_are_no_state_dict(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "touched",))

    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match=r"evil\.pt"):
        load_model(tmp_path / "evil.pt")
    assert not (tmp_path / "touched").exists()
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="expected a state dict"):
        load_model(tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(WeightsError, match="neither safetensors nor"):
        load_model(tmp_path / "text.pt")


def test_head_and_class_set_go_together(tiny_model: FusionModel) -> None:
    with pytest.raises(ValueError, match="both or neither"):
        FusionModel(tiny_model.student, tiny_model.head)


def test_class_sets() -> None:
    assert {name: len(s) for name, s in CLASS_SETS.items()} == {
        "mfnet": 9,
        "fmb": 15,
        "pst900": 5,
    }
    for class_set in CLASS_SETS.values():
        assert ClassSet.from_json(class_set.to_json()) == class_set
        assert len(set(class_set.colors)) == len(class_set)
    table = FMB.lookup_table()
    assert tuple(table[9]) == FMB.colors[9]
    assert not table[15:].any()
    with pytest.raises(ValueError, match="2 names but 1 colors"):
        ClassSet("x", ("a", "b"), ((0, 0, 0),))
