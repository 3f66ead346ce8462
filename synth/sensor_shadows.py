"""What a sensor's second centre, projector or imager, does not see.

As in `sensor_surfaces` all works on disparity, 0 = nothing, and on flat images with unsigned indices.
"""

from __future__ import annotations

import numpy as np

from ..stores import numba_cache as numba_cache  # before numba
from .sensor_noise import LANES
from .sensor_surfaces import frame_row

import numba as nb  # isort: skip


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _folds(flat):  # type: ignore[no-untyped-def]
    """(n + LANES,) not 0 where something begins, ends, or changes by more than 2/3 px from the pixel before."""
    out = np.zeros(flat.size + LANES, np.uint8)
    here, before, target = flat[1:], flat[:-1], out[1:]
    for i in range(here.size):
        d, e = here[i], before[i]
        target[i] = np.uint8((abs(d - e) > np.float32(0.66)) | ((d > 0) != (e > 0)))
    return out


@nb.njit(cache=True, nogil=True, error_model="numpy")
def unseen(disparity, at, n, side, folds, front, place, dark):  # type: ignore[no-untyped-def]
    """Mark in `dark` what the second centre, `side` × the baseline along x, does not see in one row's span.

    A z-buffer of its columns x − side d. Rounded to columns, a surface can hide another by more than 1.5 px of
    disparity only where the disparity changes by more than 2/3 from one pixel to the next: rows without such a
    fold are done at once, others only as far from it as the row's disparities reach.

    Args:
        disparity: px, 0 = nothing, all rows as one ...
        at: ... and where the row's span begins with something ...
        n: ... and how many pixels on it ends with something.
        side: 1.0 or −1.0.
        folds: of `_folds`.
        front: (n + greatest disparity + 8,) of any content, the buffer.
        place: (n,) int32 of any content.
        dark: (n,) float32, −1 where it is dark and 1 elsewhere; written where the result is true.

    Returns:
        whether anything may be dark.
    """
    begin = nb.uintp(at)
    fold_first, fold_last, before = n, -1, disparity[begin]
    for chunk in range(0, n, LANES):
        some, base = np.uint8(0), begin + nb.uintp(chunk)
        for i in range(LANES):
            some |= folds[base + nb.uintp(i)]
        if some == 0:
            continue
        for u in range(max(chunk, 1), min(chunk + LANES, n)):
            here = begin + nb.uintp(u)
            if folds[here] == 0:
                continue
            d, p = disparity[here], disparity[here - nb.uintp(1)]
            before = p if p > 0 else before  # a gap does not end the surface: what stands behind it may hide as well
            if d > 0 and (d - before) * side > np.float32(0.66):
                fold_first, fold_last = min(fold_first, u - 1), u
    if fold_last < 0:
        return False
    # Floats from 0 on are in the order of their bits, and least and greatest of integers are found by vectors.
    bits, least, most = disparity.view(np.int32), np.int32(0x7F7FFFFF), np.int32(0)
    for u in range(n):
        d_bits = bits[begin + nb.uintp(u)]
        most = d_bits if d_bits > most else most
        d_bits = d_bits if d_bits > 0 else np.int32(0x7F7FFFFF)
        least = d_bits if d_bits < least else least
    low, high = np.int32(least).view(np.float32), np.int32(most).view(np.float32)
    reach = int(high - low) + 2
    start, stop = max(fold_first - reach, 0), min(fold_last + reach, n - 1)
    # Columns from the leftmost that a pixel between start and stop can have.
    base = start - int(np.ceil(high)) - 1 if side > 0 else start + int(low) - 1
    for u in range(stop - start + reach + 4):
        front[u] = 0
    columns, part, shift = stop - start + 1, begin + nb.uintp(start), np.int32(start - base)
    for u in range(columns):
        column = np.int32(u) + shift - np.int32(np.floor(side * disparity[part + nb.uintp(u)] + np.float32(0.5)))
        place[u] = column if column > 0 else np.int32(0)  # less than 0 only where nothing is
    previous, previous_d = np.int32(-1), np.float32(0)
    for u in range(columns):
        d, column = disparity[part + nb.uintp(u)], place[u]
        if d <= 0:
            previous = np.int32(-1)
            continue
        front[nb.uintp(column)] = max(front[nb.uintp(column)], d)
        # Where a surface faces the second centre its pixels leave columns between them: those are seen too.
        if previous >= 0 and abs(column - previous) > 1 and abs(d - previous_d) < 4:
            for between in range(min(previous, column) + 1, max(previous, column)):
                front[between] = max(front[between], min(d, previous_d))
        previous, previous_d = column, d
    for u in range(n):
        dark[u] = 1
    first = nb.uintp(start)
    for u in range(columns):
        dark[first + nb.uintp(u)] = front[nb.uintp(place[u])]
    for u in range(columns):
        d, nearest = disparity[part + nb.uintp(u)], dark[first + nb.uintp(u)]
        # Two pixels of a slanted surface may share a column: they do not hide each other.
        hidden = (d > 0) & (nearest > d + np.float32(1.5))
        dark[first + nb.uintp(u)] = np.float32(-1) if hidden else np.float32(1)
    return True


@nb.njit(cache=True, nogil=True, error_model="numpy")
def mark_unseen(disparity, own, side, highest, frame, shadows):  # type: ignore[no-untyped-def]
    """(H + 2 frame, W + 2 frame + LANES) the disparity, minus it where the second centre does not see.

    The frame repeats the outermost pixels: what moves about at the border finds what is there. `own` is what
    `spans` gives for the disparity.
    """
    height, width = disparity.shape
    dark, place = np.empty(width, np.float32), np.empty(width, np.int32)
    front = np.empty(width + int(highest) + 8, np.float32)
    flat = disparity.reshape(-1)
    folds = _folds(flat) if shadows else np.zeros(1, np.uint8)
    stride = width + 2 * frame + LANES
    image = np.zeros((height + 2 * frame, stride), np.float32)
    out = image.reshape(-1)
    for v in range(height):
        first, n = own[0, v], own[1, v] + 1 - own[0, v]
        if n > 0:
            source, at = nb.uintp(v * width + first), (frame + v) * stride + frame
            target = nb.uintp(at + first)
            if shadows and unseen(flat, v * width + first, n, side, folds, front, place, dark):
                for u in range(n):
                    out[target + nb.uintp(u)] = flat[source + nb.uintp(u)] * dark[u]
            else:
                for u in range(n):
                    out[target + nb.uintp(u)] = flat[source + nb.uintp(u)]
            frame_row(out, at, width, frame)
    for v in range(frame):
        above, below = image[v], image[frame + height + v]
        first_row, last_row = image[frame], image[frame + height - 1]
        for u in range(above.size):
            above[u], below[u] = first_row[u], last_row[u]
    return image
