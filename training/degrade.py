"""A webcam simulator made of pure functions: what happens to light between a face and a video call.

Every function takes pictures as float32 (H, W, 3) RGB in 0..1 (gamma-encoded unless it says `linear`) and
returns the same; all chance comes from a `numpy.random.Generator` that the caller seeds, so one seed gives
one picture for ever. `degrade_clip` chains them with parameters that stay the same for a clip but drift
slowly, as a real camera's do.

The order follows the path of light: optics and motion in linear light, sensor sampling, signal-dependent
noise, the camera's own denoising and sharpening, the scale to the output size, 4:2:0 and MJPEG. A minority
of clips also passes through a video codec. The families are those of Real-ESRGAN (Wang et al., 2021),
BSRGAN (Zhang et al., 2021) and the NTIRE 2025 video-conferencing challenge, with a webcam's own order.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Kernel = NDArray[np.float32]


def as_float(picture: NDArray[np.uint8]) -> Image:
    """uint8 values of any shape as float32 in 0..1."""
    return np.asarray(picture / np.float32(255), np.float32)


# -- light ---------------------------------------------------------------------------------------------

# a pure power is within 2 % of the sRGB curve and much cheaper
GAMMA = 2.2


def to_linear(image: Image) -> Image:
    """Gamma-encoded to linear light."""
    return np.power(np.maximum(image, 0), np.float32(GAMMA), dtype=np.float32)


def to_gamma(image: Image) -> Image:
    """Linear light to gamma-encoded."""
    return np.power(np.clip(image, 0, 1), np.float32(1 / GAMMA), dtype=np.float32)


# -- optics and motion ---------------------------------------------------------------------------------


def gaussian_kernel(sigma_x: float, sigma_y: float | None = None, angle: float = 0.0) -> Kernel:
    """Normalised Gaussian, anisotropic where the two sigmas (pixels) differ; `angle` in radians."""
    sigma_y = sigma_x if sigma_y is None else sigma_y
    r = max(1, int(np.ceil(3 * max(sigma_x, sigma_y))))
    y, x = np.mgrid[-r : r + 1, -r : r + 1].astype(np.float32)
    u, v = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    k = np.exp(-0.5 * ((u / max(sigma_x, 1e-3)) ** 2 + (v / max(sigma_y, 1e-3)) ** 2))
    return np.asarray(k / k.sum(), np.float32)


def disk_kernel(radius: float) -> Kernel:
    """Defocus: a disk of `radius` pixels with an anti-aliased rim."""
    r = max(1, int(np.ceil(radius)))
    s = 8
    n = (2 * r + 1) * s
    c = (np.arange(n, dtype=np.float32) + 0.5) / s - (r + 0.5)
    k = ((c[:, None] ** 2 + c[None, :] ** 2) <= max(radius, 0.35) ** 2).astype(np.float32)
    k = k.reshape(2 * r + 1, s, 2 * r + 1, s).mean((1, 3))
    return np.asarray(k / k.sum(), np.float32)


def motion_kernel(length: float, angle: float) -> Kernel:
    """Straight motion of `length` pixels at `angle` radians during the exposure."""
    n = max(2, int(length * 8))
    t = np.float32(length) * ((np.arange(n) + 0.5) / n - 0.5)
    return path_kernel(np.stack([t * np.cos(angle), t * np.sin(angle)], axis=1))


def path_kernel(path: NDArray[np.floating[Any]]) -> Kernel:
    """What a point leaves that moves along `path` (n, 2), x and y in pixels, equal times apart, around 0."""
    r = max(1, int(np.ceil(np.abs(path).max())))
    k = np.zeros((2 * r + 1, 2 * r + 1), np.float32)
    x, y = r + path[:, 0], r + path[:, 1]
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    for dx in (0, 1):
        for dy in (0, 1):
            w = (1 - np.abs(x - (x0 + dx))) * (1 - np.abs(y - (y0 + dy)))
            inside = (x0 + dx <= 2 * r) & (y0 + dy <= 2 * r)
            np.add.at(k, ((y0 + dy)[inside], (x0 + dx)[inside]), w[inside])
    return np.asarray(k / k.sum(), np.float32)


def shake(length: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A path of `length` pixels (n, 2) for `path_kernel`, whose direction wanders as that of a held camera
    does. Its middle in time is 0: that is the moment of the true picture."""
    n = max(3, int(length * 8)) | 1
    turn = np.cumsum(rng.normal(0, float(rng.uniform(0, 3)) / np.sqrt(n), n))
    angle = float(rng.uniform(0, 2 * np.pi)) + turn
    steps = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (length / n)
    path = np.cumsum(steps, axis=0)
    return np.asarray(path - path[n // 2])


def convolve(image: Image, kernel: Kernel) -> Image:
    """`image` filtered by `kernel`, borders reflected."""
    return np.asarray(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101), np.float32)


# -- sensor --------------------------------------------------------------------------------------------


def sensor_noise(linear: Image, shot: float, read: float, rng: np.random.Generator) -> Image:
    """Signal-dependent noise in linear light: variance = shot * value + read ** 2 (heteroscedastic Gaussian,
    the usual approximation of Poisson plus read noise; Foi et al., 2008)."""
    sigma = np.sqrt(np.maximum(linear, 0) * np.float32(shot) + np.float32(read) ** 2)
    return np.asarray(linear + sigma * rng.standard_normal(linear.shape, dtype=np.float32), np.float32)


def resize(image: Image, width: int, height: int, interpolation: int) -> Image:
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), np.float32)


# -- the camera's image signal processor -----------------------------------------------------------------


def smear(image: Image, sigma_color: float, sigma_space: float) -> Image:
    """Bilateral denoising, which takes skin and hair texture with the noise."""
    return np.asarray(cv2.bilateralFilter(image, 5, sigma_color, sigma_space), np.float32)


def oversharpen(image: Image, sigma: float, amount: float) -> Image:
    """The unsharp mask that cheap cameras apply, with its halo."""
    soft = cv2.GaussianBlur(image, (0, 0), sigma)
    return np.clip(image + np.float32(amount) * (image - soft), 0, 1).astype(np.float32)


def mjpeg(image: Image, quality: int, chroma_422: bool) -> Image:
    """One MJPEG frame: JPEG with 4:2:2 or 4:2:0 chroma."""
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422 if chroma_422 else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    flags = [cv2.IMWRITE_JPEG_QUALITY, int(quality), cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    bgr = np.ascontiguousarray(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)[..., ::-1])
    ok, data = cv2.imencode(".jpg", bgr, flags)
    if not ok:
        raise RuntimeError("JPEG encoder failed")
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return as_float(np.asarray(decoded[..., ::-1], np.uint8))


def video_codec(clip: Sequence[Image], codec: str, bits_per_pixel: float, fps: int = 30) -> list[Image]:
    """The clip through an in-memory encoder (`libx264` or `libvpx`) at a rate of bits per pixel. Even sides.

    Raises RuntimeError when the encoder loses frames.
    """
    height, width = clip[0].shape[:2]
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as container:
        stream = container.add_stream(codec, rate=fps)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = int(bits_per_pixel * width * height * fps)
        stream.options = (
            {"preset": "veryfast", "tune": "zerolatency"}
            if codec == "libx264"
            else {"deadline": "realtime", "cpu-used": "8"}
        )
        stream.thread_count = 1
        for image in clip:
            # our own planes: swscale's would be a grey level off and their chroma upsampled in steps of two
            picture = av.VideoFrame.from_ndarray(to_i420(image), format="yuv420p")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    target.seek(0)
    with av.open(target, "r") as decoded:
        out = [from_i420(f.to_ndarray(format="yuv420p").astype(np.uint8)) for f in decoded.decode(video=0)]
    if len(out) != len(clip):
        raise RuntimeError(f"{codec} returned {len(out)} of {len(clip)} frames")
    return out


# -- a camera ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Webcam:
    """One camera in one light: the parameters of a clip. Lengths are in pixels of the output frame."""

    blur: str = "none"  # none, gauss, aniso, disk
    blur_size: float = 0.0  # sigma or radius
    blur_ratio: float = 1.0  # aniso: second sigma over first
    blur_angle: float = 0.0
    motion: float = 0.0
    motion_angle: float = 0.0
    scale: float = 1.0  # sensor or binning resolution: output / sensor
    down: int = cv2.INTER_AREA
    up: int = cv2.INTER_LINEAR
    shot: float = 0.0
    read: float = 0.0
    smear_color: float = 0.0
    smear_space: float = 1.0
    sharpen_sigma: float = 1.0
    sharpen_amount: float = 0.0
    temporal: float = 0.0  # the camera's own recursive denoising: weight of the previous frame
    jpeg: int = 0  # quality, 0 for none
    jpeg_422: bool = False
    codec: str = ""
    codec_rate: float = 0.0
    identity: bool = False  # a perfect camera: the network must leave it alone
    drift: float = 0.0  # how much blur and noise wander within a clip
    encoded: bool = False  # blur and scale gamma-encoded values, as much software and most simulators do
    grain: float = 0.0  # noise on encoded values, at white; half of it at black
    grey: bool = False  # the grain is of brightness alone: the camera has smoothed colours


def sample_webcam(rng: np.random.Generator, identity: float = 0.05) -> Webcam:
    """A random camera, from good to bad. `identity` is the share of perfect ones.

    Mild softness with little noise is as likely as heavy damage: a simulator that only knows heavy damage
    teaches a network to over-sharpen real lenses.
    """
    if rng.random() < identity:
        return Webcam(identity=True)
    blur = str(rng.choice(["none", "gauss", "aniso", "disk"], p=[0.03, 0.46, 0.13, 0.38]))
    size = float(rng.uniform(0.4, 1.6)) if blur != "disk" else float(rng.uniform(0.7, 2.2))
    noisy = rng.random() < 0.75
    level = float(rng.beta(1.1, 3.0)) if noisy else 0.0
    w = Webcam(
        blur=blur,
        blur_size=size,
        blur_ratio=float(rng.uniform(0.35, 1.0)),
        blur_angle=float(rng.uniform(0, np.pi)),
        scale=float(rng.choice([1.0, rng.uniform(1.0, 1.6)], p=[0.4, 0.6])),
        down=int(rng.choice([cv2.INTER_AREA, cv2.INTER_LINEAR])),
        up=int(rng.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4], p=[0.5, 0.4, 0.1])),
        shot=0.008 * level * float(rng.uniform(0.2, 1.0)),
        read=0.016 * level * float(rng.uniform(0.0, 1.0)),
        drift=float(rng.choice([0.0, 0.04, 0.1], p=[0.5, 0.3, 0.2])),
    )
    # the same family in the other order of things: noise last, on what software sees. Light is blurred before it is
    # encoded: a network that learns as much of the one as of the other leaves highlights of real lenses too large
    if rng.random() < 0.3:
        grain = float(rng.uniform(0, 0.035)) if rng.random() < 0.85 else 0.0
        w = replace(w, encoded=True, shot=0.0, read=0.0, grain=grain)
    if rng.random() < 0.22:
        w = replace(w, motion=float(rng.uniform(1.0, 7.0)), motion_angle=float(rng.uniform(0, np.pi)))
    if noisy and rng.random() < 0.45:
        w = replace(w, smear_color=float(rng.uniform(0.02, 0.09)), smear_space=float(rng.uniform(0.8, 2.0)))
    if noisy and rng.random() < 0.15:
        w = replace(w, temporal=float(rng.uniform(0.2, 0.6)))
    if rng.random() < 0.08:
        w = replace(
            w, sharpen_sigma=float(rng.uniform(0.7, 1.6)), sharpen_amount=float(rng.uniform(0.2, 1.3))
        )
    if rng.random() < 0.8:
        w = replace(w, jpeg=int(rng.integers(50, 97)), jpeg_422=bool(rng.random() < 0.6))
    # a sensor whose noise nothing has scaled or smoothed: white from pixel to pixel, which looks like motion
    if rng.random() < 0.15:
        grain = float(np.exp(rng.uniform(np.log(0.006), np.log(0.05))))
        jpeg = max(w.jpeg, 80) if rng.random() < 0.5 else 0
        grey = bool(rng.random() < 0.5)
        w = replace(w, scale=1.0, smear_color=0.0, temporal=0.0, grain=grain, grey=grey, jpeg=jpeg)
    if rng.random() < 0.06:
        w = replace(
            w,
            codec=str(rng.choice(["libx264", "libvpx"])),
            codec_rate=float(np.exp(rng.uniform(np.log(0.04), np.log(0.3)))),
        )
    return w


def degrade_clip(clip: Sequence[Image], webcam: Webcam, rng: np.random.Generator) -> list[Image]:
    """What `webcam` makes of the sharp `clip`; frames keep their size.

    clip: frames (H, W, 3) float32 RGB 0..1. Returns as many, of the same shape.
    """
    if webcam.identity:
        return [f.copy() for f in clip]
    out: list[Image] = []
    wander = 1.0
    previous: Image | None = None
    for frame in clip:
        wander = float(np.clip(wander + webcam.drift * rng.standard_normal(), 0.6, 1.5))
        image = _expose(frame, webcam, wander, rng)
        if webcam.temporal:
            image = image if previous is None else image + np.float32(webcam.temporal) * (previous - image)
            previous = image
        if webcam.smear_color:
            image = smear(image, webcam.smear_color, webcam.smear_space)
        if webcam.sharpen_amount:
            image = oversharpen(image, webcam.sharpen_sigma, webcam.sharpen_amount)
        height, width = frame.shape[:2]
        if image.shape[:2] != (height, width):
            image = np.clip(resize(image, width, height, webcam.up), 0, 1)
        if webcam.jpeg:
            image = mjpeg(image, webcam.jpeg, webcam.jpeg_422)
        out.append(image)
    if webcam.codec:
        out = video_codec(out, webcam.codec, webcam.codec_rate)
    return out


def _expose(frame: Image, webcam: Webcam, wander: float, rng: np.random.Generator) -> Image:
    """Optics, motion, sampling and noise of one frame, in linear light unless the camera is an `encoded` one;
    returns it gamma-encoded."""
    linear = frame if webcam.encoded else to_linear(frame)
    size = webcam.blur_size * wander
    if webcam.blur == "gauss":
        linear = convolve(linear, gaussian_kernel(size))
    elif webcam.blur == "aniso":
        linear = convolve(linear, gaussian_kernel(size, size * webcam.blur_ratio, webcam.blur_angle))
    elif webcam.blur == "disk":
        linear = convolve(linear, disk_kernel(size))
    if webcam.motion:
        linear = convolve(linear, motion_kernel(webcam.motion * wander, webcam.motion_angle))
    if webcam.scale > 1.01:
        height, width = frame.shape[:2]
        linear = resize(linear, round(width / webcam.scale), round(height / webcam.scale), webcam.down)
    if webcam.shot or webcam.read:
        linear = sensor_noise(linear, webcam.shot * wander, webcam.read * wander, rng)
    image = linear if webcam.encoded else to_gamma(linear)
    if webcam.grain:
        sigma = np.float32(webcam.grain * wander) * (0.5 + 0.5 * np.sqrt(np.maximum(image, 0)))
        channels = 1 if webcam.grey else 3
        noise = rng.standard_normal((*image.shape[:2], channels), dtype=np.float32)
        image = np.asarray(image + sigma * noise, np.float32)
    return np.asarray(np.clip(image, 0, 1), np.float32)


# -- 4:2:0 ---------------------------------------------------------------------------------------------


def to_i420(image: Image, full_range: bool = False) -> NDArray[np.uint8]:
    """RGB (H, W, 3) to the BT.601 I420 buffer (H * 3 // 2, W) uint8, limited range unless `full_range`."""
    rgb = np.round(np.clip(image, 0, 1) * 255).astype(np.float32)
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    y = 0.299 * r + 0.587 * g + 0.114 * b
    u, v = (b - y) * np.float32(0.5 / 0.886), (r - y) * np.float32(0.5 / 0.701)
    if not full_range:
        y = y * np.float32(219 / 255) + 16
        u, v = u * np.float32(224 / 255), v * np.float32(224 / 255)
    height, width = y.shape
    buffer = np.empty((height * 3 // 2, width), np.uint8)
    buffer[:height] = np.round(y)
    chroma = buffer[height:].reshape(2, height // 2, width // 2)
    for plane, values in zip(chroma, (u, v), strict=True):
        half = cv2.resize(values, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        plane[:] = np.clip(np.round(half + 128), 0, 255)
    return buffer


def from_i420(buffer: NDArray[np.uint8], full_range: bool = False) -> Image:
    """The BT.601 I420 buffer (H * 3 // 2, W) to RGB (H, W, 3) float32 0..1, chroma upsampled bilinearly."""
    height, width = buffer.shape[0] * 2 // 3, buffer.shape[1]
    y = buffer[:height].astype(np.float32)
    chroma = buffer[height:].reshape(2, height // 2, width // 2).astype(np.float32) - 128
    u, v = (cv2.resize(c, (width, height), interpolation=cv2.INTER_LINEAR) for c in chroma)
    if not full_range:
        y, u, v = (y - 16) * np.float32(255 / 219), u * np.float32(255 / 224), v * np.float32(255 / 224)
    rgb = np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], axis=-1)
    return np.clip(rgb / 255, 0, 1).astype(np.float32)


@dataclass(frozen=True)
class Lens:
    """A soft, defocused or shaken lens: kernels of luma and of chroma, and the little noise behind it."""

    luma: Kernel
    chroma: Kernel
    noise: float  # grey levels


def sample_lens(rng: np.random.Generator) -> Lens:
    """A random lens."""
    kind = rng.random()
    if kind < 0.36:
        sigma = float(rng.uniform(0.4, 1.9))
        kernels = gaussian_kernel(sigma), gaussian_kernel(sigma / 2)
    elif kind < 0.67:
        radius = float(rng.uniform(0.6, 2.4))
        kernels = disk_kernel(radius), disk_kernel(radius / 2)
    else:
        path = shake(float(np.exp(rng.uniform(np.log(2), np.log(32)))), rng)
        kernels = path_kernel(path), path_kernel(path / 2)
    return Lens(*kernels, noise=float(rng.choice([0.0, 0.0, rng.uniform(0, 1.5)])))


def soft_lens(clip: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """I420 frames (T, H * 3 // 2, W) through one lens, soft, defocused or shaken, with hardly any noise.

    It works on the planes as they are, so cheaply that a training step can do it: many lenses for one picture.
    """
    rows, width = clip.shape[1:]
    height = rows * 2 // 3
    lens = sample_lens(rng)

    def blurred(plane: NDArray[np.uint8], kernel: Kernel) -> NDArray[np.uint8]:
        image = convolve(plane.astype(np.float32), kernel)
        if lens.noise:
            image = image + np.float32(lens.noise) * rng.standard_normal(plane.shape, dtype=np.float32)
        return np.clip(np.round(image), 0, 255).astype(np.uint8)

    out = np.empty_like(clip)
    for frame, soft in zip(clip, out, strict=True):
        soft[:height] = blurred(frame[:height], lens.luma)
        chroma = frame[height:].reshape(2, height // 2, width // 2)
        soft[height:] = np.stack([blurred(p, lens.chroma) for p in chroma]).reshape(-1, width)
    return out


def photographed(clip: NDArray[np.uint8], webcam: Webcam, rng: np.random.Generator) -> NDArray[np.uint8]:
    """What `webcam` makes of I420 frames (T, H * 3 // 2, W), limited range."""
    frames = degrade_clip([from_i420(frame) for frame in clip], webcam, rng)
    return np.stack([to_i420(frame) for frame in frames])
