"""How pictures become batches: plans, augmentation, threads and processes."""

import itertools

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from PIL import Image

from fastcam.data import Sample
from fastcam.pictures import DecodeError, Preprocess
from fastcam.training import Settings, loading
from fastcam.training.loading import Key, Reader
from tests.support.colours import Colours

CPU = torch.device("cpu")


class Noise(Colours):
    """Pictures of 40 x 30 pixels, none of which repeat."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return sample._replace(image=np.random.default_rng(index).integers(1, 256, (30, 40, 3), dtype=np.uint8))


def reader(train, test=None, **values) -> Reader:
    settings = Settings.of(None, {"size": 16, **values})
    preprocess = Preprocess(settings.size, settings.resize, settings.mean, settings.std)
    return Reader(train, test or Colours(4), settings, preprocess)


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (3, 2), (4, 1)])
def test_processes_share_the_order_of_one(world, accumulate) -> None:
    settings = Settings(batch_size=16, accumulate=accumulate, seed=3)
    alone = list(loading.steps(2, 93, Settings(batch_size=16, seed=3)))
    shared = [list(loading.steps(2, 93, settings, rank, world)) for rank in range(world)]
    assert len(alone) == 6
    assert loading.count_steps(93, settings, world) == 6
    for whole, *shares in zip(alone, *shared, strict=True):
        (count, (keys,)), lists = whole, [parts for _, parts in shares]
        assert [given for given, _ in shares] == [count] * world
        assert [key for parts in lists for part in parts for key in part] == keys
        sizes = {len(part) for parts in lists for part in parts}
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 2
    assert sorted(key.index for _, parts in alone for part in parts for key in part) == list(range(93))


def test_epochs_and_seeds_have_their_own_order() -> None:
    orders = [
        [key.index for _, parts in loading.steps(epoch, 50, Settings(seed=seed)) for part in parts for key in part]
        for epoch, seed in ((1, 0), (2, 0), (1, 1))
    ]
    assert all(a != b for a, b in itertools.combinations(orders, 2))


def test_a_rest_too_small_for_all_processes_sits_out() -> None:
    settings = Settings(batch_size=8, accumulate=2)
    assert [loading.count_steps(n, settings, 2) for n in (19, 20, 3, 4)] == [2, 3, 0, 1]
    assert [len(parts) for _, parts in loading.steps(1, 20, settings, 1, 2)] == [2, 2, 1]


def windows(image: Image.Image, size: int) -> dict[bytes, tuple[int, int, bool]]:
    """Each crop of a picture, plain and mirrored, by torchvision."""
    found = {}
    for top, left in itertools.product(range(image.height - size + 1), range(image.width - size + 1)):
        crop = tv.crop(image, top, left, size, size)
        found[np.asarray(crop).tobytes()] = (top, left, False)
        found[np.asarray(tv.horizontal_flip(crop)).tobytes()] = (top, left, True)
    return found


@pytest.mark.parametrize(
    ("values", "whole"),
    [
        ({"crop": "padded", "padding": 4}, lambda image: tv.pad(tv.resize(image, [16, 16]), [4])),
        ({"crop": "random"}, lambda image: tv.resize(image, [18, 18])),
        ({"crop": "random", "resize": "crop"}, lambda image: tv.resize(image, [18])),
        ({"crop": "none"}, lambda image: tv.resize(image, [16, 16])),
    ],
)
def test_augmentation_gives_torchvisions_crops(values, whole) -> None:
    read = reader(Noise(1), **values)
    known = windows(whole(Image.fromarray(Noise(1)[0].image)), 16)
    found = [known[read[Key(epoch, 0)][0].tobytes()] for epoch in range(1, 801)]
    places = {window[:2] for window in known.values()}
    assert {window[:2] for window in found} == places  # all of them, and no others
    assert 330 < sum(mirrored for *_, mirrored in found) < 470  # half of them, within 5 standard deviations
    unmirrored = reader(Noise(1), flip=False, **values)
    assert not any(known[unmirrored[Key(epoch, 0)][0].tobytes()][2] for epoch in range(1, 40))


def test_scaled_pictures_are_cut_or_surrounded_at_random() -> None:
    # Pictures of 40 x 30 whose longer side becomes 8 to 24 pixels, in a frame of 16.
    mean = (0.1, 0.2, 0.3)
    read = reader(Noise(1), crop="scaled", long_side=(8, 24), mean=mean)
    around = np.round(255 * np.array(mean)).astype(np.uint8)
    image, known = Image.fromarray(Noise(1)[0].image), {}
    for long in range(8, 25):
        width, height = long, round(30 * long / 40)
        whole = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        # All places where a frame of 16 can lie so that it holds, or lies within, the picture in each direction.
        surrounded = np.empty((height + 32, width + 32, 3), np.uint8)
        surrounded[:] = around
        surrounded[16:-16, 16:-16] = whole
        for top in range(min(0, height - 16), max(0, height - 16) + 1):
            for left in range(min(0, width - 16), max(0, width - 16) + 1):
                frame = surrounded[16 + top : 32 + top, 16 + left : 32 + left]
                known[frame.tobytes()] = known[frame[:, ::-1].tobytes()] = (long, top, left)
    found = [known[read[Key(epoch, 0)][0].tobytes()] for epoch in range(1, 1501)]
    assert {long for long, *_ in found} == set(range(8, 25))
    for long in (8, 12, 24):
        height = round(30 * long / 40)
        places = {(top, left) for length, top, left in found if length == long}
        assert {top for top, _ in places} == set(range(min(0, height - 16), max(0, height - 16) + 1))
        assert {left for _, left in places} == set(range(min(0, long - 16), max(0, long - 16) + 1))


def test_frames_to_test_on_are_those_of_localization() -> None:
    read = reader(Noise(2), Noise(2), crop="random", resize="crop")
    frame, label = read[Key(0, 1)]
    np.testing.assert_array_equal(frame, Preprocess(16, "crop").frame(Noise(2)[1].image)[0])
    assert label == 1


def test_the_kind_and_number_of_workers_change_nothing() -> None:
    settings = Settings(batch_size=4)
    plan = [part for epoch in (1, 2) for _, parts in loading.steps(epoch, 11, settings) for part in parts]
    plan += [[Key(0, 1), Key(0, 0)]]
    runs = []
    for values in ({"workers": 1}, {"workers": 3}, {"cache": True}, {"worker_kind": "process", "workers": 2}):
        data = Noise(12, broken=11), Noise(2)
        with loading.opened(reader(*data, crop="padded", **values), CPU) as loader:
            first = list(loader.batches(plan[:4]))  # workers go on
            runs.append(first + list(loader.batches(plan[4:])))
            with pytest.raises(DecodeError, match="damaged: picture 11: no end"):
                list(loader.batches([[Key(1, 0), Key(1, 1)], [Key(1, 4), Key(1, 11)], [Key(1, 6), Key(1, 7)]]))
    for run in runs:
        for batch, expected, keys in zip(run, runs[0], plan, strict=True):
            assert batch.frames.dtype == torch.uint8
            assert batch.labels.tolist() == [key.index % 2 for key in keys]
            torch.testing.assert_close(batch.frames, expected.frames, rtol=0, atol=0)


def test_the_cache_reads_each_picture_once() -> None:
    class Counting(Colours):
        reads = 0

        def __getitem__(self, index: int) -> Sample:
            self.reads += 1
            return super().__getitem__(index)

    for cache, reads in ((True, 6), (False, 12)):
        data = Counting(6)
        with loading.opened(reader(data, cache=cache, crop="random"), CPU) as loader:
            for epoch in (1, 2):
                list(loader.batches([[Key(epoch, index) for index in range(6)]]))
        assert data.reads == reads
