"""The test card's still room: bookshelf, poster with test patterns, window, plant."""

from __future__ import annotations

import cv2
import numpy as np

from sharpcam.sources.scene.canvas import U8, Canvas, bell, noise, smooth, turned

_SPINES = [
    "SIGNAL & NOISE",
    "OPTICKS",
    "Field Notes",
    "FOURIER",
    "The Lens Maker",
    "Vol. II",
    "HALFTONE",
    "Atlas of Edges",
    "Deconvolution",
    "POINT SPREAD",
    "A Short History of Glass",
    "NYQUIST",
    "Grain",
    "Small Apertures",
    "LUX",
    "On Seeing",
    "Wavelets",
    "CONTRAST",
    "Shannon",
    "Bokeh",
]
_COVERS = [
    (146, 58, 48),
    (38, 70, 98),
    (214, 196, 160),
    (64, 98, 84),
    (196, 138, 58),
    (52, 50, 58),
    (222, 216, 204),
    (112, 52, 70),
    (78, 116, 142),
    (170, 168, 150),
]


def draw_room(width: float, scale: float, seed: int) -> U8:
    """The room, 720 units high and `width` units wide, at `scale` pixels a unit: RGB (H, W, 3)."""
    rng = np.random.default_rng(seed)
    room = Canvas(np.empty((round(720 * scale), round(width * scale), 3), np.uint8), scale)
    _wall(room, rng, width)
    _window(room, width - 150)
    _shelf(room, rng, min(330.0, width * 0.27))
    _poster(room, width - 404, 58)
    _plant(room, rng, (width - 126, 668))
    return room.pixels


def _wall(room: Canvas, rng: np.random.Generator, width: float) -> None:
    """Painted plaster, lit from the window at the right."""
    rows, cols = room.pixels.shape[:2]
    half = Canvas(np.empty((rows // 2, cols // 2, 3), np.uint8), room.scale / 2)
    x, y = half.grid()
    light = 0.60 + 0.44 * np.exp(-(((x - width) / (0.75 * width)) ** 2) - ((y - 240) / 520) ** 2)
    shape = half.pixels.shape[:2]
    light += 0.007 * noise(rng, shape, 1.2 * half.scale) + 0.0016 * noise(rng, shape, 9 * half.scale)
    half.pixels[...] = (205, 203, 194)
    half.shade(light)
    cv2.resize(half.pixels, (cols, rows), room.pixels, interpolation=cv2.INTER_LINEAR)


def _window(room: Canvas, left: float) -> None:
    """A bright window with an even sky (bands would show here) behind a gauze curtain."""
    right, top, bottom = left + 200, -10.0, 470.0
    room.box(left - 14, top, right, bottom + 14, (232, 228, 220))
    room.box(left - 14, bottom + 6, right, bottom + 14, (176, 172, 164))
    sky = room.part(left, top, right, bottom)
    x, y = sky.grid()
    down = np.clip(y / bottom, 0, 1)[..., None] ** np.float32(0.8)
    high, low = np.array([150, 186, 222], np.float32), np.array([244, 240, 230], np.float32)
    np.copyto(sky.pixels, high + (low - high) * down - 0.03 * (x - left)[..., None], casting="unsafe")
    for bar in (left + 88, left + 92):
        room.line([(bar, top), (bar, bottom)], (214, 210, 202), 3)
    room.line([(left, 236), (right, 236)], (222, 218, 210), 7)
    room.line([(left, 240), (right, 240)], (186, 184, 180), 1)
    curtain = room.part(left + 70, top, right, bottom + 60)
    x, y = curtain.grid()
    x = x - left
    waves = 0.5 + 0.5 * np.sin(x * 0.33 + 1.6 * np.sin(x * 0.061) + 0.002 * y)
    weave = 0.03 * np.sin(x * 3.1) * np.sin(y * 3.1)
    curtain.tint((238, 234, 226), 0.55 + 0.3 * waves)
    curtain.shade(0.9 + 0.1 * waves + weave)


def _shelf(room: Canvas, rng: np.random.Generator, width: float) -> None:
    """Three boards of books whose spines can be read."""
    room.box(-5, -5, width, 725, (58, 46, 38))
    tops = [-30.0, 176.0, 382.0, 588.0]
    words = iter(_SPINES * 3)
    for board in [*tops[1:], 794.0]:
        x = 6.0
        floor = board - 12
        while x < width - 30:
            thick, tall = rng.uniform(15, 33), rng.uniform(118, 172)
            if rng.random() < 0.09:
                x += rng.uniform(10, 22)
                continue
            if x + thick > width - 16:
                break
            lean = 0.0 if rng.random() < 0.8 else rng.uniform(-3, 3)
            cover = _COVERS[int(rng.integers(len(_COVERS)))]
            _book(room, (x, floor), thick, tall, lean, cover, next(words), rng)
            x += thick + abs(lean) * 2.4 + rng.uniform(0.6, 1.6)
        _board(room, rng, -5, board - 12, width, board)
    inside = room.part(-5, -5, width, 725)
    across, y = inside.grid()
    depth = np.minimum.reduce([np.where(y > t, y - np.float32(t), np.float32(999)) for t in tops])
    inside.shade(
        (0.38 + 0.62 * smooth(0, 70, depth)) * (0.72 + 0.3 * across / width)
    )  # dark under each board
    for edge in (0.0, width - 12):
        _board(room, rng, edge, -5, edge + 12, 725)


def _board(
    room: Canvas, rng: np.random.Generator, left: float, top: float, right: float, bottom: float
) -> None:
    """Oak with its grain."""
    plank = room.part(left, top, right, bottom)
    wood = plank.pixels
    if not wood.size:
        return
    along = 1 if wood.shape[1] > wood.shape[0] else 0
    small = [max(4, wood.shape[0] // 2), max(4, wood.shape[1] // 2)]
    small[along] = max(4, small[along] // 24)
    grain = cv2.resize(
        rng.standard_normal(small, np.float32), wood.shape[1::-1], interpolation=cv2.INTER_CUBIC
    )
    wood[...] = (168, 124, 84)
    plank.shade(1 + 0.07 * np.asarray(grain, np.float32))
    room.line([(left, top), (right, top)] if along else [(right, top), (right, bottom)], (204, 164, 120), 0.6)
    room.line([(left, bottom), (right, bottom)] if along else [(left, top), (left, bottom)], (84, 58, 40), 1)


def _book(
    room: Canvas,
    corner: tuple[float, float],
    thick: float,
    tall: float,
    lean: float,
    cover: tuple[int, int, int],
    title: str,
    rng: np.random.Generator,
) -> None:
    """A book drawn lying (title along x), then turned up and warped onto the shelf."""
    s = room.scale
    spine = Canvas(np.empty((round(thick * s), round(tall * s), 3), np.uint8), s)
    spine.pixels[...] = cover
    dark = sum(cover) < 400
    ink = (226, 204, 150) if dark else (60, 50, 48)
    style = int(rng.integers(4))
    for place in ((10, 13, tall - 13, tall - 10), (8, tall - 8), (20, 22, 24), ())[style]:
        spine.line([(place, -1), (place, thick + 1)], ink, 1 if style != 2 else 0.5)
    if style == 3:
        spine.box(tall * 0.2, -1, tall * 0.8, thick + 1, (238, 232, 218) if dark else cover)
        ink = (48, 44, 44) if dark else ink
    height = min(thick * 0.42, tall * 0.82 / (0.86 * max(6, len(title))), 11)
    wide = 0.86 * height * len(title)
    spine.text(title, ((tall - wide) / 2, thick / 2 + height / 2), height, ink, bold=style % 2 == 0)
    round_ = np.sqrt(np.clip(1 - np.linspace(-0.97, 0.97, spine.pixels.shape[0]) ** 2, 0, 1))
    cloth = 1 + 0.02 * noise(rng, spine.pixels.shape[:2], 0.7)
    spine.shade((0.5 + 0.52 * round_[:, None]).astype(np.float32) * cloth)
    upright = np.ascontiguousarray(np.rot90(spine.pixels, 3))  # titles read downwards
    x, y = corner
    shift = float(np.tan(np.deg2rad(lean)) * tall)
    near = room.part(x - abs(shift) - 1, y - tall - 1, x + thick + abs(shift) + 1, y + 1)
    corners = np.array([[x + shift, y - tall], [x + shift + thick, y - tall], [x, y]])
    h, w = upright.shape[:2]
    matrix = cv2.getAffineTransform(
        np.array([[0, 0], [w, 0], [0, h]], np.float32), ((corners - near.origin) * s).astype(np.float32)
    )
    onto = near.pixels
    cv2.warpAffine(upright, matrix, onto.shape[1::-1], onto, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT)


def _poster(room: Canvas, left: float, top: float) -> None:
    """A framed print: star, zone plate, slanted square, gratings, and text down to the unreadable."""
    wide, high = 196.0, 286.0
    wall = room.part(left - 30, top - 30, left + wide + 30, top + high + 40)
    shadow = [
        (left - 5, top),
        (left + wide + 3, top),
        (left + wide + 3, top + high + 11),
        (left - 5, top + high + 11),
    ]
    wall.shade(1 - 0.35 * wall.mask(shadow, 6))
    room.box(left - 6, top - 6, left + wide + 6, top + high + 6, (44, 40, 40))
    room.box(left - 5, top - 5, left + wide + 5, top - 4, (96, 90, 86))
    room.box(left, top, left + wide, top + high, (240, 237, 230))
    ink, red = (32, 34, 40), (196, 60, 48)
    room.text("SHARPCAM", (left + 16, top + 30), 16, ink, bold=True)
    room.text("test card no. 1", (left + 16, top + 44), 7, red)
    center = (left + 66, top + 108)
    for k in range(36):  # Siemens star
        a0, a1 = 2 * np.pi * (k / 36), 2 * np.pi * ((k + 0.5) / 36)
        rim = [(center[0] + 50 * np.cos(a), center[1] + 50 * np.sin(a)) for a in np.linspace(a0, a1, 4)]
        room.polygon([center, *rim], ink)
    _zone_plate(room, (left + 154, top + 84), 28)
    square = np.add(turned([(-17, -17), (17, -17), (17, 17), (-17, 17)], 5), (left + 154, top + 140))
    room.polygon(square, ink)
    x = left + 16
    for pitch in (8, 6, 4, 3, 2.5, 2):
        for k in range(int(24 / pitch)):
            room.box(x + k * pitch, top + 172, x + (k + 0.5) * pitch, top + 190, ink)
        room.text(f"{pitch:g}", (x, top + 198), 4.6, red)
        x += 29
    lines = ["Sharp is what the eye", "believes before it looks twice.", "THE QUICK BROWN FOX JUMPS OVER"]
    lines += ["the lazy dog 0123456789 and then", "sits down to read the small print below it"]
    y = top + 216
    for words, size in zip(lines, (10, 7.6, 6, 5, 4), strict=True):
        room.text(words, (left + 16, y), size, ink)
        y += size * 1.75
    for k, colour in enumerate(
        [(206, 62, 50), (226, 170, 58), (84, 140, 92), (54, 104, 160), (120, 72, 128)]
    ):
        room.box(left + 16 + k * 14, top + high - 16, left + 28 + k * 14, top + high - 8, colour)
    for k in range(6):
        grey = 20 + k * 42
        room.box(left + 96 + k * 14, top + high - 16, left + 110 + k * 14, top + high - 8, (grey,) * 3)


def _zone_plate(room: Canvas, center: tuple[float, float], radius: float) -> None:
    """Rings that get finer outwards, to 2.2 units a period at the rim."""
    plate = room.part(center[0] - radius, center[1] - radius, center[0] + radius, center[1] + radius)
    x, y = plate.grid()
    r2 = (x - center[0]) ** 2 + (y - center[1]) ** 2
    rings = 0.5 + 0.5 * np.cos(np.pi / (2.2 * radius) * r2)
    plate.tint((32, 34, 40), rings * smooth(0, 1, radius - 0.5 - np.sqrt(r2)))


def _plant(room: Canvas, rng: np.random.Generator, foot: tuple[float, float]) -> None:
    """A fern in a pot: hundreds of leaflets in many greens."""
    x, y = foot
    fronds = []
    for angle in np.concatenate([rng.uniform(-80, 80, 22), np.linspace(-75, 75, 10)]):
        length = rng.uniform(130, 235) * (1 - 0.0022 * abs(angle))
        fronds.append((rng.uniform(0, 1), float(angle), float(length)))
    for depth, angle, length in sorted(fronds):
        _frond(room, rng, (x + rng.uniform(-14, 14), y - 34), angle, length, depth)
    pot = room.part(x - 60, y - 60, x + 60, 720)
    px, py = pot.grid()
    glaze = (0.5 + 0.5 * np.sqrt(np.clip(1 - ((px - x - 14) / 76) ** 2, 0, 1))) * (
        1 + 0.03 * np.sin(px * 1.1)
    )
    glaze = glaze * (1 - 0.35 * bell(py - (y - 40), 16))
    clay = np.array([204, 196, 184], np.float32) * glaze[..., None]
    pot.lay(clay, pot.mask([(x - 54, y - 40), (x + 54, y - 40), (x + 44, y + 70), (x - 44, y + 70)]))


def _frond(
    room: Canvas,
    rng: np.random.Generator,
    root: tuple[float, float],
    angle: float,
    length: float,
    depth: float,
) -> None:
    t = np.linspace(0, 1, 40)
    bend = angle + np.sign(angle + 0.1) * 46 * t**1.6
    steps = np.stack([np.sin(np.deg2rad(bend)), -np.cos(np.deg2rad(bend))], 1) * (length / 40)
    stem = np.asarray(root) + np.cumsum(steps, 0)
    light = 0.45 + 0.55 * depth
    room.line(stem, tuple(np.array([86, 104, 48]) * light), 1)
    for i in range(4, 40):
        size = 21 * np.sin(np.pi * min(1, (i + 3) / 42)) ** 0.8 * (length / 200)
        for side in (-1, 1):
            tone = light * rng.uniform(0.8, 1.2) * (1.08 if side > 0 else 0.9)
            green = np.clip(np.array([84, 132, 62]) * tone, 0, 255)
            turn = bend[i] + side * (66 - 26 * t[i]) + rng.normal(0, 4)
            leaf = np.array(
                [
                    (0, 0),
                    (-2.3, -0.4 * size),
                    (-1.2, -0.8 * size),
                    (0, -size),
                    (1.6, -0.7 * size),
                    (2.2, -0.3 * size),
                ]
            )
            shape = turned(leaf, float(turn)) + stem[i]
            room.polygon(shape, tuple(green))
            tip = turned([(0, 0), (0, -0.86 * size)], float(turn)) + stem[i]
            room.line(tip, tuple(np.clip(green * 1.25 + 12, 0, 255)), 0.4)
