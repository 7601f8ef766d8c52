"""Test crops and batches: their content, and what it depends on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import teacher_recipe

from ivf_core.training.runs.batches import BatchStream
from ivf_core.training.sage.options import find_priors, find_sources
from ivf_core.training.sage.samples import Batch, CropOrder, MaskedPairs, Place, join


def open_pairs(root: Path, *, labels: bool = True, in_memory: bool = False) -> MaskedPairs:
    recipe = teacher_recipe(root, hold_out_every=0, scales=(0.8, 1.3))
    sources = find_sources(recipe, labelled=False)
    options = recipe.crops(masks=2, labels=labels)
    return MaskedPairs(sources, find_priors(recipe.priors), options, in_memory=in_memory)


def order(**options: int) -> CropOrder:
    fields = {"pairs": 5, "batch_size": 4, "seed": 7, **options}
    return CropOrder(fields.pop("pairs"), fields.pop("batch_size"), fields.pop("seed"), **fields)


def places(order: CropOrder, batches: int) -> list[Place]:
    return [place for batch in islice(order, batches) for place in batch]


def assert_same(batch: Batch, expected: Batch) -> None:
    assert batch[6:] == expected[6:]
    for a, b in zip(batch.tensors(), expected.tensors(), strict=True):
        assert torch.equal(a, b)


def test_every_epoch_has_every_pair_once() -> None:
    drawn = places(order(), 5)
    for epoch in range(4):
        part = drawn[5 * epoch : 5 * epoch + 5]
        assert sorted(place.pair for place in part) == [0, 1, 2, 3, 4]
        assert {place.epoch for place in part} == {epoch}
    assert [p.pair for p in drawn[:5]] != [p.pair for p in drawn[5:10]]
    assert drawn != places(order(seed=8), 5)


def test_an_order_starts_at_any_batch_and_is_divided_among_processes() -> None:
    whole = [list(batch) for batch in islice(order(), 9)]
    assert [list(batch) for batch in islice(order(first=6), 3)] == whole[6:]
    parts = [list(islice(order(rank=rank, processes=2), 9)) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(b) for b in whole]


def test_a_pool_gives_the_same_crops_in_every_epoch() -> None:
    drawn = places(order(pool=8), 6)
    assert drawn[:8] != drawn[8:16]
    assert set(drawn[:8]) == set(drawn[8:16]) == set(drawn[16:24])
    assert len(set(drawn)) == 8
    assert {place.pair for place in drawn if place.epoch == 0} == {0, 1, 2, 3, 4}


def test_a_crop_depends_only_on_seed_epoch_and_pair(root: Path) -> None:
    pairs = open_pairs(root)
    one = pairs[Place(3, 2)]
    pairs[Place(0, 1)]
    assert_same(pairs[Place(3, 2)], one)
    kept = open_pairs(root, in_memory=True)
    for _ in range(2):
        assert_same(kept[Place(3, 2)], one)
    assert not torch.equal(pairs[Place(4, 2)].luma, one.luma)


def test_workers_draw_the_same_crops(root: Path) -> None:
    pairs = open_pairs(root)
    streams = [
        BatchStream(pairs, order(pairs=6), torch.device("cpu"), workers=workers, join=join)
        for workers in (0, 2)
    ]
    state = torch.get_rng_state()
    for step in range(3):
        assert_same(streams[0][step], streams[1][step])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_stream_looks_ahead(root: Path) -> None:
    stream = BatchStream(open_pairs(root), order(pairs=6), torch.device("cpu"), join=join)
    ahead = stream[1]
    assert stream[1] is ahead
    assert stream[2] is not ahead


def test_all_planes_of_a_crop_show_the_same_place(root: Path) -> None:
    """Labels mark the bright half of the infrared image exactly, as nothing is resized."""
    recipe = teacher_recipe(root, hold_out_every=0)
    pairs = MaskedPairs(
        find_sources(recipe, labelled=False),
        find_priors(recipe.priors),
        recipe.crops(masks=4, labels=True),
    )
    for index in range(6):
        batch = pairs[Place(1, index)]
        assert batch.luma.shape == (1, 1, 32, 32)
        assert batch.visible_masks.shape == batch.infrared_masks.shape == (1, 4, 32, 32)
        assert not batch.visible_masks[:, 3].any()  # the cache has three
        np.testing.assert_array_equal(batch.labels[0], (batch.infrared[0, 0] * 255 > 128.5).int())
        whole = pairs.read(index)
        # The masks and the colour of the crop are those of the same window of the whole image.
        found = 0
        for flipped in (False, True):
            planes = [torch.cat((b.luma, b.chroma, b.visible_masks), 1) for b in (batch, whole)]
            crop = planes[0].flip(-1) if flipped else planes[0]
            windows = planes[1].unfold(2, 32, 1).unfold(3, 32, 1)
            same = (windows == crop[:, :, None, None]).all(1).flatten(-2).all(-1)
            found += int(same.sum())
        assert found == 1


def test_labels_are_read_on_request(root: Path) -> None:
    assert (open_pairs(root, labels=False)[Place(0, 0)].labels == 255).all()
    assert set(open_pairs(root)[Place(0, 0)].labels.unique().tolist()) == {0, 1}


def test_pairs_without_masks_are_named(root: Path) -> None:
    for path in (root / "priors").glob("*/*.npz"):
        path.unlink()
    with pytest.raises(ValueError, match=r"pairs/visible/3\.png.*none of this image"):
        open_pairs(root)[Place(0, 3)]


def test_priors_by_a_pattern(root: Path) -> None:
    assert find_priors(str(root / "priors/crops-*")).settings["source"] == "crops"
    with pytest.raises(ValueError, match=r"expected one folder .* found none"):
        find_priors(str(root / "priors/sam-*"))
    (root / "priors/crops-2").mkdir()
    (root / "priors/crops-2/settings.json").write_text("{}")
    with pytest.raises(ValueError, match=r"found .*crops-2, .*crops-"):
        find_priors(str(root / "priors/crops-*"))


def test_sources_follow_the_split_and_labels_of_the_recipe(root: Path) -> None:
    recipe = teacher_recipe(root, hold_out_every=4)
    sources = find_sources(recipe, labelled=True, labels="labels", class_set="pst900")
    assert [s.files.name for s in sources] == ["1", "2", "3", "5"]
    assert [s.files.name for s in sources.held_out] == ["0", "4"]
    assert sources.class_set is not None
    assert sources.class_set.name == "pst900"
    for path in (root / "pairs/labels").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="a segmenter needs labels of one class set, found none"):
        find_sources(recipe, labelled=True)
