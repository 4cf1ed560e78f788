"""Paint a picture from a list of layers: the compiled half of the built-in picture set (`shapes.py` draws the lists).

A layer is one outline under a projective map, filled with a two-colour texture; background, patches, shadow, object and
clutter are all layers, painted in order. A last pass adds the light: gradient, dappled shade, colour cast, contrast,
grain. The picture is [-0.5, 0.5]^2 with y down, an outline lies in the unit disc, about: one scene renders at any size.
Edges are smoothed by signed distance over `soft_px256` pixels of the 256 px picture, one pixel at least.

Same bytes on every machine: only + - * / sqrt and integer hashing, each correctly rounded by IEEE 754, in a fixed
order, without fastmath (which may reorder, and fuse multiply-adds) or libm. Threads may render at once (nogil).
"""

import math

import numpy as np

from alexnet.kernels.compiled import exact

EVERYWHERE, ROUND, POLYGON, HEART = range(4)  # outlines
PLAIN, STRIPES, CHECKS, DOTS, GRADIENT, NOISE, SPECKLE = range(7)  # textures
MAX_CORNERS = 12

LAYER = np.dtype(
    [
        ("outline", np.int64),
        ("n_corners", np.int64),
        ("corners", np.float64, (MAX_CORNERS, 2)),
        ("hole", np.float64, 2),  # ROUND: radius of the hole and how far to the right it lies
        ("rounding", np.float64),  # POLYGON: radius added around it
        ("centre", np.float64, 2),  # in the picture
        ("inverse", np.float64, 4),  # row-major 2x2: offset from the centre -> outline coordinates
        ("tilt", np.float64, 2),  # perspective: the map is divided by 1 + tilt . offset
        ("reach", np.float64),  # nothing is painted farther than this from the centre
        ("scale", np.float64),  # picture units in one outline unit, about
        ("soft_px256", np.float64),
        ("opacity", np.float64),
        ("texture", np.int64),
        ("waves", np.float64, 2),
        ("phase", np.float64, 2),
        ("sharpness", np.float64),
        ("colours", np.float64, (2, 3)),
    ]
)
LIGHT = np.dtype(
    [
        ("slope", np.float64, 2),
        ("shade", np.float64),
        ("shade_waves", np.float64),
        ("shade_phase", np.float64),
        ("gain", np.float64, 3),
        ("contrast", np.float64),
        ("grain", np.float64),
        ("salt", np.int64),
    ]
)

_LATTICE = np.random.Generator(np.random.Philox(key=2012)).random((64, 64))  # smooth noise; repeats


@exact
def _hash64(x, y, salt):
    """Sixty-four random-looking bits from three integers."""
    h = np.uint64(x) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(y) * np.uint64(0xC2B2AE3D27D4EB4F) ^ np.uint64(salt)
    h = (h ^ (h >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    h = (h ^ (h >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return h ^ (h >> np.uint64(32))


@exact
def _value_noise(x, y):
    """Smooth noise in [0, 1): values on the integer lattice, smoothstep between them."""
    i, j = math.floor(x), math.floor(y)
    fx, fy = x - i, y - j
    i0, j0 = np.uint64(np.int64(i) & 63), np.uint64(np.int64(j) & 63)
    i1, j1 = np.uint64((np.int64(i) + 1) & 63), np.uint64((np.int64(j) + 1) & 63)
    fx, fy = fx * fx * (3.0 - 2.0 * fx), fy * fy * (3.0 - 2.0 * fy)
    top = _LATTICE[j0, i0] + fx * (_LATTICE[j0, i1] - _LATTICE[j0, i0])
    bottom = _LATTICE[j1, i0] + fx * (_LATTICE[j1, i1] - _LATTICE[j1, i0])
    return top + fy * (bottom - top)


@exact
def _wave(x):
    """Period 1, between -1 and 1, from parabolas: looks like a sine, costs no libm."""
    t = 2.0 * (x - math.floor(x)) - 1.0
    return 4.0 * t * (1.0 - abs(t))


@exact
def _clip01(x):
    return 0.0 if x < 0.0 else (1.0 if x > 1.0 else x)


@exact
def _texture(kind, sharpness, u, v):
    """Share of the second colour at a point (u, v) counted in waves."""
    if kind == STRIPES:
        return _clip01(0.5 + sharpness * _wave(u))
    if kind == CHECKS:
        return _clip01(0.5 + sharpness * _wave(0.6 * u) * _wave(0.6 * v))
    if kind == DOTS:
        return _clip01(sharpness * (_wave(u) + _wave(v) - 0.7))
    if kind == GRADIENT:
        return 0.5 + 0.5 * _wave(0.06 * u)
    if kind == NOISE:
        mixed = 0.65 * _value_noise(u, v) + 0.35 * _value_noise(2.3 * u, 2.3 * v)
        return _clip01(0.5 + 2.0 * sharpness * (mixed - 0.5))
    if kind == SPECKLE:
        return _clip01(6.0 * (_value_noise(3.0 * u, 3.0 * v) - 0.68))
    return 0.0


@exact
def _polygon_distance(corners, n, x, y):
    """Signed distance to a closed polygon, negative inside: nearest edge, sign by crossings."""
    nearest, inside, k = 1e30, False, n - 1
    for i in range(n):
        ex, ey = corners[k, 0] - corners[i, 0], corners[k, 1] - corners[i, 1]
        px, py = x - corners[i, 0], y - corners[i, 1]
        along = _clip01((px * ex + py * ey) / (ex * ex + ey * ey))
        qx, qy = px - ex * along, py - ey * along
        nearest = min(nearest, qx * qx + qy * qy)
        if (corners[i, 1] > y) != (corners[k, 1] > y) and (px * ey < py * ex) == (ey > 0.0):
            inside = not inside
        k = i
    return -math.sqrt(nearest) if inside else math.sqrt(nearest)


@exact
def _heart_distance(x, y):
    """Signed distance to a heart with its point down: two arcs over a square that stands on its corner."""
    x, y = 0.6 * abs(x), 0.55 - 0.6 * y
    if x + y > 1.0:
        return (math.sqrt((x - 0.25) * (x - 0.25) + (y - 0.75) * (y - 0.75)) - math.sqrt(0.125)) / 0.6
    h = 0.5 * max(x + y, 0.0)
    nearest = min(x * x + (y - 1.0) * (y - 1.0), (x - h) * (x - h) + (y - h) * (y - h))
    return math.sqrt(nearest) / (0.6 if x > y else -0.6)


@exact
def _distance(layer, x, y):
    if layer.outline == ROUND:
        rim = math.sqrt(x * x + y * y) - 0.9
        dx = x - layer.hole[1]
        return max(rim, layer.hole[0] - math.sqrt(dx * dx + y * y))
    if layer.outline == POLYGON:
        return _polygon_distance(layer.corners, layer.n_corners, x, y) - layer.rounding
    if layer.outline == HEART:
        return _heart_distance(x, y)
    return -1e30


@exact
def _paint(canvas, layer):
    """Lay one layer over canvas (S, S, 3), inside its reach only.

    Far from an edge the distance is evaluated once for as many pixels of the row as it spans: they lie on one side.
    """
    size = canvas.shape[0]
    cx, cy = layer.centre[0], layer.centre[1]
    m0, m1, m2, m3, tilt_x, tilt_y = (
        layer.inverse[0],
        layer.inverse[1],
        layer.inverse[2],
        layer.inverse[3],
        layer.tilt[0],
        layer.tilt[1],
    )
    # offset from the centre -> waves of the texture, which lies in the outline's plane
    wave_ux, wave_uy = layer.waves[0] * m0 + layer.waves[1] * m2, layer.waves[0] * m1 + layer.waves[1] * m3
    wave_vx, wave_vy = layer.waves[0] * m2 - layer.waves[1] * m0, layer.waves[0] * m3 - layer.waves[1] * m1
    phase_u, phase_v, pixel = layer.phase[0], layer.phase[1], 1.0 / size
    texture, sharpness, opacity = layer.texture, layer.sharpness, layer.opacity
    colours = layer.colours
    r, g, b = colours[0, 0], colours[0, 1], colours[0, 2]
    dr, dg, db = colours[1, 0] - r, colours[1, 1] - g, colours[1, 2] - b
    edge = max(layer.soft_px256 / 256.0, 1.0 / size) / layer.scale  # width of the smoothed edge in outline units
    left, right = max(0, int((cx + 0.5 - layer.reach) * size)), min(size, int((cx + 0.5 + layer.reach) * size) + 1)
    top, bottom = max(0, int((cy + 0.5 - layer.reach) * size)), min(size, int((cy + 0.5 + layer.reach) * size) + 1)
    for i in range(top, bottom):
        dy, row = (i + 0.5) / size - 0.5 - cy, canvas[i]
        j = left
        while j < right:
            dx = (j + 0.5) / size - 0.5 - cx
            nearness = 1.0 / (1.0 + tilt_x * dx + tilt_y * dy)
            x, y = (m0 * dx + m1 * dy) * nearness, (m2 * dx + m3 * dy) * nearness
            distance = _distance(layer, x, y)
            cover = opacity * _clip01(0.5 - distance / edge)
            step_x, step_y = (m0 - tilt_x * x) * nearness, (m2 - tilt_x * y) * nearness  # outline per picture unit
            # 0.7 because the step grows along the row, by a quarter at most over 0.15 of the picture
            free = 0.7 * (abs(distance) - 0.5 * edge) / math.sqrt(step_x * step_x + step_y * step_y)
            start, j = j, min(right, j + 1 + (int(min(free, 0.15) * size) if free > 0.0 else 0))
            if cover > 0.0:
                for k in range(start, j):
                    dx = (k + 0.5) * pixel - 0.5 - cx
                    nearness = 1.0 / (1.0 + tilt_x * dx + tilt_y * dy)
                    u = (wave_ux * dx + wave_uy * dy) * nearness + phase_u
                    v = (wave_vx * dx + wave_vy * dy) * nearness + phase_v
                    share = _texture(texture, sharpness, u, v)
                    row[k, 0] += cover * (r + share * dr - row[k, 0])
                    row[k, 1] += cover * (g + share * dg - row[k, 1])
                    row[k, 2] += cover * (b + share * db - row[k, 2])


@exact
def _expose(canvas, light, out):
    """canvas (S, S, 3) in [0, 1] under the light -> out, uint8."""
    size = canvas.shape[0]
    shade, waves, phase = light.shade, light.shade_waves, light.shade_phase
    slope_x, slope_y, salt = light.slope[0], light.slope[1], light.salt
    gains = 255.0 * light.contrast * light.gain
    base, grain = 255.0 * (0.5 - 0.5 * light.contrast) + 0.5, 255.0 * light.grain / 2097152.0  # grain of 21 random bits
    for i in range(size):
        y, row = (i + 0.5) / size - 0.5, canvas[i]
        for j in range(size):
            x = (j + 0.5) / size - 0.5
            level = 1.0 + slope_x * x + slope_y * y
            if shade > 0.0:
                level *= 1.0 - shade * _clip01(3.0 * _value_noise(waves * x + phase, waves * y + phase) - 1.0)
            bits = _hash64(j, i, salt)
            for c in range(3):
                noise = grain * (np.float64(np.int64(bits & np.uint64(0x1FFFFF))) - 1048576.0)
                bits >>= np.uint64(21)
                value = base + row[j, c] * level * gains[c] + noise
                out[i, j, c] = np.uint8(min(max(value, 0.0), 255.0))


@exact
def paint(layers, lights, size_px):
    """layers (n,) of LAYER, back to front, and lights (1,) of LIGHT -> the picture (size_px, size_px, 3) uint8."""
    canvas = np.zeros((size_px, size_px, 3), np.float32)
    for k in range(layers.shape[0]):
        _paint(canvas, layers[k])
    out = np.empty((size_px, size_px, 3), np.uint8)
    _expose(canvas, lights[0], out)
    return out
