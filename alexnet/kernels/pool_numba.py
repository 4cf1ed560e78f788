"""Max pooling and its gradients as compiled loops; see pool.py.

Arrays are flat, (N, H, W, C). Every pixel collects from the windows it lies in, up to ceil(size / stride)^2 of them, so
rows are independent; it is summed in float32 and written once. `gradient` is 2012's, `gradient_at_places` PyTorch's.
"""

import numpy as np

from alexnet.kernels.compiled import narrow, njit, widen

ZERO, LEAST = np.float32(0), np.float32(-np.inf)


@njit
def gradient(x, y, g, dx, first, last, height, width, channels, out_height, out_width, size, stride):
    """Rows [first, last) of N * height."""
    total, pixel = np.zeros(channels, np.float32), np.zeros(channels, np.float32)
    maxima, gradients = np.zeros(channels, np.float32), np.zeros(channels, np.float32)
    for row in range(first, last):
        image, i = row // height, row % height
        first_i, last_i = max(0, (i - size + stride) // stride), min(out_height - 1, i // stride)
        for j in range(width):
            at = (row * width + j) * channels
            _widen(x[at : at + channels], pixel)
            total[:] = ZERO
            first_j, last_j = max(0, (j - size + stride) // stride), min(out_width - 1, j // stride)
            for out_i in range(first_i, last_i + 1):
                for out_j in range(first_j, last_j + 1):
                    window = ((image * out_height + out_i) * out_width + out_j) * channels
                    _widen(y[window : window + channels], maxima)
                    _widen(g[window : window + channels], gradients)
                    for c in range(channels):
                        total[c] += gradients[c] if pixel[c] == maxima[c] else ZERO
            _put(dx[at : at + channels], total)


@njit
def _widen(values, wide):
    for c in range(len(wide)):
        wide[c] = widen(values[c])


@njit
def _put(values, wide):
    for c in range(len(wide)):
        values[c] = narrow(wide[c], values[c])


@njit
def max_pool(x, y, places, first, last, height, width, channels, out_height, out_width, size, stride, rectified):
    """Rows [first, last) of N * out_height: y, and places int16: which pixel of its map the first maximum is. Where
    `rectified`, by ReLU, a 0 in place of what is not positive has place -1, which is none.
    """
    best, place = np.empty(channels, np.float32), np.empty(channels, np.int32)
    for row in range(first, last):
        image, top = row // out_height, row % out_height * stride
        for out_j in range(out_width):
            left = out_j * stride
            best[:] = ZERO if rectified else LEAST
            place[:] = -1 if rectified else top * width + left
            for i in range(top, min(top + size, height)):
                for j in range(left, min(left + size, width)):
                    here, at = np.int32(i * width + j), np.uintp(((image * height + i) * width + j) * channels)
                    for c in range(np.uintp(channels)):
                        value = widen(x[at + c])
                        larger = (value > best[c]) | (value != value)  # or not a number, as in PyTorch
                        best[c] = value if larger else best[c]
                        place[c] = here if larger else place[c]
            at = np.uintp((row * out_width + out_j) * channels)
            for c in range(np.uintp(channels)):
                y[at + c] = narrow(best[c], y[at + c])
            for c in range(np.uintp(channels)):
                places[at + c] = np.int16(place[c])


@njit
def gradient_at_places(places, g, dx, first, last, height, width, channels, out_height, out_width, size, stride):
    """Rows [first, last) of N * height; places int16: which pixel of its map each window's maximum is."""
    total = np.zeros(channels, np.float32)
    for row in range(first, last):
        image, i = row // height, row % height
        first_i, last_i = max(0, (i - size + stride) // stride), min(out_height - 1, i // stride)
        for j in range(width):
            total[:] = ZERO
            here = np.int16(i * width + j)
            first_j, last_j = max(0, (j - size + stride) // stride), min(out_width - 1, j // stride)
            for out_i in range(first_i, last_i + 1):
                for out_j in range(first_j, last_j + 1):
                    window = np.uintp(((image * out_height + out_i) * out_width + out_j) * channels)
                    for c in range(np.uintp(channels)):
                        value = widen(g[window + c])
                        total[c] += value if places[window + c] == here else ZERO
            at = np.uintp((row * width + j) * channels)
            for c in range(np.uintp(channels)):
                dx[at + c] = narrow(total[c], dx[at + c])
