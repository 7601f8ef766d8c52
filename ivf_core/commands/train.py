"""Commands of the group `ivf train`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ivf_core.commands.command import BAD_INPUT, Command

__all__ = ["COMMANDS"]


def _train_priors(args: argparse.Namespace) -> int:
    from ivf_core.training.masks.priors import PriorRecipe, make_priors
    from ivf_core.training.runs.recipe import load_recipe

    report = make_priors(load_recipe(PriorRecipe, args.config, args.set))
    for line in report.failed:
        print(f"ivf train priors: left out: {line}", file=sys.stderr)
    images = report.made + report.kept
    print(
        f"masks of {report.made} images made, of {report.kept} images found, "
        f"{report.masks / max(1, images):.1f} per image"
    )
    print(f"written to {report.directory}")
    return 1 if report.failed else 0


def _train_labels(args: argparse.Namespace) -> int:
    from ivf_core.training.runs.recipe import load_recipe
    from ivf_core.training.segmentation.fused_labels.campaign import make_labels
    from ivf_core.training.segmentation.fused_labels.options import LabelRecipe
    from ivf_core.training.segmentation.fused_labels.page import score_tables
    from ivf_core.training.teacher_logits import open_asked_teacher

    report = make_labels(load_recipe(LabelRecipe, args.config, args.set), open_asked_teacher)
    for line in report.failed:
        print(f"ivf train labels: left out: {line}", file=sys.stderr)
    for caption, rows in score_tables(report.scores).items():
        print(caption)
        columns = list(next(iter(rows.values())))
        print("  " + " ".join([f"{'':<28}", *(f"{column:>17}" for column in columns)]))
        for name, cells in rows.items():
            texts = (f"{cells[column]:>17}" for column in columns)
            print("  " + " ".join([f"{name:<28}", *texts]))
    for name, share in report.coverage.items():
        print(f"{name}: {share:.1%} of pixels have a label")
    print(f"labels of {report.made} images made, of {report.kept} images found")
    print(f"written to {report.directory}")
    return 1 if report.failed else 0


def _train_logits(args: argparse.Namespace) -> int:
    from ivf_core.training.runs.recipe import load_recipe
    from ivf_core.training.teacher_logits import LogitRecipe, make_logits

    report = make_logits(load_recipe(LogitRecipe, args.config, args.set))
    for line in report.failed:
        print(f"ivf train logits: left out: {line}", file=sys.stderr)
    print(f"log-probabilities of {report.made} pairs made, of {report.kept} pairs found")
    print(f"written to {report.directory}")
    return 1 if report.failed else 0


def _train_student(args: argparse.Namespace) -> int:
    from ivf_core.training.students.student import StudentRecipe, train_student

    return _train(args, StudentRecipe, train_student)


def _train_unsupervised(args: argparse.Namespace) -> int:
    from ivf_core.training.students.unsupervised import UnsupervisedRecipe, train_unsupervised

    return _train(args, UnsupervisedRecipe, train_unsupervised)


def _train_head(args: argparse.Namespace) -> int:
    from ivf_core.training.segmentation.head import HeadRecipe, train_head
    from ivf_core.training.teacher_logits import ask_for_head

    return _train(args, HeadRecipe, lambda recipe: train_head(recipe, ask_for_head))


def _train_joint(args: argparse.Namespace) -> int:
    from ivf_core.training.joint.joint import JointRecipe, train_joint

    return _train(args, JointRecipe, train_joint)


def _train_segformer(args: argparse.Namespace) -> int:
    from ivf_core.training.segmentation.segformer import SegformerRecipe, train_segformer

    return _train(args, SegformerRecipe, train_segformer)


def _train_sartm(args: argparse.Namespace) -> int:
    from ivf_core.training.sartm.sartm import SartmRecipe, train_sartm

    return _train(args, SartmRecipe, train_sartm)


def _train_tokens(args: argparse.Namespace) -> int:
    from ivf_core.training.fusionsam.tokens import TokensRecipe, train_tokens

    return _train(args, TokensRecipe, train_tokens)


def _train_fusionsam(args: argparse.Namespace) -> int:
    from ivf_core.training.fusionsam.fusionsam import FusionSamRecipe, train_fusionsam

    return _train(args, FusionSamRecipe, train_fusionsam)


def _train_teacher(args: argparse.Namespace) -> int:
    from ivf_core.training.sage.teacher import TeacherRecipe, train_teacher

    return _train(args, TeacherRecipe, train_teacher)


def _train_distill(args: argparse.Namespace) -> int:
    from ivf_core.training.sage.distill import DistillRecipe, distill

    return _train(args, DistillRecipe, distill)


def _train_encoder(args: argparse.Namespace) -> int:
    from ivf_core.training.sage.encoder import EncoderRecipe, train_encoder

    return _train(args, EncoderRecipe, train_encoder)


def _prepare_smoke(args: argparse.Namespace) -> int:
    from ivf_core.training.sage.smoke import prepare_smoke
    from ivf_core.training.sartm.smoke import prepare_sartm_smoke

    prepare_smoke(args.output)
    prepare_sartm_smoke(args.output)
    print(f"written to {args.output}; for the recipes *_smoke.yaml, with IVF_DATA={args.output}")
    return 0


def _train(args: argparse.Namespace, kind: Any, train: Callable[[Any], Any]) -> int:
    """Run a recipe, and print its scores in the first of its processes."""
    from ivf_core.system.memory import keep_freed_memory
    from ivf_core.training.runs.recipe import load_recipe

    keep_freed_memory()
    resume = ["resume=true"] if args.resume else []
    recipe = load_recipe(kind, args.config, [*args.set, *resume])
    scores = train(recipe)
    if int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))):
        return 0
    for title, values in scores.items():
        print(title)
        for name, value in values.items():
            print(f"  {name:<18} {value:.4f}")
    print(f"written to {recipe.output}")
    return 0


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, type=Path, help="recipe, a YAML file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one of its options"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the checkpoint of an interrupted run, or start if there is none",
    )


def _add_smoke(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", required=True, type=Path, help="folder for pairs and networks")


# A run that diverges (StepError), or for which memory is too small (in torch a RuntimeError).
_BAD_RUN = (*BAD_INPUT, MemoryError, RuntimeError)

COMMANDS = (
    Command(
        "train priors",
        "make the masks that guide a teacher",
        "ivf train priors --config training/priors_msrs.yaml --set source=superpixels",
        _add_train,
        _train_priors,
        _BAD_RUN,
    ),
    Command(
        "train labels",
        "label images by several networks, fuse and measure the labels",
        "ivf train labels --config training/labels_street.yaml --set output=runs/labels_street",
        _add_train,
        _train_labels,
        _BAD_RUN,
    ),
    Command(
        "train student",
        "distil a student from another student",
        "ivf train student --config training/student_sage.yaml --set steps=100",
        _add_train,
        _train_student,
        _BAD_RUN,
    ),
    Command(
        "train joint",
        "train a student and its head together, for fusion and for masks",
        "ivf train joint --config training/joint_street.yaml",
        _add_train,
        _train_joint,
        _BAD_RUN,
    ),
    Command(
        "train teacher",
        "pre-train SAGE's main network",
        "ivf train teacher --config training/teacher_fmb.yaml",
        _add_train,
        _train_teacher,
        _BAD_RUN,
    ),
    Command(
        "train distill",
        "distil a teacher into a student, both learning in turns",
        "ivf train distill --config training/distill_fmb.yaml --set scheme=offline",
        _add_train,
        _train_distill,
        _BAD_RUN,
    ),
    Command(
        "train sartm",
        "train SARTM, SAM2 that segments pairs of images, and test it",
        "ivf train sartm --config training/sartm_fmb.yaml",
        _add_train,
        _train_sartm,
        _BAD_RUN,
    ),
    Command(
        "train tokens",
        "train the tokenizers of FusionSAM, a VQ-GAN of each camera",
        "ivf train tokens --config training/tokens_fmb.yaml",
        _add_train,
        _train_tokens,
        _BAD_RUN,
    ),
    Command(
        "train fusionsam",
        "train FusionSAM, SAM that segments pairs of images, and test it",
        "ivf train fusionsam --config training/fusionsam_fmb.yaml",
        _add_train,
        _train_fusionsam,
        _BAD_RUN,
    ),
    Command(
        "train logits",
        "ask a network that segments pairs about pairs without labels, once",
        "ivf train logits --config training/logits_msrs.yaml --set teacher=sartm:FILE",
        _add_train,
        _train_logits,
        _BAD_RUN,
    ),
    Command(
        "train encoder",
        "train an encoder for L_cs, without SAM",
        "ivf train encoder --config training/encoder_small.yaml",
        _add_train,
        _train_encoder,
        _BAD_RUN,
    ),
    Command(
        "train smoke",
        "make synthetic pairs and tiny SAM, SAM2 and CLIP, to try out the training of a teacher",
        "ivf train smoke --output runs/smoke",
        _add_smoke,
        _prepare_smoke,
        _BAD_RUN,
    ),
    Command(
        "train unsupervised",
        "train a student on pairs alone, without a teacher",
        "ivf train unsupervised --config training/unsupervised_clear.yaml",
        _add_train,
        _train_unsupervised,
        _BAD_RUN,
    ),
    Command(
        "train head",
        "train a segmentation head",
        "ivf train head --config training/head_sage.yaml",
        _add_train,
        _train_head,
        _BAD_RUN,
    ),
    Command(
        "train segformer",
        "train a SegFormer on fused images, and test it",
        "ivf train segformer --config training/segformer_fmb.yaml",
        _add_train,
        _train_segformer,
        _BAD_RUN,
    ),
)
