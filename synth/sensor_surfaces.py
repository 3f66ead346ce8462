"""Geometry of the sensor kernels: edges, angles of incidence, grown foregrounds, what a second centre does not see.

All works on disparity (or anything else that is proportional to 1/z), 0 = nothing: over the image of a plane it
is affine. Loops run from 0 over slices, for only then does the compiler know that no index is negative and
uses vectors; that is worth a factor of three.
"""

from __future__ import annotations

import numpy as np

from ..stores import numba_cache as numba_cache  # before numba

import numba as nb  # isort: skip


@nb.njit(cache=True, nogil=True, error_model="numpy")
def spans(image, reach):  # type: ignore[no-untyped-def]
    """(2, H) first and last column within `reach` pixels, each way, of what is above 0; W and −1 in empty rows."""
    height, width = image.shape
    own, out = np.empty((2, height), np.int64), np.empty((2, height), np.int64)
    for v in range(height):
        first, last = 0, width - 1
        while first < width and image[v, first] <= 0:
            first += 1
        while last >= first and image[v, last] <= 0:
            last -= 1
        own[0, v], own[1, v] = first, last if first < width else -1
    for v in range(height):
        first, last = width, -1
        for other in range(max(v - reach, 0), min(v + reach + 1, height)):
            first, last = min(first, own[0, other]), max(last, own[1, other])
        out[0, v], out[1, v] = (max(first - reach, 0), min(last + reach, width - 1)) if last >= 0 else (width, -1)
    return out


@nb.njit(cache=True, nogil=True, error_model="numpy")
def inverted(depth, scale, out):  # type: ignore[no-untyped-def]
    """Fill `out` (n,) with scale / depth, 0 where depth is; the greatest of it."""
    for i in range(out.size):
        z = depth[i]
        out[i] = scale / z if z > 0 else np.float32(0)
    # Floats from 0 on are in the order of their bits, and the greatest of integers is found by vectors.
    bits, greatest = out.view(np.int32), np.zeros(1, np.int32)
    for i in range(bits.size):
        greatest[0] = max(greatest[0], bits[i])
    return greatest.view(np.float32)[0]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def frame_row(row, columns):  # type: ignore[no-untyped-def]
    """Copy the outermost values inside a row's margins of so many columns into them."""
    last = row.size - columns - 1
    for i in range(columns):
        row[i], row[last + 1 + i] = row[columns], row[last]


@nb.njit(cache=True, inline="always")
def _alike(one, other):  # type: ignore[no-untyped-def]
    """Whether two steps are of one steep surface: the same way, neither more than twice the other."""
    return (one * other > 0) & (abs(one) < np.float32(2) * abs(other)) & (abs(other) < np.float32(2) * abs(one))


@nb.njit(cache=True, nogil=True, error_model="numpy")
def incidence(inverse, row, first, span, edge_share, k, left, top, out):  # type: ignore[no-untyped-def]
    """Fill `out` (n,) with 1/cos of the angle of incidence, from column `first` of a row on.

    Negative where an edge is beside the pixel; of nothing, −1 where something is and 0 elsewhere.

    Args:
        inverse: (H, W + 2 span) proportional to 1/z, padded.
        row: of it.
        first: column without the padding.
        span: pixels on each side over which the slope is taken, the smaller of both sides'.
        edge_share: a relative change over `span` that makes an edge, unless the other side goes on like it.
        k: fx, fy, cx, cy of the full frame, float32.
        left: column of the image in the full frame ...
        top: ... and row.
        out: float32.
    """
    n = out.size
    height = inverse.shape[0]
    here = inverse[row, span + first : span + first + n]
    before, after = inverse[row, first : first + n], inverse[row, 2 * span + first : 2 * span + first + n]
    above = inverse[max(row - span, 0), span + first : span + first + n]
    below = inverse[min(row + span, height - 1), span + first : span + first + n]
    fx, fy, per_px = k[0], k[1], np.float32(1) / np.float32(span)
    a0, b = np.float32(left + first) - k[2], np.float32(top + row) - k[3]
    ry = b / fy
    for u in range(n):
        d = here[u]
        edge = edge_share * d
        back, ahead = d - before[u], after[u] - d
        ramp = (before[u] > 0) & (after[u] > 0) & _alike(back, ahead)
        back_edge = (before[u] <= 0) | ((abs(back) > edge) & (not ramp))
        ahead_edge = (after[u] <= 0) | ((abs(ahead) > edge) & (not ramp))
        back = np.float32(0) if back_edge else back
        ahead = np.float32(0) if ahead_edge else ahead
        du = ahead if (abs(ahead) < abs(back)) != (back_edge | ahead_edge) else back
        up, down = d - above[u], below[u] - d
        ramp = (above[u] > 0) & (below[u] > 0) & _alike(up, down)
        up_edge = (above[u] <= 0) | ((abs(up) > edge) & (not ramp))
        down_edge = (below[u] <= 0) | ((abs(down) > edge) & (not ramp))
        up = np.float32(0) if up_edge else up
        down = np.float32(0) if down_edge else down
        dv = down if (abs(down) < abs(up)) != (up_edge | down_edge) else up
        du, dv = du * per_px, dv * per_px
        # The normal is (fx du, fy dv, d − (u − cx) du − (v − cy) dv); its product with the ray is just d.
        a = a0 + np.float32(u)
        nx, ny, nz = fx * du, fy * dv, d - a * du - b * dv
        rx = a / fx
        secant = np.sqrt((nx * nx + ny * ny + nz * nz) * (rx * rx + ry * ry + np.float32(1))) / d
        seen = (before[u] > 0) | (after[u] > 0) | (above[u] > 0) | (below[u] > 0)
        nothing = np.float32(-1) if seen else np.float32(0)
        secant = -secant if back_edge | ahead_edge | up_edge | down_edge else secant
        out[u] = secant if d > 0 else nothing


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _greatest(one, two, three, out):  # type: ignore[no-untyped-def]
    """Fill `out` (n,) with the greatest of three; a function of its own, for only so the loop becomes vectors."""
    for i in range(out.size):
        a, b, c = one[i], two[i], three[i]
        a = a if a > b else b
        out[i] = a if a > c else c


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _step_over(one, two, three, own, edge_share):  # type: ignore[no-untyped-def]
    """Replace `own` (n,) by the greatest of three where that lies across an edge."""
    for i in range(own.size):
        a, b, c, d = one[i], two[i], three[i], own[i]
        a = a if a > b else b
        a = a if a > c else c
        own[i] = a if a - d > edge_share * a else d


@nb.njit(cache=True, nogil=True, error_model="numpy")
def grown(disparity, radius, edge_share):  # type: ignore[no-untyped-def]
    """(H, W) with what is nearer grown by `radius` pixels over what is farther, or nothing, behind an edge.

    Pixel by pixel, so that what grows goes on with the depth of its rim and a slope stays as it is.
    """
    height, width = disparity.shape
    if radius == 0:
        return disparity
    stride = width + 2
    framed = np.zeros((height + 2, stride), np.float32)
    for v in range(height):
        source, target = disparity[v], framed[1 + v, 1:]
        for u in range(width):
            target[u] = source[u]
    # All rows as one: a step down is a step of the stride, and the frame keeps a row's end from the next row's begin.
    have, across = framed.reshape(-1), np.zeros(framed.size, np.float32)
    n = have.size - 2
    for _ in range(radius):
        _greatest(have[:n], have[1:], have[2:], across[1 : 1 + n])
        own = have[stride : have.size - stride]
        _step_over(across, across[stride:], across[2 * stride :], own, edge_share)
        for v in range(height + 2):
            framed[v, 0], framed[v, stride - 1] = 0, 0
    out = np.empty((height, width), np.float32)
    for v in range(height):
        source, target = framed[1 + v, 1:], out[v]
        for u in range(width):
            target[u] = source[u]
    return out


@nb.njit(cache=True, nogil=True, error_model="numpy")
def unseen(disparity, side, first, last, front, dark):  # type: ignore[no-untyped-def]
    """Mark in `dark` what the second centre, `side` × the baseline along x, does not see in one row.

    A z-buffer of its columns x − side d. Rounded to columns, a surface can hide another by more than 1.5 px of
    disparity only where the disparity changes by more than 2/3 from one pixel to the next: rows without such a
    fold are done at once, others only as far from it as the row's disparities reach.

    Args:
        disparity: (W,) px, 0 = nothing.
        side: 1.0 or −1.0.
        first: the first column of the row that is not empty ...
        last: ... and the last.
        front: (W + greatest disparity + 8,) of any content, the buffer.
        dark: (W,) bool, written from `first` to `last`.
    """
    low, high = np.float32(3.4e38), np.float32(0)
    fold_first, fold_last = last + 1, -1
    before = disparity[first]
    for u in range(first, last + 1):
        d = disparity[u]
        dark[u] = False
        if d > 0:
            low, high = min(low, d), max(high, d)
            if (d - before) * side > np.float32(0.66):
                fold_first, fold_last = min(fold_first, u - 1), u
            before = d  # a gap does not end the surface: what stands behind it may hide as well
    if fold_last < 0:
        return
    reach = int(high - low) + 2
    start, stop = max(fold_first - reach, first), min(fold_last + reach, last)
    # Columns from the leftmost that a pixel between start and stop can have.
    base = start - int(np.ceil(high)) - 1 if side > 0 else start + int(low) - 1
    for column in range(stop - start + reach + 4):
        front[column] = 0
    previous, previous_d = -1, np.float32(0)
    for u in range(start, stop + 1):
        d = disparity[u]
        if d <= 0:
            previous = -1
            continue
        column = u - int(np.floor(side * d + np.float32(0.5))) - base
        front[column] = max(front[column], d)
        # Where a surface faces the second centre its pixels leave columns between them: those are seen too.
        if previous >= 0 and abs(d - previous_d) < 4:
            for between in range(min(previous, column) + 1, max(previous, column)):
                front[between] = max(front[between], min(d, previous_d))
        previous, previous_d = column, d
    for u in range(start, stop + 1):
        d = disparity[u]
        if d > 0:
            column = u - int(np.floor(side * d + np.float32(0.5))) - base
            # Two pixels of a slanted surface may share a column: they do not hide each other.
            dark[u] = front[column] > d + np.float32(1.5)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def mark_unseen(disparity, side, highest, frame, shadows):  # type: ignore[no-untyped-def]
    """(H + 2 frame, W + 2 frame) the disparity, minus it where the second centre does not see.

    The frame repeats the outermost pixels: what moves about at the border finds what is there.
    """
    height, width = disparity.shape
    reach = spans(disparity, 0)
    dark = np.zeros(width, np.bool_)
    front = np.empty(width + int(highest) + 8, np.float32)
    out = np.zeros((height + 2 * frame, width + 2 * frame), np.float32)
    for v in range(height):
        first, n = reach[0, v], reach[1, v] - reach[0, v] + 1
        if n > 0:
            if shadows:
                unseen(disparity[v], side, first, reach[1, v], front, dark)
            source, hidden, target = disparity[v, first:], dark[first:], out[frame + v, frame + first :]
            for u in range(n):
                target[u] = -source[u] if hidden[u] else source[u]
            frame_row(out[frame + v], frame)
    for v in range(frame):
        above, below = out[v], out[frame + height + v]
        first_row, last_row = out[frame], out[frame + height - 1]
        for u in range(above.size):
            above[u], below[u] = first_row[u], last_row[u]
    return out


@nb.njit(cache=True, nogil=True, error_model="numpy")
def jump(marked, row, first, frame, move_u, move_v, sigma_px, edge_share, out):  # type: ignore[no-untyped-def]
    """Fill `out` (n,) with disparities of a row from column `first` on; near an edge those from across it.

    Args:
        marked: of `mark_unseen`, with a frame of so many pixels.
        row: without the frame.
        first: column, likewise.
        frame: greatest movement, px.
        move_u: (n,) movement along the row, standard deviations ...
        move_v: ... and down.
        sigma_px: what they are multiplied by.
        edge_share: a relative change of disparity that makes an edge; on one surface nothing moves, for that
            would only add noise to a slope.
        out: float32; 0 where what is found is not seen.
    """
    stride = np.int32(marked.shape[1])
    base = np.int32((row + frame) * marked.shape[1] + first + frame)
    flat, limit = marked.reshape(-1), np.float32(frame)
    here = flat[base:]
    for u in range(out.size):
        du, dv = np.rint(sigma_px * move_u[u]), np.rint(sigma_px * move_v[u])
        du = limit if du > limit else du
        dv = limit if dv > limit else dv
        du = -limit if du < -limit else du
        dv = -limit if dv < -limit else dv
        own, moved = here[u], flat[np.uint32(base + np.int32(u) + np.int32(du) + np.int32(dv) * stride)]
        d, e = abs(own), abs(moved)
        pick = moved if abs(d - e) > edge_share * (d if d > e else e) else own
        out[u] = pick if pick > 0 else np.float32(0)
