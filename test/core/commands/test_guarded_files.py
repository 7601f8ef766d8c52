"""Outputs of `ivf export`, `calibrate` and `train`: inputs and files of others stay."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_runs import write_pairs

from ivf_core.class_sets import MFNET
from ivf_core.cli import main
from ivf_core.models.sartm import Sartm
from ivf_core.system.results import OutputError
from ivf_core.training.masks.cache import MaskCacheError
from ivf_core.training.masks.priors import PriorRecipe, make_priors
from ivf_core.training.sartm.sam2 import TINY_SAM2, build_sam2
from ivf_core.training.sartm.weights import save_sartm
from ivf_core.training.segmentation.fused_labels.campaign import make_labels
from ivf_core.training.segmentation.fused_labels.options import LabelRecipe, LabelSet
from ivf_core.training.segmentation.logit_cache import LogitCacheError
from ivf_core.training.teacher_logits import LogitRecipe, make_logits


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IVF_DATA", str(tmp_path))
    write_pairs(tmp_path, 2)
    return tmp_path


@pytest.mark.parametrize("command", ["export", "calibrate"])
class TestFiles:
    def words(self, command: str, weights: Path, root: Path, output: Path) -> list[str]:
        pairs = ["--pairs", str(root / "pairs")] if command == "calibrate" else []
        return [command, "--weights", str(weights), *pairs, "--output", str(output)]

    def test_a_file_of_another_kind_stays(
        self, command: str, root: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        mine = root / "thesis.pdf"
        mine.write_bytes(b"\x0a\xff\xff" * 50)
        assert main(self.words(command, tiny_weights, root, mine)) == 1
        assert "thesis.pdf': it is there already, and no" in capsys.readouterr().err
        assert mine.read_bytes() == b"\x0a\xff\xff" * 50

    def test_inputs_folders_and_links_stay(
        self, command: str, root: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        weights = root / "w.safetensors"
        weights.write_bytes(tiny_weights.read_bytes())
        assert main(self.words(command, weights, root, weights)) == 1
        assert "it is the input" in capsys.readouterr().err
        (root / "folder").mkdir()
        assert main(self.words(command, weights, root, root / "folder")) == 1
        assert "it is a folder" in capsys.readouterr().err
        link = root / "link"
        link.symlink_to(root / "nowhere")
        assert main(self.words(command, weights, root, link)) == 1
        assert "there already" in capsys.readouterr().err
        assert link.is_symlink()
        assert weights.read_bytes() == tiny_weights.read_bytes()


def test_export_beside_the_weights_spares_another_graph(
    root: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = root / "w.safetensors"
    weights.write_bytes(tiny_weights.read_bytes())
    (root / "w.onnx").write_bytes(b"")
    assert main(["export", "--weights", str(weights)]) == 1
    assert "no graph that ivf export has written" in capsys.readouterr().err
    (root / "w.onnx").unlink()
    for _ in range(2):
        assert main(["export", "--weights", str(weights)]) == 0


def files_in(folder: Path) -> dict[str, bytes]:
    """Content of all files by path."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestLogits:
    def recipe(self, root: Path, output: Path) -> LogitRecipe:
        return LogitRecipe(
            teacher=f"sartm:{root}/sartm.safetensors", folders=("pairs",), output=str(output)
        )

    @pytest.mark.parametrize("place", ["pairs", "."])
    def test_output_with_the_input(self, root: Path, place: str) -> None:
        with pytest.raises(OutputError, match="the input"):
            make_logits(self.recipe(root, root / place))

    def test_files_and_folders_of_others_stay(self, root: Path) -> None:
        """A file in place of the output, and a folder of the name that a teacher's has."""
        pytest.importorskip("transformers")
        (root / "notes").write_text("mine")
        with pytest.raises(OutputError, match="notes': it is a file, expected a folder"):
            make_logits(self.recipe(root, root / "notes"))
        network = Sartm(build_sam2(TINY_SAM2, len(MFNET)), MFNET, rank=2)
        save_sartm(network, root / "sartm.safetensors")
        directory = make_logits(self.recipe(root, root / "logits")).directory
        assert make_logits(self.recipe(root, root / "logits")).kept == 2
        for name, content in (("settings.json", '{"mine": true}'), ("thesis.txt", "mine")):
            shutil.rmtree(directory)
            directory.mkdir()
            (directory / name).write_text(content)
            before = files_in(root)
            with pytest.raises(LogitCacheError, match="expected a folder that ivf train logits"):
                make_logits(self.recipe(root, root / "logits"))
            assert files_in(root) == before


class TestPriors:
    def recipe(self, output: Path) -> PriorRecipe:
        return PriorRecipe(folders=("pairs",), output=str(output), source="crops", count=2)

    @pytest.mark.parametrize("place", ["pairs", "."])
    def test_output_with_the_input(self, root: Path, place: str) -> None:
        with pytest.raises(OutputError, match="the input"):
            make_priors(self.recipe(root / place))
        (root / "notes").write_text("mine")
        with pytest.raises(OutputError, match="notes': it is a file, expected a folder"):
            make_priors(self.recipe(root / "notes"))

    def test_a_folder_of_the_same_name_stays(self, root: Path) -> None:
        directory = make_priors(self.recipe(root / "masks")).directory
        assert make_priors(self.recipe(root / "masks")).kept == 4
        (directory / "settings.json").write_text('{"mine": true}')
        with pytest.raises(MaskCacheError, match="expected format"):
            make_priors(self.recipe(root / "masks"))
        assert (directory / "settings.json").read_text() == '{"mine": true}'


class TestLabels:
    def recipe(self, output: Path) -> LabelRecipe:
        sets = (LabelSet(name="drive", visible=("pairs/visible",)),)
        return LabelRecipe(sets=sets, output=str(output), teachers=(), points="")

    @pytest.mark.parametrize("place", ["pairs/visible", "pairs", "."])
    def test_output_with_the_input(self, root: Path, place: str) -> None:
        with pytest.raises(OutputError, match="the input"):
            make_labels(self.recipe(root / place))

    @pytest.mark.parametrize("name", ["index.html", "labels.json", "drive", "predictions"])
    def test_files_of_others_stay(self, root: Path, name: str) -> None:
        (root / "site").mkdir()
        (root / "site" / name).write_text("mine")
        with pytest.raises(OutputError, match=f"{name} is there already"):
            make_labels(self.recipe(root / "site"))
        assert (root / "site" / name).read_text() == "mine"
        assert len(list((root / "site").iterdir())) == 1
