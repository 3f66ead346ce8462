// The crops: bytes to millimetres, millimetres to a picture in which fingers show.

const BEYOND = 1; // a return outside the hand's cube: it is shown dimly and tells no depth

// Depth (mm, 0 = no return) of a view's text: base64 of zlib of two planes, low bytes then high bytes, of the
// differences along each row (label_page.py writes it).
async function decodeDepth(view) {
  const packed = Uint8Array.from(atob(view.depth), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const count = view.w * view.h, depth = new Uint16Array(count);
  for (let row = 0, at = 0; row < view.h; row++) {
    for (let column = 0, value = 0; column < view.w; column++, at++) {
      value = (value + planes[at] + 256 * planes[count + at]) & 0xffff;
      depth[at] = value;
    }
  }
  return depth;
}

// The nearest surface around a pixel, mm, or 0: a click at a finger's rim means the finger.
function surfaceAt(depth, view, u, v) {
  const column = Math.round(u), row = Math.round(v);
  let best = 0;
  for (let y = row - 1; y <= row + 1; y++) {
    for (let x = column - 1; x <= column + 1; x++) {
      if (x < 0 || y < 0 || x >= view.w || y >= view.h) continue;
      const z = depth[y * view.w + x];
      if (z > BEYOND && (!best || z < best)) best = z;
    }
  }
  return best;
}

// The picture, as a canvas: bright where near within `span` mm about the hand, and lit from the upper left.
function shaded(depth, view, span, relief) {
  const { w, h, k } = view, image = new ImageData(w, h), out = image.data;
  const smooth = new Float32Array(w * h);
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      const middle = depth[y * w + x];
      if (middle <= BEYOND) continue;
      let sum = 0, n = 0;
      for (let b = Math.max(0, y - 1); b <= Math.min(h - 1, y + 1); b++) {
        for (let a = Math.max(0, x - 1); a <= Math.min(w - 1, x + 1); a++) {
          const z = depth[b * w + a];
          if (z > BEYOND && Math.abs(z - middle) < 12) { sum += z; n++; }
        }
      }
      smooth[y * w + x] = sum / n;
    }
  }
  const near = view.z - span / 2;
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      const i = y * w + x, z = smooth[i];
      let value = depth[i] === BEYOND ? 34 : 14;
      if (z) {
        const ramp = 1 - Math.min(1, Math.max(0, (z - near) / span));
        value = 52 + 190 * ramp;
        if (relief) {
          const slope = (a, b) => (a && b && Math.abs(a - b) < 40 ? (b - a) / 2 : 0);
          const mm = z / k[0]; // of a pixel
          const gx = slope(x ? smooth[i - 1] : 0, x < w - 1 ? smooth[i + 1] : 0) / mm;
          const gy = slope(y ? smooth[i - w] : 0, y < h - 1 ? smooth[i + w] : 0) / mm;
          const light = (0.45 * gx + 0.55 * gy + 0.7) / Math.sqrt(gx * gx + gy * gy + 1);
          value = 40 + 110 * ramp + 95 * Math.min(1, Math.max(0, light));
        }
      }
      out[4 * i] = 0.93 * value; out[4 * i + 1] = 0.97 * value; out[4 * i + 2] = Math.min(255, 1.04 * value + 4);
      out[4 * i + 3] = 255;
    }
  }
  const canvas = document.createElement("canvas");
  canvas.width = w; canvas.height = h;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
