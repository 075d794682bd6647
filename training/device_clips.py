"""Packed clips in a GPU's memory, where new cameras see them: `training.data.Clips` for a device that trains.

A step of a small student takes a GPU some milliseconds; to fetch its clips from a file and to photograph them on
CPUs takes hundreds. `settle` moves what can be moved.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.cameras import Cameras, upload
from training.data import Clips, Interleaved, Source

CAMERAS = 20_000  # webcams, and as many lenses, from which every clip draws
ROOM = 0.3  # share of a device's free memory that clips may take


def settle(source: Source, device: torch.device) -> Source:
    """`source`, or what gives the same from the memory of a GPU where it is packed and fits."""
    if isinstance(source, Interleaved):
        clips, singles = settle(source.clips, device), settle(source.singles, device)
        return Interleaved(clips, singles, source.share, source.size)
    if device.type != "cuda" or not isinstance(source, Clips) or source.packed is None:
        return source
    fits = source.packed.nbytes < ROOM * torch.cuda.mem_get_info(device)[0]
    return DeviceClips(source, device) if fits else source


class DeviceClips:
    """The samples of packed `clips`, in batches on `device`: which clip, how turned, and whether a lens or
    another camera sees it anew, is as there; which camera is drawn from a table of `cameras`."""

    def __init__(self, clips: Clips, device: torch.device, cameras: int = CAMERAS) -> None:
        assert clips.packed is not None
        self.clips, self.device, self.origin = clips, device, clips.origin
        self.packed = torch.tensor(clips.packed, device=device)
        spec = clips.spec
        self.cameras = Cameras.sample(cameras, spec.seed, spec.crop, device, spec.identity)

    def batch(self, indices: Iterable[int]) -> tuple[Tensor, Tensor]:
        """(degraded, truth), each uint8 (B, T, H * 3 // 2, W) on the device."""
        numbers = np.fromiter(indices, np.int64)
        again, place = np.divmod(numbers, len(self.packed))
        rngs = [np.random.default_rng((self.clips.spec.seed, int(i))) for i in numbers]
        chance = np.array([rng.random() for rng in rngs])
        which = np.array([rng.integers(len(self.cameras)) for rng in rngs])
        both = self.packed[upload(place, self.device)]
        soft, sharp = both[:, 0], both[:, 1]
        generator = torch.Generator(self.device).manual_seed(int(rngs[0].integers(2**62)))
        lens = chance < self.clips.lenses
        fresh = ~lens & (chance < self.clips.lenses + self.clips.fresh)
        for chosen, see in ((lens, self.cameras.through_lens), (fresh, self.cameras.photograph)):
            if chosen.any():
                at = upload(np.flatnonzero(chosen), self.device)
                soft = soft.index_copy(0, at, see(sharp[at], which[chosen], generator))
        turn = place + again
        return self._orient(soft, turn), self._orient(sharp, turn)

    def _orient(self, clips: Tensor, turns: NDArray[np.int64]) -> Tensor:
        """`training.data.orient` for a batch."""
        side = clips.shape[-1]
        turn = upload(turns, self.device).view(-1, 1, 1, 1, 1)
        y = clips[:, :, None, :side]
        uv = clips[:, :, side:].reshape(*clips.shape[:2], 2, side // 2, side // 2)
        planes = []
        for p in (y, uv):
            p = torch.where((turn & 1) > 0, p.flip(-1), p)
            p = torch.where((turn & 2) > 0, p.flip(-2), p)
            planes.append(torch.where((turn & 4) > 0, p.transpose(-1, -2), p).flatten(2))
        return torch.cat(planes, 2).view(clips.shape)
