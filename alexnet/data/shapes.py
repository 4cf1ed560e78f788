"""The built-in picture set: ten shapes, rendered here, so that everything runs on a machine without any data.

`render(index, seed)` is a pure function, with the same bytes on every machine, in every thread and process; the label
is `index % 10`. What varies is what varies in photographs: position, size, rotation, shear, perspective, partial view,
colours, textures of object and background, light and its colour, shadow, occlusion, clutter. All of that is drawn
without regard to the class, and no class is the mirror image of another: only the outline tells which it is.

A scene is a list of layers (see `shapes_render.py`), drawn from numbers keyed by (seed, index). Only `random()` and
+ - * / on Python floats are used: no libm, no BLAS, whose last bits depend on the machine.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from alexnet.data import shapes_render as sr
from alexnet.errors import UsageError

VERSION = 1  # raised whenever a pixel changes
CLASSES: tuple[str, ...] = (
    "disc",
    "ring",
    "square",
    "triangle",
    "star",
    "cross",
    "crescent",
    "heart",
    "arrow",
    "hexagon",
)

Draw = Callable[[], float]  # the next random number in [0, 1)
Point = tuple[float, float]
Colour = tuple[float, float, float]


def render(index: int, seed: int, size_px: int = 256) -> np.ndarray:
    """Picture `index` of the set `seed`: (size_px, size_px, 3) uint8, of class `CLASSES[index % 10]`.

    Raises UsageError if an argument is out of range.
    """
    if not (0 <= index < 2**63 and 0 <= seed < 2**63 and 1 <= size_px <= 4096):
        raise UsageError(
            f"shapes: index {index}, seed {seed}, size {size_px} px: "
            "index and seed must be at least 0 and below 2^63, the size 1 to 4096 px"
        )
    return sr.paint(*scene(_numbers(seed, index), CLASSES[index % len(CLASSES)]), size_px)


def scene(draw: Draw, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Layers (n,) of LAYER, back to front, and lights (1,) of LIGHT: a picture that shows the shape `name`."""
    ground, figure = _palettes(draw)
    layers = [_background(draw, ground)]
    layers += [_patch(draw, ground) for _ in range(_count(draw, 2))]
    layers += [_clutter(draw, 0.03, 0.09) for _ in range(_count(draw, 4))]
    thing = _thing(draw, name, figure)
    if draw() < 0.5:
        layers.append(_shadow(draw, thing))
    layers.append(thing)
    layers += [_clutter(draw, 0.02, 0.07) for _ in range(_count(draw, 2))]
    return np.array([layer.row() for layer in layers], sr.LAYER), _light(draw)


@dataclass
class Layer:
    """What `shapes_render.LAYER` holds, field by field; explained there."""

    outline: int = sr.EVERYWHERE
    corners: list[Point] | tuple = ()
    hole: Point = (0.0, 0.0)
    rounding: float = 0.0
    centre: Point = (0.0, 0.0)
    inverse: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 1.0)
    tilt: Point = (0.0, 0.0)
    reach: float = 1.0
    scale: float = 1.0
    soft_px256: float = 1.0
    opacity: float = 1.0
    texture: int = sr.PLAIN
    waves: Point = (0.0, 0.0)
    phase: Point = (0.0, 0.0)
    sharpness: float = 1.0
    colours: tuple[Colour, Colour] = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))

    def row(self) -> tuple:
        fields = dict(vars(self), n_corners=len(self.corners))
        fields["corners"] = (*self.corners, *[(0.0, 0.0)] * (sr.MAX_CORNERS - len(self.corners)))
        return tuple(fields[name] for name in sr.LAYER.names)


# --- numbers --------------------------------------------------------------------------------------------------------


def _numbers(seed: int, index: int) -> Draw:
    """The random numbers of one picture, drawn in blocks because single draws cost as much as the picture."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))

    def blocks():
        while True:
            yield from rng.random(256).tolist()

    return blocks().__next__


def _between(draw, low: float, high: float) -> float:
    return low + (high - low) * draw()


def _point(draw, low: float, high: float) -> Point:
    return _between(draw, low, high), _between(draw, low, high)


def _count(draw, most: int) -> int:
    """0 ... most, all equally often."""
    return int(draw() * (most + 1))


def _direction(turns: float) -> Point:
    """Cosine and sine of an angle in turns: on the unit circle, the angle itself within half a degree."""
    quarter, part = divmod(4.0 * (turns % 1.0), 1.0)
    t = part * (0.785398 + 0.214602 * part * part)  # tangent of half the angle, nearly
    c, s = (1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t)
    return ((c, s), (-s, c), (-c, -s), (s, -c))[int(quarter) % 4]


# --- outlines -------------------------------------------------------------------------------------------------------


def _around(radii: list[float]) -> list[Point]:
    """One corner at each of the radii, at equal angles around the centre."""
    directions = [_direction(k / len(radii)) for k in range(len(radii))]
    return [(r * c, r * s) for r, (c, s) in zip(radii, directions, strict=True)]


def _shape(draw, name: str) -> Layer:
    """The outline of class `name`; its proportions vary within the class."""
    p, rounding = draw(), _between(draw, 0.0, 0.05)
    if name in ("disc", "ring", "crescent"):
        hole = {"disc": (-9.0, 0.0), "ring": (0.4 + 0.25 * p, 0.0), "crescent": (0.7 + 0.12 * p, 0.42 + 0.1 * p)}[name]
        return Layer(sr.ROUND, hole=hole)
    if name == "heart":
        return Layer(sr.HEART)
    if name == "cross":
        w, r = 0.2 + 0.12 * p, 0.9
        corners = [
            (r, w),
            (w, w),
            (w, r),
            (-w, r),
            (-w, w),
            (-r, w),
            (-r, -w),
            (-w, -w),
            (-w, -r),
            (w, -r),
            (w, -w),
            (r, -w),
        ]
    elif name == "arrow":
        w, neck = 0.15 + 0.12 * p, 0.25 - 0.2 * p
        corners = [(-0.9, w), (neck, w), (neck, 0.62), (0.95, 0.0), (neck, -0.62), (neck, -w), (-0.9, -w)]
    else:
        radii = {"square": [1.0] * 4, "triangle": [1.05] * 3, "hexagon": [0.92] * 6, "star": [1.0, 0.4 + 0.1 * p] * 5}
        corners = _around(radii[name])
    return Layer(sr.POLYGON, corners, rounding=rounding)


def _blob(draw) -> Layer:
    """An irregular outline of no class: five to eight corners at random radii."""
    corners = _around([_between(draw, 0.3, 0.95) for _ in range(5 + _count(draw, 3))])
    return Layer(sr.POLYGON, corners, rounding=_between(draw, 0.0, 0.2))


def _bar(draw) -> Layer:
    """A thin line with a bend."""
    w, bend = _between(draw, 0.03, 0.1), _between(draw, -0.5, 0.5)
    return Layer(sr.POLYGON, [(-1.0, w), (0.0, bend + w), (1.0, w), (1.0, -w), (0.0, bend - w), (-1.0, -w)])


# --- the things in a picture ----------------------------------------------------------------------------------------


def _place(draw, layer: Layer, centre: Point, scale: float, distortion: float, turn: float) -> None:
    """Turn, shear, stretch and tilt the outline; distortion 0 only turns it."""
    axis = draw()  # of stretch and shear
    (c1, s1), (c2, s2) = _direction(turn - axis), _direction(axis)
    stretch = 1.0 + distortion * _between(draw, 0.0, 0.25)
    a, b, d = 1.0 / (scale * stretch), distortion * _between(draw, -0.2, 0.2) / scale, stretch / scale
    m0, m1, m2, m3 = a * c2, a * s2, b * c2 - d * s2, b * s2 + d * c2  # (stretch and shear) after the second turn
    layer.inverse = (c1 * m0 + s1 * m2, c1 * m1 + s1 * m3, c1 * m2 - s1 * m0, c1 * m3 - s1 * m1)
    layer.tilt = _point(draw, -0.45 * distortion, 0.45 * distortion)
    layer.centre, layer.scale = centre, scale
    radius = 1.1 * scale * (stretch + abs(b) * scale)
    layer.reach = radius / (1.0 - radius * (abs(layer.tilt[0]) + abs(layer.tilt[1])))


def _background(draw, colours) -> Layer:
    layer = Layer(sr.EVERYWHERE)
    _place(draw, layer, (0.0, 0.0), 1.0, 0.6, draw())
    _fill(draw, layer, colours)
    layer.reach = 1.0
    return layer


def _patch(draw, colours) -> Layer:
    """A large irregular area of the background, in its colours."""
    layer = _blob(draw)
    _place(draw, layer, _point(draw, -0.5, 0.5), _between(draw, 0.3, 0.6), 0.5, draw())
    _fill(draw, layer, colours)
    layer.opacity, layer.soft_px256 = _between(draw, 0.3, 1.0), _between(draw, 1.0, 12.0)
    return layer


def _clutter(draw, smallest: float, largest: float) -> Layer:
    """A small thing of no class, anywhere, in any colour."""
    outline, longer = (_blob, 1.0) if draw() < 0.5 else (_bar, 2.0)
    layer = outline(draw)
    _place(draw, layer, _point(draw, -0.5, 0.5), longer * _between(draw, smallest, largest), 0.5, draw())
    _fill(draw, layer, (_colour(draw), _colour(draw)))
    layer.soft_px256 = _between(draw, 1.0, 3.0)
    return layer


def _thing(draw, name: str, colours) -> Layer:
    """The object. Near the border a little of it lies outside the picture."""
    layer = _shape(draw, name)
    scale = _between(draw, 0.28, 0.44)
    room = 0.5 - 0.85 * scale
    _place(draw, layer, _point(draw, -room, room), scale, 1.0, _between(draw, -0.07, 0.07))
    _fill(draw, layer, colours)
    layer.soft_px256 = _between(draw, 1.0, 4.0)
    return layer


def _shadow(draw, thing: Layer) -> Layer:
    """The object's outline again: dark, soft, a little to the side."""
    dx, dy = _point(draw, -0.05, 0.05)
    return replace(
        thing,
        centre=(thing.centre[0] + dx, thing.centre[1] + dy),
        opacity=_between(draw, 0.2, 0.6),
        soft_px256=_between(draw, 4.0, 20.0),
        texture=sr.PLAIN,
        colours=Layer.colours,
    )


# --- colour, texture, light -----------------------------------------------------------------------------------------


def _mix(first: Colour, other: Colour, share: float) -> Colour:
    return tuple(p + share * (q - p) for p, q in zip(first, other, strict=True))


def _colour(draw) -> Colour:
    """Any colour, half of the time drawn towards its grey."""
    colour = (draw(), draw(), draw())
    grey = (colour[0] + colour[1] + colour[2]) / 3.0
    return _mix(colour, (grey, grey, grey), max(0.0, _between(draw, -1.0, 1.0)))


def _pair(draw) -> tuple[Colour, Colour]:
    first = _colour(draw)
    return first, _mix(first, _colour(draw), _between(draw, 0.1, 0.5))


def _palettes(draw) -> tuple[tuple[Colour, Colour], tuple[Colour, Colour]]:
    """Two colours each for background and object, alike in distribution, none of one close to one of the other."""
    while True:
        ground, figure = _pair(draw), _pair(draw)
        if all(abs(a[0] - b[0]) + abs(a[1] - b[1]) + abs(a[2] - b[2]) > 0.9 for a in ground for b in figure):
            return ground, figure


def _fill(draw, layer: Layer, colours) -> None:
    """Texture, plain half of the time, and its colours. Wave lengths do not depend on the size of what they fill."""
    layer.texture = max(sr.PLAIN, _count(draw, 2 * sr.SPECKLE - 1) - sr.SPECKLE + 1)
    c, s = _direction(draw())
    waves = layer.scale * _between(draw, 5.0, 22.0)
    layer.waves, layer.phase = (waves * c, waves * s), _point(draw, 0.0, 64.0)
    layer.sharpness = _between(draw, 0.5, 3.0)
    layer.colours = colours if draw() < 0.5 else colours[::-1]


def _light(draw) -> np.ndarray:
    """One LIGHT: brightness, its gradient and colour, dappled shade in half of the pictures, contrast, grain."""
    slope = _point(draw, -0.5, 0.5)
    shade = (max(0.0, _between(draw, -0.5, 0.5)), _between(draw, 1.5, 6.0), _between(draw, 0.0, 64.0))
    brightness = _between(draw, 0.65, 1.25)
    gain = tuple(brightness * _between(draw, 0.75, 1.2) for _ in range(3))
    contrast, grain = _between(draw, 0.7, 1.15), 0.15 * draw() * draw()
    return np.array([(slope, *shade, gain, contrast, grain, int(draw() * 2**52))], sr.LIGHT)
