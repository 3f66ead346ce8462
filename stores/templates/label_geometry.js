"use strict";
// Cameras, rays and points of the labelling page: mm, x right, y down, z forward, x_cam = R x_rig + t.
// A view is {k: [fx, fy, cx, cy] of its crop, R: nine numbers row by row, t: three}; integer pixels are centres.

function toCamera(view, p) {
  const R = view.R, t = view.t;
  return [0, 3, 6].map((r, i) => R[r] * p[0] + R[r + 1] * p[1] + R[r + 2] * p[2] + t[i]);
}

function toRig(view, q) {
  const R = view.R, d = [q[0] - view.t[0], q[1] - view.t[1], q[2] - view.t[2]];
  return [0, 1, 2].map((c) => R[c] * d[0] + R[c + 3] * d[1] + R[c + 6] * d[2]);
}

function project(view, p) {
  const q = toCamera(view, p), k = view.k;
  return [(q[0] / q[2]) * k[0] + k[2], (q[1] / q[2]) * k[1] + k[3], q[2]];
}

function unproject(view, u, v, z) {
  const k = view.k;
  return toRig(view, [((u - k[2]) / k[0]) * z, ((v - k[3]) / k[1]) * z, z]);
}

function distance(a, b) {
  return Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
}

// Solve the symmetric 3 x 3 system A x = b, A as [xx, xy, xz, yy, yz, zz] (Cramer).
function solve3(A, b) {
  const [a, d, e, f, g, h] = A;
  const c0 = f * h - g * g, c1 = e * g - d * h, c2 = d * g - e * f;
  const det = a * c0 + d * c1 + e * c2;
  if (!(Math.abs(det) > 1e-12)) return null;
  return [
    (c0 * b[0] + c1 * b[1] + c2 * b[2]) / det,
    (c1 * b[0] + (a * h - e * e) * b[1] + (d * e - a * g) * b[2]) / det,
    (c2 * b[0] + (d * e - a * g) * b[1] + (a * f - d * d) * b[2]) / det,
  ];
}

function accumulate(A, b, row, value) {
  A[0] += row[0] * row[0]; A[1] += row[0] * row[1]; A[2] += row[0] * row[2];
  A[3] += row[1] * row[1]; A[4] += row[1] * row[2]; A[5] += row[2] * row[2];
  for (let i = 0; i < 3; i++) b[i] += row[i] * value;
}

// The point whose projections come nearest to the marks [{view, u, v}], least squares of pixels: from the point
// nearest to the rays by Gauss-Newton with halved steps. Rays that say nothing of a direction (parallel ones)
// leave the point there where `start` has it.
function triangulate(marks, start) {
  let A = [1e-6, 0, 0, 1e-6, 0, 1e-6], b = start.map((x) => 1e-6 * x);
  for (const { view, u, v } of marks) {
    const near = unproject(view, u, v, 0), far = unproject(view, u, v, 1000);
    const n = distance(near, far), d = near.map((x, i) => (far[i] - x) / n);
    for (let i = 0; i < 3; i++) {
      const row = [0, 1, 2].map((j) => (i === j ? 1 : 0) - d[i] * d[j]);
      accumulate(A, b, row, row[0] * near[0] + row[1] * near[1] + row[2] * near[2]);
    }
  }
  let p = solve3(A, b) || start.slice();
  const cost = (x) => marks.reduce((sum, m) => {
    const q = project(m.view, x);
    return q[2] > 1 ? sum + (q[0] - m.u) ** 2 + (q[1] - m.v) ** 2 : Infinity;
  }, 0);
  if (!isFinite(cost(p))) p = start.slice();
  for (let round = 0, now = cost(p); round < 20; round++) {
    A = [1e-9, 0, 0, 1e-9, 0, 1e-9]; b = [0, 0, 0];
    for (const { view, u, v } of marks) {
      const q = toCamera(view, p), R = view.R, [fx, fy, cx, cy] = view.k;
      const ru = [0, 1, 2].map((c) => (fx / q[2]) * (R[c] - (q[0] / q[2]) * R[c + 6]));
      const rv = [0, 1, 2].map((c) => (fy / q[2]) * (R[c + 3] - (q[1] / q[2]) * R[c + 6]));
      accumulate(A, b, ru, u - ((q[0] / q[2]) * fx + cx));
      accumulate(A, b, rv, v - ((q[1] / q[2]) * fy + cy));
    }
    const step = solve3(A, b);
    if (!step) break;
    let share = 1, next = null;
    for (; share > 1e-3; share /= 2) {
      next = p.map((x, i) => x + share * step[i]);
      if (cost(next) < now) break;
    }
    if (share <= 1e-3) break;
    p = next; now = cost(p);
    if (Math.hypot(...step) < 1e-6) break;
  }
  return p;
}

// The rotation and shift that bring points `from` nearest to points `to` (Horn 1987: the quaternion is the
// eigenvector of the largest eigenvalue of a symmetric 4 x 4 matrix, here by Jacobi's rotations), and the
// scale where `scaled`. Gives a function that moves a point.
function alignment(from, to, weights, scaled) {
  const total = weights.reduce((a, w) => a + w, 0);
  const middle = (points) => [0, 1, 2].map((i) => points.reduce((s, p, n) => s + weights[n] * p[i], 0) / total);
  const a = middle(from), b = middle(to);
  const S = Array.from({ length: 9 }, () => 0);
  let na = 0, nb = 0;
  from.forEach((p, n) => {
    for (let i = 0; i < 3; i++) {
      na += weights[n] * (p[i] - a[i]) ** 2;
      nb += weights[n] * (to[n][i] - b[i]) ** 2;
      for (let j = 0; j < 3; j++) S[3 * i + j] += weights[n] * (p[i] - a[i]) * (to[n][j] - b[j]);
    }
  });
  const [xx, xy, xz, yx, yy, yz, zx, zy, zz] = S;
  const q = largestEigenvector([
    [xx + yy + zz, yz - zy, zx - xz, xy - yx],
    [yz - zy, xx - yy - zz, xy + yx, zx + xz],
    [zx - xz, xy + yx, yy - xx - zz, yz + zy],
    [xy - yx, zx + xz, yz + zy, zz - xx - yy],
  ]);
  const R = rotationOf(q), scale = scaled && na > 0 ? Math.sqrt(nb / na) : 1;
  return (p) => {
    const d = p.map((x, i) => x - a[i]);
    return [0, 3, 6].map((r, i) => scale * (R[r] * d[0] + R[r + 1] * d[1] + R[r + 2] * d[2]) + b[i]);
  };
}

function rotationOf([w, x, y, z]) {
  return [
    1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
    2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
    2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
  ];
}

function largestEigenvector(M) {
  const A = M.map((row) => row.slice()), n = 4;
  const V = A.map((_, i) => A.map((_, j) => (i === j ? 1 : 0)));
  for (let sweep = 0; sweep < 50; sweep++) {
    let off = 0;
    for (let i = 0; i < n; i++) for (let j = i + 1; j < n; j++) off += A[i][j] ** 2;
    if (off < 1e-24) break;
    for (let i = 0; i < n; i++) {
      for (let j = i + 1; j < n; j++) {
        if (A[i][j] === 0) continue;
        const theta = (A[j][j] - A[i][i]) / (2 * A[i][j]);
        const t = (theta >= 0 ? 1 : -1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
        const c = 1 / Math.sqrt(t * t + 1), s = t * c;
        for (let k = 0; k < n; k++) [A[k][i], A[k][j]] = [c * A[k][i] - s * A[k][j], s * A[k][i] + c * A[k][j]];
        for (let k = 0; k < n; k++) [A[i][k], A[j][k]] = [c * A[i][k] - s * A[j][k], s * A[i][k] + c * A[j][k]];
        for (let k = 0; k < n; k++) [V[k][i], V[k][j]] = [c * V[k][i] - s * V[k][j], s * V[k][i] + c * V[k][j]];
      }
    }
  }
  let best = 0;
  for (let i = 1; i < n; i++) if (A[i][i] > A[best][best]) best = i;
  return V.map((row) => row[best]);
}

function median(values) {
  const sorted = values.slice().sort((a, b) => a - b), n = sorted.length;
  return n ? (sorted[(n - 1) >> 1] + sorted[n >> 1]) / 2 : NaN;
}
