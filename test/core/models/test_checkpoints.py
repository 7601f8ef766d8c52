"""Tests of weights files: round trip, the published file, and errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ivf_core.class_sets import CLASS_SETS, FMB, ClassSet
from ivf_core.defaults import DEFAULT_WEIGHTS
from ivf_core.models.checkpoints import FusionModel, load_model, save_model
from ivf_core.models.student import FusionStudent
from ivf_core.models.weights_files import (
    DIGEST_KEY,
    WeightsError,
    find_weights,
    open_weights,
    shipped_weights,
)


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
    assert loaded.metadata == {"source": "a test"}
    save_model(loaded, path, more="of it")
    assert load_model(path).metadata == {"source": "a test", "more": "of it"}
    assert [p.name for p in path.parent.iterdir()] == ["weights.safetensors"]


def test_student_without_head(tmp_path: Path) -> None:
    save_model(FusionModel(FusionStudent(4)), tmp_path / "w.safetensors")
    assert load_model(tmp_path / "w.safetensors").head is None


def test_published_checkpoint(data: Path) -> None:
    model = load_model(data / "sage_m3fd" / "sage_student_published.pt")
    assert sum(p.numel() for p in model.student.parameters()) == 135_617
    assert model.class_set is None


def test_shipped_weights() -> None:
    shipped = shipped_weights()
    assert {"sage", DEFAULT_WEIGHTS} <= shipped.keys()
    for name, path in shipped.items():
        assert path.stat().st_size < 5_000_000
        assert path.with_suffix(".md").is_file(), "a model card"
        model = load_model(name)
        assert (model.class_set is None) == (name == "sage"), name  # fusion alone
        assert find_weights(name) == path


def test_missing_file_lists_the_shipped_weights() -> None:
    with pytest.raises(WeightsError, match=r"'nowhere': no such file .*shipped: .*sage"):
        load_model("nowhere")


def damaged(path: Path, tiny: Path) -> None:
    path.write_bytes(tiny.read_bytes()[:1000])


def foreign(path: Path, tiny: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path)


def parts(tiny: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(tiny, "pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    del metadata[DIGEST_KEY]  # as other writers and earlier versions
    return tensors, metadata


def incomplete(path: Path, tiny: Path) -> None:
    tensors, metadata = parts(tiny)
    del tensors["student.decoder.weight"]
    save_file(tensors, path, metadata)


def left_over(path: Path, tiny: Path) -> None:
    tensors, metadata = parts(tiny)
    save_file({**tensors, "neck.weight": torch.zeros(3)}, path, metadata)


def head_without_metadata(path: Path, tiny: Path) -> None:
    tensors, metadata = parts(tiny)
    save_file(tensors, path, {k: v for k, v in metadata.items() if k != "ivf_head"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damaged, "not a readable safetensors file"),
        (foreign, "expected 'ivf-weights-1'"),
        (incomplete, "decoder.weight"),
        (left_over, r"student\.\* and head\.\* only, found neck\.weight"),
        (head_without_metadata, r"expected tensors student\.\* only, found head\."),
    ],
)
def test_bad_safetensors(spoil: object, message: str, tiny_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    assert callable(spoil)
    spoil(path, tiny_weights)
    with pytest.raises(WeightsError, match=message) as caught:
        load_model(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ivf_architecture", "huge", "student architecture 'huge', known: sage"),
        ("ivf_architecture", None, "metadata ivf_architecture is missing"),
        ("ivf_student", None, "metadata ivf_student is missing"),
        ("ivf_student", '{"channels": ', "metadata ivf_student is .*expected JSON"),
        ("ivf_student", "[8]", "metadata ivf_student is .*expected JSON"),
        ("ivf_student", '{"width": 8}', "metadata ivf_student is .*width"),
        ("ivf_student", '{"channels": "8"}', "metadata ivf_student is"),
        ("ivf_student", '{"channels": -8}', "metadata ivf_student is"),
        ("ivf_student", '{"channels": 4}', "do not fit FusionStudent"),
        ("ivf_class_set", None, "metadata ivf_class_set is missing"),
        ("ivf_class_set", "{}", "metadata ivf_class_set is .*names?"),
        ("ivf_class_set", '{"name": "x", "names": ["a", "b"], "colors": []}', "2 names but 0"),
        ("ivf_class_set", '{"name": "x", "names": ["a", "b"], "colors": [0, 0]}', "ivf_class_set"),
        ("ivf_head", "null", "metadata ivf_head is 'null', expected JSON"),
        ("ivf_head", '{"feature_channels": [8, 8, 8, 8, 8], "widths": [8]}', "ivf_head is"),
        (
            "ivf_head",
            '{"feature_channels": [4, 4, 4, 4, 4], "widths": [8, 8, 8]}',
            "do not fit SegmentationHead: head.* is .*, expected .*more",
        ),
        ("ivf_student", '{"channels": 10000000000}', "do not fit|metadata ivf_student is"),
        (
            "ivf_class_set",
            '{"name": "x", "names": [1, "b"], "colors": []}',
            "printable text, got 1",
        ),
        ("ivf_class_set", '{"name": "x", "names": ["a\\n", "b"], "colors": []}', "printable text"),
        (
            "ivf_class_set",
            '{"name": "x", "names": ["a", "b"], "colors": [[0, 0, 0], [0, 0, 256]]}',
            "0 to 255",
        ),
        (
            "ivf_class_set",
            '{"name": "x", "names": ["a", "b"], "colors": [[0, 0, 0], [0, 0, 0.5]]}',
            "0 to 255",
        ),
        ("ivf_ranges", "[1]", "metadata ivf_ranges is"),
        ("ivf_ranges", '{"student.stages.0.0": [1, 0]}', "expected .lowest, highest."),
        ("ivf_ranges", '{"student.stages.0.0": ["0", "1"]}', "expected .lowest, highest."),
        ("ivf_ranges", '{"student.stages.0.0": [0, NaN]}', "expected .lowest, highest."),
        ("ivf_ranges", "x" * 100_000, "metadata ivf_ranges is"),
        ("ivf_ranges", '{"student.stages.0.0": [0]}', "metadata ivf_ranges is"),
    ],
)
def test_bad_metadata(
    key: str, value: str | None, message: str, tiny_weights: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bad.safetensors"
    tensors, metadata = parts(tiny_weights)
    metadata.pop(key, None)
    save_file(tensors, path, metadata if value is None else {**metadata, key: value})
    with pytest.raises(WeightsError, match=f"bad.safetensors.*{message}") as caught:
        load_model(path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(value: float, tiny_weights: Path, tmp_path: Path) -> None:
    tensors, metadata = parts(tiny_weights)
    tensors["student.decoder.weight"].view(-1)[3] = value
    save_file(tensors, tmp_path / "bad.safetensors", metadata)
    with pytest.raises(WeightsError, match=r"student\.decoder\.weight has values .* not finite"):
        load_model(tmp_path / "bad.safetensors")


def test_tensors_that_were_changed(tiny_weights: Path, tmp_path: Path) -> None:
    """One flipped bit is found, by networks and by engines that read no networks."""
    content = bytearray(tiny_weights.read_bytes())
    content[-10] ^= 1
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    for read in (load_model, lambda path: open_weights(path).digest):
        with pytest.raises(WeightsError, match=r"bad\.safetensors.*ivf_digest differs"):
            read(path)


def test_shipped_weights_carry_a_digest() -> None:
    for name in shipped_weights():
        file = open_weights(name)
        assert file.entries[DIGEST_KEY] == file.digest, name


def test_earlier_key_of_the_architecture_is_read(tiny_weights: Path, tmp_path: Path) -> None:
    tensors, metadata = parts(tiny_weights)
    path = tmp_path / "earlier.safetensors"
    metadata["ivf_structure"] = metadata.pop("ivf_architecture")
    save_file(tensors, path, metadata)
    assert load_model(path).architecture == load_model(tiny_weights).architecture


def test_metadata_that_is_reserved(tiny_model: FusionModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ivf_head: .*reserved"):
        save_model(tiny_model, tmp_path / "w.safetensors", ivf_head="{}")
    assert not list(tmp_path.iterdir())


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
    torch.save({0: torch.zeros(1)}, tmp_path / "numbered.pt")
    with pytest.raises(WeightsError, match="expected a state dict"):
        load_model(tmp_path / "numbered.pt")
    for text in ("no weights", "hello", "", "version https://git-lfs.github.com/spec/v1\n"):
        (tmp_path / "text.pt").write_text(text)
        with pytest.raises(WeightsError, match=r"text\.pt': neither safetensors nor"):
            load_model(tmp_path / "text.pt")


def test_head_and_class_set_go_together(tiny_model: FusionModel) -> None:
    with pytest.raises(ValueError, match="both or neither"):
        FusionModel(tiny_model.student, tiny_model.head)


def test_class_sets() -> None:
    assert {name: len(s) for name, s in CLASS_SETS.items()} == {
        "mfnet": 9,
        "fmb": 15,
        "pst900": 5,
        "street": 13,
    }
    for class_set in CLASS_SETS.values():
        assert ClassSet.from_json(class_set.to_json()) == class_set
        assert len(set(class_set.colors)) == len(class_set)
    table = FMB.lookup_table()
    assert tuple(table[9]) == FMB.colors[9]
    assert not table[15:].any()
    with pytest.raises(ValueError, match="2 names but 1 colors"):
        ClassSet("x", ("a", "b"), ((0, 0, 0),))
