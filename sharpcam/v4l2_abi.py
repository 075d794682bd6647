"""The structures and ioctl numbers of Video4Linux, as the kernel's linux/videodev2.h lays them out.

Right for architectures with the generic ioctl numbers (x86, Arm, RISC-V); ctypes does the alignment.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char, c_int32, c_long, c_ubyte, c_uint32, c_uint64
from typing import Any


class Capability(ctypes.Structure):
    _fields_ = [
        ("driver", c_char * 16),
        ("card", c_char * 32),
        ("bus_info", c_char * 32),
        ("version", c_uint32),
        ("capabilities", c_uint32),
        ("device_caps", c_uint32),
        ("reserved", c_uint32 * 3),
    ]


class FormatDescription(ctypes.Structure):
    _fields_ = [
        ("index", c_uint32),
        ("type", c_uint32),
        ("flags", c_uint32),
        ("description", c_char * 32),
        ("pixelformat", c_uint32),
        ("reserved", c_uint32 * 4),
    ]


class Fraction(ctypes.Structure):
    _fields_ = [("numerator", c_uint32), ("denominator", c_uint32)]


class FrameSize(ctypes.Structure):
    # discrete: width, height; else the ranges min, max, step of width and then of height
    _fields_ = [
        ("index", c_uint32),
        ("pixel_format", c_uint32),
        ("type", c_uint32),
        ("sizes", c_uint32 * 6),
        ("reserved", c_uint32 * 2),
    ]


class FrameInterval(ctypes.Structure):
    # discrete: one; else min, max, step
    _fields_ = [
        ("index", c_uint32),
        ("pixel_format", c_uint32),
        ("width", c_uint32),
        ("height", c_uint32),
        ("type", c_uint32),
        ("intervals", Fraction * 3),
        ("reserved", c_uint32 * 2),
    ]


class PixelFormat(ctypes.Structure):
    _fields_ = [
        ("width", c_uint32),
        ("height", c_uint32),
        ("pixelformat", c_uint32),
        ("field", c_uint32),
        ("bytesperline", c_uint32),
        ("sizeimage", c_uint32),
        ("colorspace", c_uint32),
        ("priv", c_uint32),
        ("flags", c_uint32),
        ("ycbcr_enc", c_uint32),
        ("quantization", c_uint32),
        ("xfer_func", c_uint32),
    ]


class _FormatUnion(ctypes.Union):
    # the kernel's union holds pointers too, which align it
    _fields_ = [("pix", PixelFormat), ("raw", c_ubyte * 200), ("align", ctypes.c_void_p)]


class Format(ctypes.Structure):
    _fields_ = [("type", c_uint32), ("fmt", _FormatUnion)]


class StreamParameters(ctypes.Structure):
    # capture and output parameters have the same layout as far as we look
    _fields_ = [
        ("type", c_uint32),
        ("capability", c_uint32),
        ("mode", c_uint32),
        ("timeperframe", Fraction),
        ("extendedmode", c_uint32),
        ("buffers", c_uint32),
        ("reserved", c_ubyte * 176),
    ]


class Control(ctypes.Structure):
    _fields_ = [("id", c_uint32), ("value", c_int32)]


class RequestBuffers(ctypes.Structure):
    _fields_ = [
        ("count", c_uint32),
        ("type", c_uint32),
        ("memory", c_uint32),
        ("capabilities", c_uint32),
        ("flags", c_uint32),
    ]


class Buffer(ctypes.Structure):
    _fields_ = [
        ("index", c_uint32),
        ("type", c_uint32),
        ("bytesused", c_uint32),
        ("flags", c_uint32),
        ("field", c_uint32),
        ("seconds", c_long),
        ("microseconds", c_long),
        ("timecode", c_uint32 * 4),
        ("sequence", c_uint32),
        ("memory", c_uint32),
        ("offset", ctypes.c_ulong),  # union m; the others are not used here
        ("length", c_uint32),
        ("reserved", c_uint32 * 2),
    ]


class Event(ctypes.Structure):
    _fields_ = [
        ("type", c_uint32),
        ("data", c_uint64 * 8),
        ("pending", c_uint32),
        ("sequence", c_uint32),
        ("timestamp", c_long * 2),
        ("id", c_uint32),
        ("reserved", c_uint32 * 8),
    ]


class EventSubscription(ctypes.Structure):
    _fields_ = [("type", c_uint32), ("id", c_uint32), ("flags", c_uint32), ("reserved", c_uint32 * 5)]


def _code(direction: int, number: int, struct: Any) -> int:
    return direction << 30 | ctypes.sizeof(struct) << 16 | ord("V") << 8 | number


_READ, _WRITE = 2, 1
QUERYCAP = _code(_READ, 0, Capability)
ENUM_FMT = _code(_READ | _WRITE, 2, FormatDescription)
G_FMT = _code(_READ | _WRITE, 4, Format)
S_FMT = _code(_READ | _WRITE, 5, Format)
REQBUFS = _code(_READ | _WRITE, 8, RequestBuffers)
QUERYBUF = _code(_READ | _WRITE, 9, Buffer)
QBUF = _code(_READ | _WRITE, 15, Buffer)
DQBUF = _code(_READ | _WRITE, 17, Buffer)
STREAMON = _code(_WRITE, 18, c_int32)
STREAMOFF = _code(_WRITE, 19, c_int32)
G_PARM = _code(_READ | _WRITE, 21, StreamParameters)
S_PARM = _code(_READ | _WRITE, 22, StreamParameters)
G_CTRL = _code(_READ | _WRITE, 27, Control)
S_CTRL = _code(_READ | _WRITE, 28, Control)
ENUM_FRAMESIZES = _code(_READ | _WRITE, 74, FrameSize)
ENUM_FRAMEINTERVALS = _code(_READ | _WRITE, 75, FrameInterval)
DQEVENT = _code(_READ, 89, Event)
SUBSCRIBE_EVENT = _code(_WRITE, 90, EventSubscription)
