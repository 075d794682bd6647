"""Cameras on a training device: each does to a batch what `training.degrade` does to one clip."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from made_data import drawn
from numpy.typing import NDArray

from training import cameras, degrade, device_clips
from training.cameras import Cameras
from training.data import Clips, ClipSpec, Interleaved
from training.degrade import Lens, Webcam, photographed, soft_lens, to_i420
from training.device_clips import DeviceClips, settle
from training.library import Library

SIDE = 64
LENS = Lens(degrade.gaussian_kernel(1.0), degrade.gaussian_kernel(0.5), 0.0)
CPU = torch.device("cpu")
Array = NDArray[np.uint8]


def clip(seed: int, frames: int = 1, side: int = SIDE) -> Array:
    return np.stack([to_i420(degrade.as_float(drawn(side, side, seed + t))) for t in range(frames)])


def seen(webcams: list[Webcam], clips: list[Array], seed: int = 0) -> NDArray[np.int64]:
    table = Cameras(webcams, [LENS], clips[0].shape[2], CPU)
    generator = torch.Generator().manual_seed(seed)
    out = table.photograph(torch.from_numpy(np.stack(clips)), np.arange(len(webcams)), generator)
    assert out.dtype == torch.uint8
    return out.numpy().astype(np.int64)


def difference(webcam: Webcam, frames: int = 1) -> NDArray[np.int64]:
    """How far a camera here is from the same one in `degrade`, in grey levels; both without chance."""
    truth = clip(1, frames)
    theirs = photographed(truth, webcam, np.random.default_rng(0))
    assert np.abs(theirs.astype(int) - truth).mean() > 0.3  # it does something
    return np.abs(seen([webcam], [truth])[0] - theirs)


@pytest.mark.parametrize(
    "webcam",
    [
        Webcam(blur="gauss", blur_size=1.3),
        Webcam(blur="aniso", blur_size=1.5, blur_ratio=0.4, blur_angle=0.7),
        Webcam(blur="disk", blur_size=2.1),
        Webcam(blur="disk", blur_size=2.1, encoded=True),
        Webcam(motion=6.5, motion_angle=0.4),
        Webcam(scale=1.5, down=cv2.INTER_AREA, up=cv2.INTER_LANCZOS4),
        Webcam(scale=1.23, down=cv2.INTER_LINEAR, up=cv2.INTER_CUBIC, encoded=True),
        Webcam(smear_color=0.08, smear_space=1.7),
        Webcam(scale=1.4, smear_color=0.08, smear_space=0.9),
        Webcam(sharpen_sigma=1.2, sharpen_amount=1.1),
        Webcam(scale=1.4, sharpen_sigma=0.8, sharpen_amount=0.7),
    ],
)
def test_without_chance_a_camera_is_the_one_of_degrade(webcam: Webcam) -> None:
    off = difference(webcam)
    assert off.max() <= 2
    assert off.mean() < 0.05


def test_blur_and_motion_are_one_kernel() -> None:
    """Mirrored once at a border where `degrade` mirrors twice."""
    off = difference(Webcam(blur="gauss", blur_size=1.2, motion=5.0, motion_angle=1.0))[:, :SIDE]
    assert off[:, 9:-9, 9:-9].max() <= 2


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("quality", [30, 50, 80, 96])
def test_jpeg_is_libjpegs_but_for_its_rounding(quality: int, wide: bool) -> None:
    webcam = Webcam(jpeg=quality, jpeg_422=wide)
    assert difference(webcam).mean() < 0.5
    damage = np.abs(photographed(clip(1), webcam, np.random.default_rng(0)).astype(int) - clip(1)).mean()
    assert difference(webcam).mean() < damage / 4


def test_the_recursive_camera_remembers() -> None:
    assert difference(Webcam(temporal=0.5), frames=4).max() <= 2


def test_every_clip_has_its_own_camera() -> None:
    webcams = [
        Webcam(identity=True),
        Webcam(blur="gauss", blur_size=1.5, jpeg=60),
        Webcam(),
        Webcam(scale=1.5, jpeg=80, jpeg_422=True, smear_color=0.05),
        Webcam(sharpen_amount=1.0, blur="disk", blur_size=1.0),
    ]
    clips = [clip(10 + 7 * i, 2) for i in range(len(webcams))]
    together = seen(webcams, clips)
    for i, (webcam, one) in enumerate(zip(webcams, clips, strict=True)):
        assert np.abs(together[i] - seen([webcam], [one])[0]).max() <= 1
    assert np.array_equal(together[0], clips[0])


def flat(level: int, frames: int = 1, side: int = 128) -> Array:
    frame = np.full((frames, side * 3 // 2, side), 128, np.uint8)
    frame[:, :side] = level
    return frame


@pytest.mark.parametrize(
    "webcam",
    [
        Webcam(shot=0.004, read=0.01),
        Webcam(grain=0.03, encoded=True),
        Webcam(grain=0.03, grey=True),
    ],
)
def test_noise_is_as_strong_as_in_degrade(webcam: Webcam) -> None:
    for level in (40, 120, 200):
        truth = flat(level)
        theirs = photographed(truth, webcam, np.random.default_rng(0)).astype(np.int64)
        ours = seen([webcam], [truth])[0]
        for rows in (slice(0, 128), slice(128, None)):  # luma, chroma
            spread = theirs[0, rows].std()
            assert ours[0, rows].std() == pytest.approx(spread, rel=0.08, abs=0.05)
    if webcam.grey:
        assert ours[0, 128:].std() < 0.5


def test_noise_comes_from_the_generator_and_wanders_with_the_camera() -> None:
    noisy = Webcam(read=0.02, drift=0.2)
    one, again, other = (seen([noisy], [flat(120, 12)], seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    spreads = one[0, :, :128].std(axis=(1, 2))
    assert spreads.max() > 1.2 * spreads.min()
    steady = seen([replace(noisy, drift=0.0)], [flat(120, 12)])[0, :, :128].std(axis=(1, 2))
    assert steady.max() < 1.05 * steady.min()


def test_lenses_are_those_of_degrade() -> None:
    streams = [np.random.default_rng((4, i)) for i in range(40)]
    lenses = [degrade.sample_lens(np.random.default_rng((4, i))) for i in range(40)]
    still = [i for i, lens in enumerate(lenses) if not lens.noise]
    assert len(still) > 10
    clips = np.stack([clip(i, 2) for i in range(40)])
    table = Cameras([Webcam()], lenses, SIDE, CPU)
    out = table.through_lens(torch.from_numpy(clips), np.arange(40), torch.Generator().manual_seed(0)).numpy()
    for i in still:
        assert np.abs(out[i].astype(int) - soft_lens(clips[i], streams[i])).max() <= 1
    grainy = next(i for i, lens in enumerate(lenses) if lens.noise > 0.5)
    rest = out[grainy, 0, :SIDE].astype(float) - out[grainy, 1, :SIDE]
    assert rest.std() > 0.5


def test_a_sampled_table_has_no_codecs_and_is_the_seeds() -> None:
    one, again = (Cameras.sample(300, 5, SIDE, CPU) for _ in range(2))
    assert len(one) == 300
    assert all(np.array_equal(one.facts[name], again.facts[name]) for name in one.facts)
    assert torch.equal(one.blurs, again.blurs)
    assert 0 < one.facts["identity"].sum() < 60
    assert one.blurs.sum((1, 2)).numpy() == pytest.approx(np.ones(300), abs=1e-4)


# -- clips on a device -----------------------------------------------------------------------------------


def packed(count: int = 5, frames: int = 2, side: int = 48) -> Clips:
    clips = Clips(Library(), ClipSpec(frames, side, seed=3))
    truth = np.stack([clip(20 * i, frames, side) for i in range(count)])
    clips.packed = np.stack([np.clip(truth, 16, 200), truth], axis=1)
    return clips


def test_packed_halves_are_the_same_bit_for_bit() -> None:
    clips = packed()
    there = DeviceClips(clips, CPU, cameras=4)
    assert there.origin == clips.origin
    for indices in (range(3), range(4, 47, 3)):
        ours, theirs = there.batch(indices), clips.batch(indices)
        for a, b in zip(ours, theirs, strict=True):
            assert np.array_equal(a.numpy(), b)


def test_what_is_seen_anew_is_as_there_and_has_the_same_truth() -> None:
    clips = packed()
    clips.lenses, clips.fresh = 0.3, 0.4
    there = DeviceClips(clips, CPU, cameras=50)
    (soft, sharp), (theirs, truth) = there.batch(range(40)), clips.batch(range(40))
    assert np.array_equal(sharp.numpy(), truth)
    clips.lenses = clips.fresh = 0.0
    untouched = clips.batch(range(40))[0]
    ours_new = [i for i in range(40) if not np.array_equal(soft[i].numpy(), untouched[i])]
    theirs_new = [i for i in range(40) if not np.array_equal(theirs[i], untouched[i])]
    assert set(ours_new) == set(theirs_new)
    assert 20 < len(ours_new) < 36
    clips.lenses, clips.fresh = 0.3, 0.4
    again = there.batch(range(40))[0]
    assert torch.equal(soft, again)


def test_only_what_is_packed_moves_to_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Clips] = []

    def device(clips: Clips, device: torch.device) -> Clips:
        made.append(clips)
        return clips

    monkeypatch.setattr(device_clips, "DeviceClips", device)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * size, 20 * size))
    clips, drawn_live = packed(), Clips(Library(), ClipSpec(2, 48))
    assert clips.packed is not None
    size, gpu = clips.packed.nbytes, torch.device("cuda")
    assert settle(clips, CPU) is clips
    assert settle(drawn_live, gpu) is drawn_live
    both = settle(Interleaved(clips, clips.singles(), 0.5, 4), gpu)
    assert isinstance(both, Interleaved)
    assert (both.share, both.size) == (0.5, 4)
    assert [len(c.packed) for c in made if c.packed is not None] == [5, 5]
    made.clear()
    size = clips.packed.nbytes // 10  # no room
    assert settle(clips, gpu) is clips
    assert not made


def test_a_camera_table_covers_its_kernels() -> None:
    """The widest that `sample_webcam` and `sample_lens` draw fit the reach of the tables."""
    wide = Webcam(blur="gauss", blur_size=1.6, motion=7.0, motion_angle=0.3)
    assert cameras._blur(wide).shape[0] // 2 <= cameras.REACH
    path = degrade.path_kernel(np.stack([np.linspace(-16, 16, 257), np.zeros(257)], axis=1))
    assert path.shape[0] // 2 <= cameras.LENS_REACH
    assert path.shape[0] // 4 <= cameras.REACH
