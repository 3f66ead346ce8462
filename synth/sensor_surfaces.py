"""Geometry of the sensor kernels: edges, angles of incidence, grown foregrounds.

All works on disparity (or anything else that is proportional to 1/z), 0 = nothing: over the image of a plane it
is affine. What a loop does to a pixel has no branch, and rows are given as flat images and where to begin, as an
unsigned index: only then does the compiler know that no index is negative and uses vectors, worth a factor of three,
and slices of rows, which are counted, cost more than short passes: without them interpolation took a fifth.
"""

from __future__ import annotations

import numpy as np

from ..stores import numba_cache as numba_cache  # before numba
from .sensor_noise import LANES

import numba as nb  # isort: skip


@nb.njit(cache=True, nogil=True, error_model="numpy")
def reserve(pixels):  # type: ignore[no-untyped-def]
    """Ask for as much memory as a model's buffers take for so many pixels together, and give it back untouched.

    glibc returns the end of its heap to the system when twice its largest block so far lies free there: buffers
    that are freed together, each a fraction of that, would come anew, page by page, for every image, 75 µs of 225.
    """
    room = np.empty(8 * pixels, np.float32)
    return room.size


@nb.njit(cache=True, nogil=True, error_model="numpy")
def spans(image):  # type: ignore[no-untyped-def]
    """(2, H) first and last column of what is above 0; W and −1 in empty rows."""
    height, width = image.shape
    flat, out = image.reshape(-1), np.empty((2, height), np.int64)
    for v in range(height):
        base, first, last = nb.uintp(v * width), np.int32(width), np.int32(-1)
        # All of the row, for this is done by vectors: faster than to look from both ends.
        for u in range(width):
            there = flat[base + nb.uintp(u)] > 0
            one, other = np.int32(u) if there else np.int32(width), np.int32(u) if there else np.int32(-1)
            first, last = one if one < first else first, other if other > last else last
        out[0, v], out[1, v] = first, last
    return out


@nb.njit(cache=True, nogil=True, error_model="numpy")
def widened(own, reach, width):  # type: ignore[no-untyped-def]
    """(3, H) first and last column within `reach` pixels, each way, of `spans`; pixels from one to the other.

    The number is rounded up to whole `LANES`: passes run into what buffers keep beyond their width.
    """
    height = own.shape[1]
    out = np.empty((3, height), np.int64)
    for v in range(height):
        first, last = width, -1
        for other in range(max(v - reach, 0), min(v + reach + 1, height)):
            first, last = min(first, own[0, other]), max(last, own[1, other])
        first, last = (max(first - reach, 0), min(last + reach, width - 1)) if last >= 0 else (width, -1)
        out[0, v], out[1, v] = first, last
        out[2, v] = (last - first + LANES) // LANES * LANES if last >= 0 else 0
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
def frame_row(flat, at, width, columns):  # type: ignore[no-untyped-def]
    """Copy the outermost values of a row, `width` from index `at` on, into so many columns on both sides."""
    for i in range(columns):
        flat[at - 1 - i], flat[at + width + i] = flat[at], flat[at + width - 1]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def incidence(inverse, row, first, n, span, edge_share, k, left, top, out):  # type: ignore[no-untyped-def]
    """Fill `out` (n,) with 1/cos of the angle of incidence, from column `first` of a row on.

    Negative where an edge is beside the pixel; of nothing, −1 where something is and 0 elsewhere.

    Args:
        inverse: (H, at least W + 2 span) proportional to 1/z, padded.
        row: of it.
        first: column without the padding ...
        n: ... and number of columns.
        span: pixels on each side over which the slope is taken, the smaller of both sides'.
        edge_share: a relative change over `span` that makes an edge, unless the other side goes on like it.
        k: fx, fy, cx, cy of the full frame, float32.
        left: column of the image in the full frame ...
        top: ... and row.
        out: float32.
    """
    height, stride = inverse.shape
    flat, at = inverse.reshape(-1), span + first
    here, above = nb.uintp(row * stride + at), nb.uintp(max(row - span, 0) * stride + at)
    before, after = here - nb.uintp(span), here + nb.uintp(span)
    below = nb.uintp(min(row + span, height - 1) * stride + at)
    per_px, none = np.float32(1) / np.float32(span), np.float32(0)
    fx, fy, a0, b = k[0] * per_px, k[1] * per_px, np.float32(left + first) - k[2], np.float32(top + row) - k[3]
    per_fx, a1, b1 = np.float32(1) / k[0], a0 * per_px, b * per_px
    ry2 = b / k[1] * (b / k[1]) + np.float32(1)
    # With less than 1 a neighbour that is nothing always makes an edge.
    share = edge_share if edge_share < np.float32(0.999) else np.float32(0.999)
    for u in range(n):
        i = nb.uintp(u)
        d, p, q, r, s = flat[here + i], flat[before + i], flat[after + i], flat[above + i], flat[below + i]
        edge = share * d
        # Of two steps the smaller is the slope: a step over an edge is the larger one, unless both are.
        back, ahead = d - p, q - d
        size, other = abs(back), abs(ahead)
        du, least, most = (ahead, other, size) if other < size else (back, size, other)
        # A ramp is one steep surface: both steps the same way, neither more than twice the other.
        smooth = (abs(back - ahead) < least) & (p > 0) & (q > 0)
        du = none if (least > edge) & (not smooth) else du
        sharp = (most > edge) & (not smooth)
        up, down = d - r, s - d
        size, other = abs(up), abs(down)
        dv, least, most = (down, other, size) if other < size else (up, size, other)
        smooth = (abs(up - down) < least) & (r > 0) & (s > 0)
        dv = none if (least > edge) & (not smooth) else dv
        sharp = sharp | ((most > edge) & (not smooth))
        # The normal is (fx du, fy dv, d − (u − cx) du − (v − cy) dv); its product with the ray is just d.
        column = np.float32(u)
        nx, ny, nz = fx * du, fy * dv, d - (a1 + column * per_px) * du - b1 * dv
        rx = (a0 + column) * per_fx
        secant = np.sqrt((nx * nx + ny * ny + nz * nz) * (rx * rx + ry2)) / d
        seen = (p > 0) | (q > 0) | (r > 0) | (s > 0)
        nothing = np.float32(-1) if seen else none
        secant = -secant if sharp else secant
        out[u] = secant if d > 0 else nothing


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _grow_row(have, at, n, stride, edge_share, out):  # type: ignore[no-untyped-def]
    """Write to `out` `n` values from index `at` on, or the greatest of those around where that is an edge off."""
    one, here = nb.uintp(1), nb.uintp(at)
    above, below = here - nb.uintp(stride), here + nb.uintp(stride)
    above_left, left, below_left = above - one, here - one, below - one
    above_right, right, below_right = above + one, here + one, below + one
    for u in range(n):
        i = nb.uintp(u)
        own = have[here + i]
        a, b, c = have[above_left + i], have[above + i], have[above_right + i]
        d, e = have[left + i], have[right + i]
        f, g, h = have[below_left + i], have[below + i], have[below_right + i]
        a, c, d, f = a if a > b else b, c if c > own else own, d if d > e else e, f if f > g else g
        a, d = a if a > c else c, d if d > f else f
        a = a if a > d else d
        a = a if a > h else h
        out[here + i] = a if a - own > edge_share * a else own


@nb.njit(cache=True, nogil=True, error_model="numpy")
def grown(disparity, radius, edge_share):  # type: ignore[no-untyped-def]
    """(H, W) with what is nearer grown by `radius` pixels over what is farther, or nothing, behind an edge.

    Pixel by pixel, so that what grows goes on with the depth of its rim and a slope stays as it is.
    """
    height, width = disparity.shape
    if radius == 0:
        return disparity
    own = spans(disparity)
    reach = widened(own, radius, width)
    # Nothing lies around it, and before a row's first pixel stands what is kept beyond the row before.
    stride = width + LANES + 2
    flat, have = disparity.reshape(-1), np.zeros((height + 2) * stride + 1, np.float32)
    for v in range(height):
        source, target = nb.uintp(v * width + own[0, v]), nb.uintp((1 + v) * stride + 1 + own[0, v])
        for u in range(own[1, v] + 1 - own[0, v]):
            have[target + nb.uintp(u)] = flat[source + nb.uintp(u)]
    spare = np.zeros(have.size, np.float32)
    for _ in range(radius):
        for v in range(height):
            if reach[2, v] > 0:
                _grow_row(have, (1 + v) * stride + 1 + reach[0, v], reach[2, v], stride, edge_share, spare)
                spare[(1 + v) * stride + 1 + width] = 0
        have, spare = spare, have
    image = np.zeros((height, width), np.float32)
    out = image.reshape(-1)
    for v in range(height):
        source, target = nb.uintp((1 + v) * stride + 1 + reach[0, v]), nb.uintp(v * width + reach[0, v])
        for u in range(reach[1, v] + 1 - reach[0, v]):
            out[target + nb.uintp(u)] = have[source + nb.uintp(u)]
    return image


@nb.njit(cache=True, nogil=True, error_model="numpy")
def movements(move_u, move_v, n, sigma_px, limit, stride, out):  # type: ignore[no-untyped-def]
    """Fill `out` (n,) int32 with steps in an image of rows of `stride`, for movements in standard deviations."""
    most, stride = np.float32(limit), np.int32(stride)
    for u in range(n):
        du, dv = np.rint(sigma_px * move_u[u]), np.rint(sigma_px * move_v[u])
        du = most if du > most else du
        dv = most if dv > most else dv
        du = -most if du < -most else du
        dv = -most if dv < -most else dv
        out[u] = np.int32(du) + np.int32(dv) * stride


@nb.njit(cache=True, nogil=True, error_model="numpy")
def jump(marked, row, first, n, frame, steps, edge_share, out, at):  # type: ignore[no-untyped-def]
    """Fill `out` from `at` on with `n` disparities of a row from column `first` on; at an edge those from across it.

    Args:
        marked: of `mark_unseen`, with a frame of so many pixels.
        row: without the frame.
        first: column, likewise.
        n: of columns.
        frame: greatest movement, px.
        steps: (n,) of `movements`.
        edge_share: a relative change of disparity that makes an edge; on one surface nothing moves, for that
            would only add noise to a slope.
        out: float32; 0 where what is found is not seen.
        at: index in it.
    """
    base = (row + frame) * marked.shape[1] + first + frame
    flat = marked.reshape(-1)
    here, begin, target = nb.uintp(base), np.uint32(base), nb.uintp(at)
    for u in range(n):
        out[target + nb.uintp(u)] = flat[np.uint32(begin + np.uint32(u) + np.uint32(steps[u]))]
    for u in range(n):
        i = nb.uintp(u)
        own, moved = flat[here + i], out[target + i]
        d, e = abs(own), abs(moved)
        pick = moved if abs(d - e) > edge_share * (d if d > e else e) else own
        out[target + i] = pick if pick > 0 else np.float32(0)
