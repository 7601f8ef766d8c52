"""Choices that the help of `ivf` names, run end to end; and remedies that its errors name."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from replays import drive as frames
from replays import write_drive
from small_bags import write_rosbag1

from ivf_core.bags.reader import bag_info
from ivf_core.cli import build_parser, main
from ivf_core.commands import train
from ivf_core.commands.command import Command
from ivf_core.images.files import write_image
from ivf_core.images.videos import VideoWriter

ROOT = Path(__file__).parents[3]


def choices(*words: str) -> list[tuple[str, str]]:
    """Return options with choices of a command, each with each of its choices."""
    parser = build_parser()
    for word in words:
        (commands,) = (
            action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
        )
        parser = commands.choices[word]
    found = []
    for action in parser._actions:
        for choice in action.choices or ():
            found.append((action.option_strings[0], str(choice)))
    return found


@pytest.fixture
def weights(tiny_weights: Path) -> Path:
    return tiny_weights


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp("bags") / "drive", 2)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "v.mp4"
    with VideoWriter(path, 10.0, (64, 80)) as writer:
        for number in range(3):
            writer.write(np.full((64, 80, 3), 40 * number, np.uint8))
    return path


def check(
    words: list[object], option: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run a command; what the weights or this machine lack is an error of one line."""
    status = main([str(word) for word in words])
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "unexpected" not in error
    may_lack = ("--engine", "--precision")
    if option in may_lack and status == 1:
        assert error.strip().splitlines()[-1].startswith("ivf: ")
        return
    assert status == 0, error
    assert output.exists()


@pytest.mark.parametrize(("option", "choice"), choices("replay"))
def test_choices_of_replay(
    option: str,
    choice: str,
    drive: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    words = ["replay", drive, "--output", output, "--weights", weights, option, choice]
    check(words, option, output / "report.html", capsys)
    if option == "--storage":
        assert bag_info(output / "bag").format == f"rosbag2 {choice}"
        assert bag_info(output / "bag").messages == 8


@pytest.mark.parametrize(("option", "choice"), choices("fuse"))
def test_choices_of_fuse(
    option: str,
    choice: str,
    video: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    words = [
        "fuse", "--visible", video, "--infrared", video, "--output", output, "--weights", weights,
        option, choice,
    ]  # fmt: skip
    check(words, option, output / "fused.mp4", capsys)


@pytest.mark.parametrize(("option", "choice"), choices("bag", "from-video"))
def test_choices_of_from_video(
    option: str, choice: str, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    words = ["bag", "from-video", "--visible", video, "--infrared", video, "--output", output]
    check([*words, option, choice], option, output, capsys)
    assert bag_info(output).format == f"rosbag2 {choice}"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two pairs with class ids."""
    root = tmp_path_factory.mktemp("pairs")
    for number, frame in enumerate(frames(2)):
        for kind, image in (
            ("visible", frame.visible),
            ("infrared", frame.infrared),
            ("labels", frame.labels),
        ):
            write_image(root / kind / f"{number}.png", image[:80, :96])
    return root


# Engines are run above, and other class sets only raise: the weights have MFNet's.
RUN_ABOVE = ("--engine", "--precision")
CLASS_SETS = ("--classes", "--mask-classes")


@pytest.mark.parametrize(
    ("option", "choice"),
    [
        (option, choice)
        for option, choice in choices("evaluate")
        if option not in RUN_ABOVE and (option not in CLASS_SETS or choice == "mfnet")
    ],
)
def test_choices_of_evaluate(
    option: str,
    choice: str,
    pairs: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / "out"
    words = [
        "evaluate", "--visible", pairs / "visible", "--infrared", pairs / "infrared",
        "--weights", weights, "--metrics", "EN", "--output", output, "--examples", "0",
        "--engine", "torch", "--precision", "fp32",
    ]  # fmt: skip
    if option in ("--labels-are", "--classes", "--mask-classes"):
        words += ["--labels", pairs / "labels"]
    if option == "--mask-classes":
        words += ["--fused", f"other={pairs / 'visible'}", "--masks", f"other={pairs / 'labels'}"]
    check([*words, option, choice], option, output / "summary.json", capsys)


@pytest.mark.parametrize("option", RUN_ABOVE)
def test_engines_of_evaluate_are_those_of_replay(option: str) -> None:
    """Compare the choices; those of replay are run end to end above."""
    assert [c for c in choices("evaluate") if c[0] == option] == [
        c for c in choices("replay") if c[0] == option
    ]


@pytest.mark.parametrize("command", [c for c in train.COMMANDS if c.words != "train smoke"])
def test_commands_of_train_read_their_recipe(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example of each reaches the recipe of the right kind, with every option of the help."""
    pytest.importorskip("torch")
    words = command.example.partition("ivf ")[2].split()
    monkeypatch.chdir(ROOT)
    options = ["--set", "no_such_option=1", "--resume"]
    assert main([*words, *options]) == 1
    error = capsys.readouterr().err
    assert "no_such_option" in error
    assert error.count("\n") == 1
    parsed = build_parser().parse_args([*words, *options])
    assert parsed.resume
    assert Path(parsed.config).is_file()


class TestOutputs:
    """Results replace those of an earlier run, never anything else of the user's."""

    def test_replay_into_the_folder_of_its_bag(
        self, drive: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        home = tmp_path / "home"
        home.mkdir()
        (home / "bag").symlink_to(drive)
        own = write_drive(home / "mine", 2)
        for bag, output in ((home / "bag", home), (own, home), (own, own), (home, home)):
            assert main(["replay", str(bag), "--output", str(output)]) == 1
            assert "the input" in capsys.readouterr().err or output is home
        assert bag_info(own).messages == 4
        assert bag_info(drive).messages == 4
        assert sorted(path.name for path in home.iterdir()) == ["bag", "mine"]

    def test_replay_twice_keeps_what_is_the_users(
        self, drive: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = tmp_path / "out"
        words = ["replay", str(drive), "--output", str(output), "--weights", str(weights)]
        assert main(words) == 0
        (output / "photos").mkdir()
        (output / "photos" / "holiday.jpg").write_text("mine")
        assert main([*words, "--storage", "sqlite3"]) == 0
        assert (output / "photos" / "holiday.jpg").read_text() == "mine"
        assert [path.name for path in (output / "bag").iterdir() if path.suffix != ".yaml"] == [
            "bag.db3"
        ]
        (output / "images" / "holiday.jpg").write_text("mine")
        assert main(words) == 1
        assert "images/holiday.jpg is there already" in capsys.readouterr().err
        assert bag_info(output / "bag").format == "rosbag2 sqlite3"

    def test_fuse_into_the_folder_of_its_input(
        self, video: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "fused.mp4").write_bytes(video.read_bytes())
        words = ["fuse", "--visible", str(tmp_path / "fused.mp4"), "--infrared", str(video)]
        assert main([*words, "--output", str(tmp_path)]) == 1
        assert "contains the input" in capsys.readouterr().err
        assert (tmp_path / "fused.mp4").read_bytes() == video.read_bytes()


class TestRemedies:
    """`ivf replay` reads the part that is whole, as the errors of other commands say."""

    @pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
    def test_bag_cut_off(
        self, storage: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bag = write_drive(tmp_path / "drive", 8, storage=storage)
        (file,) = (path for path in bag.iterdir() if path.suffix != ".yaml")
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])
        assert main(["bag", "info", str(bag)]) == 1
        assert "`ivf replay` reads the part that is whole" in capsys.readouterr().err
        output = tmp_path / "out"
        words = ["replay", str(bag), "--output", str(output), "--weights", str(weights)]
        assert main([*words, "--inputs"]) == 0
        assert bag_info(output / "bag").messages >= 12 + 3 * 5

    def test_rosbag1_whose_recorder_was_stopped(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from ivf_core.bags.salvage import open_bag

        path = tmp_path / "drive.bag"
        write_rosbag1(path)
        data = bytearray(path.read_bytes())
        place = data.index(b"index_pos=") + 10
        data[place : place + 8] = bytes(8)
        active = tmp_path / "drive.bag.active"
        active.write_bytes(data)
        assert main(["bag", "info", str(active)]) == 1
        assert "not indexed" in capsys.readouterr().err
        with open_bag(active, []) as bag:
            assert bag.info.format == "rosbag1"
            assert len(list(bag.raw(["/rgb/image_raw"]))) == 3


def test_unexpected_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("of\ntwo lines")

    monkeypatch.setattr("ivf_core.models.weights_files.shipped_weights", fail)
    assert main(["weights"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("ivf: unexpected ZeroDivisionError: of two lines")
    assert error.count("\n") == 1
    monkeypatch.setenv("IVF_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main(["weights"])
