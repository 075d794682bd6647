"""The ioctls' numbers and layouts against the kernel's, and what is read out of drivers' answers."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from sharpcam import v4l2
from sharpcam import v4l2_abi as abi

only_64_bit = pytest.mark.skipif(
    sys.platform != "linux" or ctypes.sizeof(ctypes.c_long) != 8,
    reason="the numbers are those of 64-bit Linux",
)

# as a C program with linux/videodev2.h prints them on x86-64; the size is part of the number
KERNEL = {
    "QUERYCAP": (0x80685600, abi.Capability, 104),
    "ENUM_FMT": (0xC0405602, abi.FormatDescription, 64),
    "G_FMT": (0xC0D05604, abi.Format, 208),
    "S_FMT": (0xC0D05605, abi.Format, 208),
    "REQBUFS": (0xC0145608, abi.RequestBuffers, 20),
    "QUERYBUF": (0xC0585609, abi.Buffer, 88),
    "QBUF": (0xC058560F, abi.Buffer, 88),
    "DQBUF": (0xC0585611, abi.Buffer, 88),
    "STREAMON": (0x40045612, ctypes.c_int32, 4),
    "STREAMOFF": (0x40045613, ctypes.c_int32, 4),
    "G_PARM": (0xC0CC5615, abi.StreamParameters, 204),
    "S_PARM": (0xC0CC5616, abi.StreamParameters, 204),
    "G_CTRL": (0xC008561B, abi.Control, 8),
    "S_CTRL": (0xC008561C, abi.Control, 8),
    "ENUM_FRAMESIZES": (0xC02C564A, abi.FrameSize, 44),
    "ENUM_FRAMEINTERVALS": (0xC034564B, abi.FrameInterval, 52),
    "DQEVENT": (0x80885659, abi.Event, 136),
    "SUBSCRIBE_EVENT": (0x4020565A, abi.EventSubscription, 32),
}


@only_64_bit
@pytest.mark.parametrize("name", KERNEL)
def test_ioctl_numbers_are_the_kernels(name: str) -> None:
    number, struct, size = KERNEL[name]
    assert getattr(abi, name) == number
    assert ctypes.sizeof(struct) == size


@only_64_bit
def test_fields_lie_where_the_kernel_has_them() -> None:
    """Offsets from the same header, of the fields behind unions and padding."""
    assert abi.Format.fmt.offset == 8
    assert abi.StreamParameters.timeperframe.offset == 12
    assert abi.Buffer.seconds.offset == 24
    assert abi.Buffer.sequence.offset == 56
    assert abi.Buffer.offset.offset == 64
    assert abi.Buffer.length.offset == 72
    assert abi.Event.data.offset == 8
    assert abi.Event.id.offset == 96
    assert abi.PixelFormat.quantization.offset == 40


def test_fourcc_both_ways() -> None:
    assert v4l2.fourcc("YUYV") == 0x56595559
    assert v4l2.fourcc_name(0x47504A4D) == "MJPG"
    assert v4l2.fourcc_name(v4l2.fourcc("Y16") | 1 << 31) == "Y16"
    assert v4l2.CLIENT_USAGE == 0x10E00001


class FakeNode(v4l2.Node):
    """A node whose driver is a table: enumeration number -> its answers, each a function on the struct."""

    def __init__(self, answers: dict[int, list[Any]]) -> None:
        self.path, self._fd, self.answers = "/dev/fake", -1, answers

    def ioctl(self, code: int, argument: Any) -> None:
        rows = self.answers.get(code, [])
        index = getattr(argument, "index", 0)
        if isinstance(rows, OSError):
            raise rows
        if index >= len(rows):
            raise OSError(errno.EINVAL, "no more")
        for field, value in rows[index].items():
            current = getattr(argument, field)
            if isinstance(value, list):
                for i, v in enumerate(value):
                    current[i] = v
            else:
                setattr(argument, field, value)


def interval(fps: int) -> list[abi.Fraction]:
    return [abi.Fraction(1, fps)]


def test_discrete_modes_with_their_rates_falling() -> None:
    node = FakeNode(
        {
            abi.ENUM_FMT: [{"pixelformat": v4l2.fourcc("MJPG")}],
            abi.ENUM_FRAMESIZES: [{"type": 1, "sizes": [640, 480]}, {"type": 1, "sizes": [1280, 720]}],
            abi.ENUM_FRAMEINTERVALS: [
                {"type": 1, "intervals": interval(15)},
                {"type": 1, "intervals": interval(30)},
                {"type": 1, "intervals": [abi.Fraction(0, 0)]},  # from a broken driver
            ],
        }
    )
    rates = (Fraction(30), Fraction(15))
    assert node.modes() == [v4l2.Mode("MJPG", 640, 480, rates), v4l2.Mode("MJPG", 1280, 720, rates)]


def test_of_a_range_of_sizes_the_wanted_and_the_largest_are_taken() -> None:
    node = FakeNode(
        {
            abi.ENUM_FMT: [{"pixelformat": v4l2.fourcc("YUYV")}],
            abi.ENUM_FRAMESIZES: [{"type": 3, "sizes": [48, 1920, 16, 32, 1080, 8]}],
            abi.ENUM_FRAMEINTERVALS: [{"type": 2, "intervals": [abi.Fraction(1, 60), abi.Fraction(1, 5)]}],
        }
    )
    sizes = [(m.width, m.height, m.rates) for m in node.modes((1002, 501))]
    rates = (Fraction(60), Fraction(5))
    assert sizes == [(1008, 504, rates), (1920, 1080, rates)]
    assert [(m.width, m.height) for m in node.modes((4000, 10))] == [(1920, 32), (1920, 1080)]


def test_a_driver_without_enumeration_has_no_modes_and_other_errors_come_through() -> None:
    assert FakeNode({}).modes() == []
    assert FakeNode({abi.ENUM_FMT: OSError(errno.ENOTTY, "not this one")}).modes() == []  # type: ignore[dict-item]
    with pytest.raises(OSError, match="gone"):
        FakeNode({abi.ENUM_FMT: OSError(errno.ENODEV, "gone")}).modes()  # type: ignore[dict-item]


def test_an_endless_enumeration_ends() -> None:
    class Endless(FakeNode):
        def ioctl(self, code: int, argument: Any) -> None:
            if code == abi.ENUM_FMT:
                argument.pixelformat = v4l2.fourcc("YUYV")
            else:
                raise OSError(errno.EINVAL, "no more")

    assert Endless({}).modes() == []


def test_a_rate_of_zero_is_none() -> None:
    assert FakeNode({abi.G_PARM: [{}]}).rate() is None
    assert FakeNode({abi.G_PARM: [{"timeperframe": abi.Fraction(1001, 30000)}]}).rate() == Fraction(
        30000, 1001
    )


def test_capability_prefers_the_nodes_own() -> None:
    facts = {"driver": b"uvcvideo", "card": b"HD Cam", "bus_info": b"usb-1", "device_caps": 1}
    told = FakeNode({abi.QUERYCAP: [{**facts, "capabilities": 0x80000003}]}).capability()
    assert told == v4l2.Capability("uvcvideo", "HD Cam", "usb-1", v4l2.Caps.CAPTURE)
    old = FakeNode({abi.QUERYCAP: [{**facts, "capabilities": 0x3}]}).capability()
    assert old.caps == v4l2.Caps.CAPTURE | v4l2.Caps.OUTPUT


@pytest.fixture
def plain_file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="Video4Linux")
def test_what_is_no_device_raises_and_leaks_nothing(plain_file: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with v4l2.Node(str(plain_file)) as node, pytest.raises(OSError, match="Inappropriate ioctl"):
        node.capability()
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        v4l2.ClientUsage(str(plain_file))
    with pytest.raises(FileNotFoundError):
        v4l2.Node(str(plain_file) + "2")
    node.close()
    assert len(os.listdir("/proc/self/fd")) == before
