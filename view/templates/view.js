"use strict";
// The page of `handloom view`: frames decoded as they are needed, images and space drawn on plain canvases.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { cameras, frames } = data;
  const element = (id) => document.getElementById(id);
  const slider = element("at");
  const shown = (layer) => { const box = element("show-" + layer); return !!box && box.checked; };
  const lut = bytes(data.lut);
  let at = 0;
  let playing = 0;

  // -- depth ---------------------------------------------------------------------------------------------------------

  function bytes(text) {
    const raw = atob(text);
    const out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out;
  }

  // Rows of differences, low bytes before high ones, deflated: view/page.py, packed().
  async function unpack(view) {
    const stream = new Blob([bytes(view.depth)]).stream().pipeThrough(new DecompressionStream("deflate"));
    const planes = new Uint8Array(await new Response(stream).arrayBuffer());
    const count = view.w * view.h;
    const depth = new Uint16Array(count);
    for (let i = 0; i < count; i++) {
      const difference = planes[i] | (planes[count + i] << 8);
      depth[i] = i % view.w ? depth[i - 1] + difference : difference;
    }
    return depth;
  }

  const decoded = new Map(); // the last frames looked at
  function depths(index) {
    if (!decoded.has(index)) {
      decoded.set(index, Promise.all(frames[index].views.map((view) => view && unpack(view))));
      if (decoded.size > 24) decoded.delete(decoded.keys().next().value);
    }
    return decoded.get(index);
  }

  function picture(view, depth) {
    const image = new ImageData(view.w, view.h);
    const span = view.far - view.near;
    for (let i = 0; i < depth.length; i++) {
      if (!depth[i]) continue; // transparent: the canvas' own ground is hatched
      const c = 3 * Math.round(255 * Math.min(1, Math.max(0, (view.far - depth[i]) / span)));
      image.data.set([lut[c], lut[c + 1], lut[c + 2], 255], 4 * i);
    }
    const canvas = document.createElement("canvas");
    canvas.width = view.w;
    canvas.height = view.h;
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  // -- geometry: x_cam = R x_rig + t, u = fx x / z + cx --------------------------------------------------------------

  const toCamera = (c, [x, y, z]) => [
    c.r[0] * x + c.r[1] * y + c.r[2] * z + c.t[0],
    c.r[3] * x + c.r[4] * y + c.r[5] * z + c.t[1],
    c.r[6] * x + c.r[7] * y + c.r[8] * z + c.t[2],
  ];
  const toRig = (c, [x, y, z]) => {
    const [a, b, d] = [x - c.t[0], y - c.t[1], z - c.t[2]];
    return [
      c.r[0] * a + c.r[3] * b + c.r[6] * d,
      c.r[1] * a + c.r[4] * b + c.r[7] * d,
      c.r[2] * a + c.r[5] * b + c.r[8] * d,
    ];
  };
  const CORNERS = [0, 1, 2, 3, 4, 5, 6, 7].map((i) => [i & 1 ? 0.5 : -0.5, i & 2 ? 0.5 : -0.5, i & 4 ? 0.5 : -0.5]);
  const EDGES = [[0, 1], [0, 2], [0, 4], [1, 3], [1, 5], [2, 3], [2, 6], [3, 7], [4, 5], [4, 6], [5, 7], [6, 7]];
  const cube = (view) => CORNERS.map((corner) => corner.map((side, i) => view.center[i] + side * data.window));

  function fit(canvas, ratio) {
    const scale = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(canvas.clientWidth * scale));
    const height = Math.max(1, Math.round(ratio ? width * ratio : canvas.clientHeight * scale));
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    return scale;
  }

  // Bones from far to near, each with a rim; `place` gives [x, y, z] on the canvas, or null.
  function skeleton(context, layout, joints, place, { dashed, width }) {
    const points = joints.map((joint) => joint && place(joint));
    const bones = layout.edges.filter(([a, b]) => points[a] && points[b]);
    bones.sort((m, n) => points[n[0]][2] + points[n[1]][2] - points[m[0]][2] - points[m[1]][2]);
    context.lineCap = "round";
    for (const [a, b] of bones) {
      context.beginPath();
      context.moveTo(points[a][0], points[a][1]);
      context.lineTo(points[b][0], points[b][1]);
      context.setLineDash([]);
      context.lineWidth = width + (dashed ? 1.2 : 2.2);
      context.strokeStyle = dashed ? "rgba(255,255,255,.85)" : "rgba(10,12,16,.8)";
      context.stroke();
      context.lineWidth = width;
      if (dashed) {
        context.strokeStyle = "#14171c";
        context.stroke();
        context.setLineDash([2.2 * width, 2.2 * width]);
      }
      context.strokeStyle = layout.colors[b];
      context.stroke();
    }
    context.setLineDash([]);
    points.forEach((point, i) => {
      if (!point) return;
      context.beginPath();
      context.arc(point[0], point[1], width * (dashed ? 1.1 : 0.95), 0, 7);
      context.fillStyle = dashed ? "#ffffff" : layout.colors[i];
      context.strokeStyle = dashed ? layout.colors[i] : "rgba(10,12,16,.8)";
      context.lineWidth = width * 0.5;
      context.fill();
      context.stroke();
    });
  }

  // -- images --------------------------------------------------------------------------------------------------------

  const canvases = [...document.querySelectorAll("canvas[data-view]")];

  function drawImage(canvas, frame, v, depth) {
    const view = frame.views[v];
    const camera = cameras[v];
    const note = canvas.parentElement.querySelector(".note");
    const ratio = view ? view.h / view.w : camera.height / camera.width;
    const scale = fit(canvas, ratio);
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!view) {
      note.textContent = frame.dropped[v] ? "image dropped" : "no hand found";
      context.font = `${15 * scale}px system-ui, sans-serif`;
      context.textAlign = "center";
      context.fillStyle = getComputedStyle(canvas).color;
      context.fillText(note.textContent, canvas.width / 2, canvas.height / 2);
      return;
    }
    const zoom = canvas.width / view.w;
    const place = (point) => {
      const [x, y, z] = toCamera(camera, point);
      // An image's first pixel has its centre at 0 and begins half a pixel before it.
      return z > 1 ? [((x / z) * view.k[0] + view.k[2] + 0.5) * zoom, ((y / z) * view.k[1] + view.k[3] + 0.5) * zoom, z] : null;
    };
    if (shown("depth")) {
      context.imageSmoothingEnabled = false;
      context.drawImage(picture(view, depth), 0, 0, canvas.width, canvas.height);
    }
    if (shown("cube") && view.center) {
      const corners = cube(view).map((corner) => place(toRig(camera, corner)));
      context.strokeStyle = "#f0e442";
      context.lineWidth = scale;
      context.beginPath();
      for (const [a, b] of EDGES) {
        if (!corners[a] || !corners[b]) continue;
        context.moveTo(corners[a][0], corners[a][1]);
        context.lineTo(corners[b][0], corners[b][1]);
      }
      const [x, y] = place(toRig(camera, view.center)) || [-9, -9];
      context.moveTo(x - 6 * scale, y);
      context.lineTo(x + 6 * scale, y);
      context.moveTo(x, y - 6 * scale);
      context.lineTo(x, y + 6 * scale);
      context.stroke();
    }
    const width = Math.max(1.5 * scale, canvas.width / 130);
    if (shown("truth") && frame.truth) skeleton(context, data.truth, frame.truth, place, { width });
    if (shown("predicted")) {
      const pose = frame.predicted[camera.name] || frame.predicted.rig;
      if (pose) skeleton(context, data.predicted, pose, place, { width: 0.8 * width, dashed: true });
    }
    const error = frame.errors[camera.name];
    const hand = view.source === "none" ? "no hand looked for" : `hand ${view.source}${view.source === "truth" ? "" : ` (${view.score.toFixed(2)})`}`;
    note.textContent = [`${view.near}–${view.far} mm`, hand, error === undefined ? "" : `error ${error.toFixed(1)} mm`].filter(Boolean).join(" · ");
  }

  // -- space ---------------------------------------------------------------------------------------------------------

  const space = element("space");
  const MOST_POINTS = 9000; // a camera
  const START = { yaw: 0, pitch: 0, zoom: 1 };
  const orbit = { ...START };
  let cloud = null;

  // Points of all cameras in the rig, and what to look at: the middle of the hand, or of the points.
  function gather(frame, depth) {
    const points = [];
    const centers = [];
    frame.views.forEach((view, v) => {
      if (!view) return;
      const camera = cameras[v];
      const only = shown("hand") && view.center;
      if (view.center) centers.push(toRig(camera, view.center));
      const step = Math.max(1, Math.ceil(Math.sqrt((view.w * view.h) / (only ? 4 * MOST_POINTS : MOST_POINTS))));
      for (let y = 0; y < view.h; y += step) {
        for (let x = 0; x < view.w; x += step) {
          const z = depth[v][y * view.w + x];
          if (!z) continue;
          const point = [((x - view.k[2]) / view.k[0]) * z, ((y - view.k[3]) / view.k[1]) * z, z];
          if (only && point.some((value, i) => Math.abs(value - view.center[i]) > data.window / 3)) continue;
          points.push([...toRig(camera, point), v]);
        }
      }
    });
    const joints = (frame.truth || frame.predicted.rig || []).filter(Boolean);
    const known = centers.length ? centers : joints.length ? joints : points;
    const middle = (i) => { const all = known.map((point) => point[i]).sort((a, b) => a - b); return all.length ? all[all.length >> 1] : 0; };
    const target = [0, 1, 2].map(middle);
    const away = points.map((point) => Math.hypot(point[0] - target[0], point[1] - target[1], point[2] - target[2])).sort((a, b) => a - b);
    const radius = known === points || !shown("hand") ? away[Math.floor(away.length * 0.9)] || 300 : (data.window || 450) / 3;
    return { points, target, radius };
  }

  function drawSpace(frame) {
    const scale = fit(space);
    const context = space.getContext("2d");
    const { width, height } = space;
    const { points, target, radius } = cloud;
    const r0 = cameras[0].r; // the first look is the first camera's
    const [sy, cy, sp, cp] = [Math.sin(orbit.yaw), Math.cos(orbit.yaw), Math.sin(orbit.pitch), Math.cos(orbit.pitch)];
    const focal = 1.5 * Math.min(width, height);
    const distance = (2.2 * radius) / orbit.zoom;
    const turn = (point) => {
      const [a, b, c] = [point[0] - target[0], point[1] - target[1], point[2] - target[2]];
      const x = r0[0] * a + r0[1] * b + r0[2] * c;
      const y = r0[3] * a + r0[4] * b + r0[5] * c;
      const z = r0[6] * a + r0[7] * b + r0[8] * c;
      const [x1, z1] = [cy * x + sy * z, cy * z - sy * x];
      return [x1, cp * y - sp * z1, cp * z1 + sp * y + distance];
    };
    const place = (point) => {
      const [x, y, z] = turn(point);
      return z > 0.05 * distance ? [width / 2 + (x / z) * focal, height / 2 + (y / z) * focal, z] : null;
    };
    const image = context.createImageData(width, height);
    const front = new Float32Array(width * height).fill(Infinity);
    const size = Math.max(1, Math.round(1.6 * scale));
    const colors = cameras.map((camera) => [1, 3, 5].map((i) => parseInt(camera.color.slice(i, i + 2), 16)));
    for (const point of points) {
      const found = place(point);
      if (!found) continue;
      const light = Math.min(1.1, Math.max(0.45, 0.85 - (0.5 * (found[2] - distance)) / radius));
      const [red, green, blue] = colors[point[3]];
      const [u, v] = [Math.round(found[0]), Math.round(found[1])];
      for (let y = Math.max(0, v); y < Math.min(height, v + size); y++) {
        for (let x = Math.max(0, u); x < Math.min(width, u + size); x++) {
          const i = y * width + x;
          if (found[2] >= front[i]) continue;
          front[i] = found[2];
          image.data[4 * i] = red * light;
          image.data[4 * i + 1] = green * light;
          image.data[4 * i + 2] = blue * light;
          image.data[4 * i + 3] = 255;
        }
      }
    }
    context.putImageData(image, 0, 0);
    context.lineWidth = scale;
    cameras.forEach((camera, v) => {
      const far = 60; // mm
      const corner = (u, w) => toRig(camera, [((u - camera.k[2]) / camera.k[0]) * far, ((w - camera.k[3]) / camera.k[1]) * far, far]);
      const ends = [[0, 0], [camera.width, 0], [camera.width, camera.height], [0, camera.height]].map(([u, w]) => place(corner(u, w)));
      const eye = place(toRig(camera, [0, 0, 0]));
      if (!eye || ends.includes(null)) return;
      context.strokeStyle = context.fillStyle = camera.color;
      context.beginPath();
      ends.forEach((end, i) => {
        context.moveTo(eye[0], eye[1]);
        context.lineTo(end[0], end[1]);
        context.lineTo(ends[(i + 1) % 4][0], ends[(i + 1) % 4][1]);
      });
      context.stroke();
      context.font = `${12 * scale}px system-ui, sans-serif`;
      context.textAlign = "left";
      context.fillText(camera.name, eye[0] + 6 * scale, eye[1]);
    });
    if (shown("cube")) {
      frame.views.forEach((view, v) => {
        if (!view || !view.center) return;
        const corners = cube(view).map((corner) => place(toRig(cameras[v], corner)));
        context.strokeStyle = cameras[v].color + "66";
        context.beginPath();
        for (const [a, b] of EDGES) {
          if (!corners[a] || !corners[b]) continue;
          context.moveTo(corners[a][0], corners[a][1]);
          context.lineTo(corners[b][0], corners[b][1]);
        }
        context.stroke();
      });
    }
    if (shown("truth") && frame.truth) skeleton(context, data.truth, frame.truth, place, { width: 3 * scale });
    if (shown("predicted")) {
      const poses = frame.predicted.rig ? [frame.predicted.rig] : Object.values(frame.predicted);
      for (const pose of poses) skeleton(context, data.predicted, pose, place, { width: 2.2 * scale, dashed: true });
    }
  }

  // -- error over time -----------------------------------------------------------------------------------------------

  const curve = element("curve");
  const STYLES = [[], [7, 4], [2, 3], [9, 3, 2, 3]];

  function drawCurve(frame) {
    if (!curve) return;
    const { rows, values } = data.errors;
    const names = Object.keys(values);
    if (!names.length) { curve.parentElement.hidden = true; return; }
    const scale = fit(curve);
    const context = curve.getContext("2d");
    const css = getComputedStyle(document.documentElement);
    const [ink, muted, line] = ["--ink", "--muted", "--line"].map((name) => css.getPropertyValue(name));
    const [left, right, top, bottom] = [44 * scale, curve.width - 12 * scale, 12 * scale, curve.height - 24 * scale];
    const [first, last] = [rows[0], Math.max(rows[rows.length - 1], rows[0] + 1)];
    const highest = Math.max(1, ...names.map((name) => values[name].reduce((most, value) => Math.max(most, value || 0), 0)));
    const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((value) => highest / value <= 4) || 2000;
    const x = (row) => left + ((row - first) / (last - first)) * (right - left);
    const y = (value) => bottom - (value / (step * Math.ceil(highest / step))) * (bottom - top);
    context.clearRect(0, 0, curve.width, curve.height);
    context.font = `${12 * scale}px system-ui, sans-serif`;
    context.fillStyle = muted;
    context.strokeStyle = line;
    context.lineWidth = scale;
    context.textAlign = "right";
    for (let value = 0; value <= highest + step; value += step) {
      if (y(value) < top - 1) break;
      context.beginPath();
      context.moveTo(left, y(value));
      context.lineTo(right, y(value));
      context.stroke();
      context.fillText(value, left - 6 * scale, y(value) + 4 * scale);
    }
    context.textAlign = "left";
    context.fillText(`row ${first}`, left, curve.height - 6 * scale);
    context.textAlign = "right";
    context.fillText(last, right, curve.height - 6 * scale);
    names.forEach((name, n) => {
      const camera = cameras.find((one) => one.name === name);
      context.strokeStyle = camera ? camera.color : ink;
      context.setLineDash(STYLES[n % STYLES.length].map((part) => part * scale));
      context.lineWidth = (camera ? 1.4 : 2.2) * scale;
      context.beginPath();
      let pen = false;
      values[name].forEach((value, i) => {
        if (value === null) { pen = false; return; }
        if (pen) context.lineTo(x(rows[i]), y(value));
        else { context.moveTo(x(rows[i]), y(value)); context.lineTo(x(rows[i]) + scale, y(value)); }
        pen = true;
      });
      context.stroke();
    });
    context.setLineDash([]);
    context.strokeStyle = ink;
    context.lineWidth = scale;
    context.beginPath();
    context.moveTo(x(frame.row), top);
    context.lineTo(x(frame.row), bottom);
    context.stroke();
    const now = names.filter((name) => frame.errors[name] !== undefined).map((name) => `${data.who[name]} ${frame.errors[name].toFixed(1)}`);
    element("curve-note").textContent = now.length ? `here: ${now.join(", ")}` : "unknown in this frame";
    curve.dataset.left = left / scale;
    curve.dataset.right = right / scale;
  }

  if (curve) curve.addEventListener("click", (event) => {
    const [left, right] = [Number(curve.dataset.left), Number(curve.dataset.right)];
    const { rows } = data.errors;
    const row = rows[0] + ((event.offsetX - left) / (right - left)) * (rows[rows.length - 1] - rows[0]);
    let best = 0;
    frames.forEach((frame, i) => { if (Math.abs(frame.row - row) < Math.abs(frames[best].row - row)) best = i; });
    go(best);
  });

  // -- time ----------------------------------------------------------------------------------------------------------

  async function draw() {
    const index = at;
    const frame = frames[index];
    const depth = await depths(index);
    if (index !== at) return; // moved on meanwhile
    cloud = gather(frame, depth);
    canvases.forEach((canvas, v) => drawImage(canvas, frame, v, depth[v]));
    drawSpace(frame);
    drawCurve(frame);
    const time = frame.time === null ? "" : ` · ${frame.time.toFixed(3)} s`;
    const id = frame.id === frame.row ? "" : ` · frame_id ${frame.id}`;
    const bare = frame.truth || !data.truth ? "" : " · not labelled";
    element("said").textContent = `${index + 1} of ${frames.length} · row ${frame.row}${id}${time}${bare}`;
    document.body.dataset.drawn = String(index);
    if (index + 1 < frames.length) depths(index + 1);
  }

  function go(index) {
    at = Math.min(frames.length - 1, Math.max(0, index));
    slider.value = String(at);
    return draw();
  }

  async function play() {
    const ticket = ++playing;
    element("play").textContent = "Pause";
    element("play").setAttribute("aria-pressed", "true");
    while (ticket === playing) {
      await go(at + 1 < frames.length ? at + 1 : 0);
      await new Promise((done) => setTimeout(done, 120));
    }
  }

  function pause() {
    playing++;
    element("play").textContent = "Play";
    element("play").setAttribute("aria-pressed", "false");
  }

  const toggle = () => (element("play").textContent === "Play" ? play() : pause());
  slider.max = String(frames.length - 1);
  slider.addEventListener("input", () => { pause(); go(Number(slider.value)); });
  element("play").addEventListener("click", toggle);
  document.querySelectorAll(".bar input[type=checkbox]").forEach((box) => box.addEventListener("change", draw));
  const LETTERS = { d: "depth", l: "truth", p: "predicted", c: "cube", h: "hand" };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
    const box = element("show-" + LETTERS[event.key]);
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") { pause(); go(at + (event.key === "ArrowRight" ? 1 : -1)); }
    else if (event.key === "Home" || event.key === "End") { pause(); go(event.key === "Home" ? 0 : frames.length - 1); }
    else if (event.key === " " && event.target.tagName !== "BUTTON" && event.target.type !== "checkbox") toggle();
    else if (box) { box.checked = !box.checked; draw(); }
    else return;
    event.preventDefault();
  });

  const again = () => cloud && drawSpace(frames[at]);
  const tilt = (yaw, pitch) => {
    orbit.yaw += yaw;
    orbit.pitch = Math.min(1.55, Math.max(-1.55, orbit.pitch + pitch));
    again();
  };
  const zoom = (factor) => { orbit.zoom = Math.min(20, Math.max(0.05, orbit.zoom * factor)); again(); };
  const reset = () => { Object.assign(orbit, START); again(); };
  space.addEventListener("pointerdown", (event) => space.setPointerCapture(event.pointerId));
  space.addEventListener("pointermove", (event) => {
    if (space.hasPointerCapture(event.pointerId)) tilt(event.movementX * 0.008, event.movementY * -0.008);
  });
  space.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(-event.deltaY * 0.0012)); }, { passive: false });
  space.addEventListener("dblclick", reset);
  space.addEventListener("keydown", (event) => {
    const acts = {
      ArrowLeft: () => tilt(-0.1, 0), ArrowRight: () => tilt(0.1, 0), ArrowUp: () => tilt(0, 0.1), ArrowDown: () => tilt(0, -0.1),
      "+": () => zoom(1.15), "=": () => zoom(1.15), "-": () => zoom(1 / 1.15), 0: reset,
    };
    if (!acts[event.key]) return;
    acts[event.key]();
    event.preventDefault();
  });

  element("ramp").style.background = `linear-gradient(to right, ${[0, 64, 128, 192, 255].map((i) => `rgb(${lut.slice(3 * i, 3 * i + 3).join(",")})`).join(",")})`;
  window.addEventListener("resize", () => draw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  if (!("DecompressionStream" in window)) {
    element("said").textContent = "This browser is too old to unpack the frames: Chrome 80, Firefox 113 or Safari 16.4 can.";
    return;
  }
  go(0);
})();
