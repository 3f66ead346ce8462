// The tool: what was placed, how it is drawn, what mouse and keys do to it.
//
// State of a frame: {status: "" | "done" | "skip", joints: [{p: [x, y, z] | null, by, m: {view: [u, v]}}], k: the crops'
// K that the crosses are pixels of}. `p` is the point in the rig, `m` the crosses a person set, `by` where the point comes from: labels, model, rest (nobody's),
// ray (one cross, depth kept), surface (one cross, depth read), views (two crosses or more), unknown.

const data = JSON.parse(document.getElementById("data").textContent);
const { layout, cameras, frames } = data;
const COUNT = layout.points.length, EDGES = layout.edges;
const REACH_PX = 14;
const CLOSER = 1.4; // a crop has room for a centre that is off; most hands need less
const ENOUGH = 3; // frames of a person whose median says something
const SVG = "http://www.w3.org/2000/svg";
const SAID = {
  labels: "label", model: "model", rest: "not placed", ray: "one view", surface: "surface", views: "views", unknown: "unknown",
};
const key = `${data.format}:${data.recording.uuid}:${layout.name}`;
const $ = (id) => document.getElementById(id);

let state = { format: data.format, version: data.version, recording: data.recording.uuid, layout: layout.name, frames: {}, flesh: layout.flesh.slice() };
let at = 0, selected = 0, active = 0, kept = true;
let fromSurface = frames.every((f) => f.source === "rest") || cameras.length === 1;
let past = [], future = [];
const depths = new Map(); // frame number to a promise of its views' depth
let shown = []; // depth of the current frame's views, null until decoded

const frame = () => frames[at];
const views = () => frame().views;
const viewOf = (f, v) => f.views[v] && Object.assign(f.views[v], { R: cameras[v].R, t: cameras[v].t });
frames.forEach((f) => cameras.forEach((_, v) => viewOf(f, v)));

// ---- what was placed ------------------------------------------------------------------------------------------

function work(f = frame()) {
  if (!state.frames[f.id]) {
    const joints = f.prefill.map((p) => ({ p, by: p ? f.source : "unknown", m: {} }));
    state.frames[f.id] = { status: "", joints, k: f.views.map((view) => view && view.k) };
  }
  return state.frames[f.id];
}

const marksOf = (f, joint) => Object.entries(joint.m).filter(([v]) => f.views[v])
  .map(([v, [u, w]]) => ({ view: f.views[v], index: +v, u, v: w }));
const placed = (joint) => joint.by === "views" || joint.by === "surface";

// What a joint of a frame is by its crosses; `depth` are the views' depths.
function settle(f, joint, number, depth) {
  const marks = marksOf(f, joint);
  if (!marks.length) return;
  const start = joint.p || middleOf(f);
  if (marks.length > 1) {
    joint.p = triangulate(marks, start);
    joint.by = "views";
    return;
  }
  const { view, index, u, v } = marks[0];
  const surface = fromSurface && depth[index] ? surfaceAt(depth[index], view, u, v) : 0;
  const z = surface ? surface + state.flesh[number] : Math.max(60, toCamera(view, start)[2]);
  joint.p = unproject(view, u, v, z);
  joint.by = surface ? "surface" : "ray";
}

function middleOf(f) {
  const v = f.views.findIndex((view) => view), view = f.views[v];
  return unproject(view, (view.w - 1) / 2, (view.h - 1) / 2, view.z);
}

// Joints of a hand at rest that nobody placed follow those that were, as one stiff hand: the rest pose laid on them,
// held where it was by a small weight so that one or two points do not make it spin.
function follow(f) {
  if (f.source !== "rest") return;
  const joints = work(f).joints, from = [], to = [], weights = [];
  joints.forEach((joint, j) => {
    const weight = Object.keys(joint.m).length ? 1 : joint.by === "rest" ? 2e-3 : 0;
    if (!weight || !f.prefill[j] || !joint.p) return;
    from.push(f.prefill[j]); to.push(joint.p); weights.push(weight);
  });
  const sure = weights.filter((w) => w === 1).length;
  if (!sure) return;
  const move = alignment(from, to, weights, sure > 2);
  joints.forEach((joint, j) => { if (joint.by === "rest") joint.p = move(f.prefill[j]); });
}

function errorOf(f, joint) {
  const marks = marksOf(f, joint);
  if (marks.length < 2) return null;
  const square = marks.map((m) => { const q = project(m.view, joint.p); return (q[0] - m.u) ** 2 + (q[1] - m.v) ** 2; });
  return Math.sqrt(square.reduce((a, b) => a + b) / square.length);
}

// Which joints a finished frame gives: not those nobody knows, nor those whose depth is only that of a hand at rest.
const tells = (f, joint) => joint.p && joint.by !== "unknown" && joint.by !== "rest"
  && !(joint.by === "ray" && (f.source === "rest" || joint.guess));

// ---- undo, saving ---------------------------------------------------------------------------------------------

const copy = (value) => JSON.parse(JSON.stringify(value));

function change(what, todo) {
  const f = frame(), before = copy(work(f));
  todo(work(f), f);
  commit(what, f, before);
}

function commit(what, f, before) {
  const after = copy(work(f));
  if (JSON.stringify(before) === JSON.stringify(after)) return;
  past.push({ what, id: f.id, before, after });
  if (past.length > 500) past.shift();
  future = [];
  keep();
  draw();
}

function step(from, to, which) {
  const entry = from.pop();
  if (!entry) return;
  to.push(entry);
  state.frames[entry.id] = copy(entry[which]);
  const there = frames.findIndex((f) => f.id === entry.id);
  if (there !== at) go(there);
  say(`${which === "before" ? "Undone" : "Done again"}: ${entry.what}`);
  keep();
  draw();
}
const undo = () => step(past, future, "before");
const redo = () => step(future, past, "after");

function keep() {
  try {
    localStorage.setItem(key, JSON.stringify(state));
    kept = true;
  } catch {
    if (kept) say("This browser keeps nothing: use Save state");
    kept = false;
  }
}

function recall() {
  try {
    const found = localStorage.getItem(key);
    return found ? take(JSON.parse(found)) : false;
  } catch {
    kept = false;
    return false;
  }
}

// Crosses are pixels of a crop. Where the hand was located again since, the crop is another window of the same
// camera: they move with it.
function recut(f, w) {
  f.views.forEach((view, v) => {
    const then = w.k && w.k[v], now = view && view.k;
    if (!then || !now || then.every((x, i) => x === now[i])) return;
    for (const joint of w.joints) {
      const mark = joint.m[v];
      if (mark) joint.m[v] = [0, 1].map((i) => ((mark[i] - then[2 + i]) / then[i]) * now[i] + now[2 + i]);
    }
  });
  w.k = f.views.map((view, v) => (view ? view.k : w.k && w.k[v]));
}

// Takes a saved state in; false where it is not one of this page.
function take(saved) {
  if (!saved || saved.format !== data.format || saved.version > data.version) return false;
  if (saved.recording !== data.recording.uuid || saved.layout !== layout.name) return false;
  const good = (w) => w && Array.isArray(w.joints) && w.joints.length === COUNT && w.joints.every((j) => j && j.m && j.by in SAID);
  // Frames of another selection stay in the state: they are saved with it, though not shown.
  const known = Object.entries(saved.frames || {}).filter(([, w]) => good(w));
  state.frames = Object.fromEntries(known);
  for (const f of frames) if (state.frames[f.id]) recut(f, state.frames[f.id]);
  if (Array.isArray(saved.flesh) && saved.flesh.length === COUNT) state.flesh = saved.flesh;
  return true;
}

function download(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function csv() {
  const lines = ["frame,joint,x_mm,y_mm,z_mm"];
  let count = 0;
  for (const f of frames) {
    const done = state.frames[f.id];
    if (!done || done.status !== "done") continue;
    count++;
    done.joints.forEach((joint, j) => {
      if (tells(f, joint)) lines.push([f.id, layout.points[j], ...joint.p.map((x) => x.toFixed(3))].join(","));
    });
  }
  return { text: lines.join("\n") + "\n", count };
}

function save() {
  const { text, count } = csv();
  if (!count) return say("No frame is marked as done yet");
  download("joints.csv", text, "text/csv");
  return say(`joints.csv: ${count} frame${count === 1 ? "" : "s"}`);
}

async function load(file) {
  try {
    if (!take(JSON.parse(await file.text()))) return say("That file is not a state of this recording and layout");
  } catch {
    return say("That file cannot be read");
  }
  past = []; future = [];
  keep();
  go(at);
  return say(`Loaded ${file.name}`);
}

let clearing = 0;
function say(text) {
  $("said").textContent = text;
  clearTimeout(clearing);
  clearing = setTimeout(() => { $("said").textContent = ""; }, 9000);
}

// ---- bones ----------------------------------------------------------------------------------------------------

const lengthOf = (joints, [a, b]) => (joints[a].p && joints[b].p ? distance(joints[a].p, joints[b].p) : NaN);

// For each bone the person's median: of labelled frames and of frames done here, else of what the page starts from.
function usual(f) {
  const given = data.bones[f.subject] || [];
  const done = frames.filter((o) => o !== f && o.subject === f.subject && state.frames[o.id]?.status === "done");
  return EDGES.map((edge, e) => {
    const lengths = given.map((row) => row[e]).filter((x) => x !== null);
    for (const o of done) {
      const joints = state.frames[o.id].joints;
      if (tells(o, joints[edge[0]]) && tells(o, joints[edge[1]])) lengths.push(lengthOf(joints, edge));
    }
    return lengths.length >= ENOUGH ? { mm: median(lengths), sure: true } : { mm: data.reference[e], sure: false };
  });
}

function bonesOf(f) {
  const joints = work(f).joints, typical = usual(f);
  return EDGES.map((edge, e) => {
    const mm = lengthOf(joints, edge), { mm: of, sure } = typical[e];
    const known = edge.every((j) => joints[j].by !== "unknown");
    const limit = sure ? Math.max(6, 0.2 * of) : Math.max(12, 0.4 * of);
    return { mm, of, sure, known, off: known && of !== null && Math.abs(mm - of) > limit };
  });
}

// ---- drawing --------------------------------------------------------------------------------------------------

const panes = cameras.map((camera, v) => {
  const section = document.createElement("section");
  section.className = "view";
  section.id = `view-${v}`;
  section.setAttribute("aria-label", `Camera ${camera.name}`);
  section.innerHTML = `<header><b></b><span class="at muted n"></span><button title="Whole crop (0)">fit</button></header>
    <div class="stage"><canvas></canvas><svg role="application" tabindex="0"></svg><p hidden>no image of the hand</p></div>`;
  section.querySelector("b").textContent = camera.name;
  section.querySelector("svg").setAttribute("aria-label", `${camera.name}: arrows move the selected joint`);
  $("views").append(section);
  const [canvas] = section.getElementsByTagName("canvas"), [svg] = section.getElementsByTagName("svg");
  const pane = { v, section, canvas, svg, note: section.querySelector("p"), at: section.querySelector(".at"), scale: 1, x: 0, y: 0, picture: null };
  section.querySelector("button").addEventListener("click", () => { fit(pane); paint(pane); place(pane); });
  pane.parts = build(svg);
  listen(pane);
  return pane;
});

function build(svg) {
  const add = (name, kind) => {
    const element = document.createElementNS(SVG, name);
    element.setAttribute("class", kind);
    svg.append(element);
    return element;
  };
  const ray = add("line", "ray");
  const bones = EDGES.map(([, b]) => { const e = add("line", "bone"); e.style.stroke = layout.colors[b]; return e; });
  const miss = layout.points.map(() => add("line", "miss"));
  const marks = layout.points.map(() => add("path", "mark"));
  const joints = layout.points.map((name, j) => {
    const e = add("circle", "joint");
    e.dataset.joint = j;
    e.style.fill = layout.colors[j];
    e.style.setProperty("--c", layout.colors[j]);
    const title = document.createElementNS(SVG, "title");
    title.textContent = name;
    e.append(title);
    return e;
  });
  return { ray, bones, miss, marks, joints };
}

const toScreen = (pane, u, v) => [pane.x + (u + 0.5) * pane.scale, pane.y + (v + 0.5) * pane.scale];
const toPixel = (pane, x, y) => [(x - pane.x) / pane.scale - 0.5, (y - pane.y) / pane.scale - 0.5];

// The whole crop in the pane, or nearer to the hand in its middle.
function fit(pane, zoom = 1) {
  const view = views()[pane.v], box = pane.svg.getBoundingClientRect();
  if (!view || !box.width) return;
  pane.scale = zoom * Math.min(box.width / view.w, box.height / view.h);
  pane.x = (box.width - view.w * pane.scale) / 2;
  pane.y = (box.height - view.h * pane.scale) / 2;
}

// The columns that give the largest panes: as wide as fits, up to a quarter higher than wide.
function arrange() {
  const area = $("views"), style = getComputedStyle(area), gap = 10, head = 26;
  const width = area.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  const height = Math.max(260, area.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom));
  let columns = 1, side = 0, tall = 0;
  for (let n = 1; n <= cameras.length; n++) {
    const rows = Math.ceil(cameras.length / n), room = (height - gap * (rows - 1)) / rows - head;
    const wide = Math.min((width - gap * (n - 1)) / n, room), high = Math.min(room, 1.25 * wide);
    if (wide * high > side * tall) [columns, side, tall] = [n, wide, high];
  }
  side = Math.max(180, Math.floor(side));
  tall = Math.max(180, Math.floor(tall));
  area.style.gridTemplateColumns = `repeat(${columns}, ${side}px)`;
  for (const pane of panes) {
    pane.section.style.height = `${tall + head}px`;
    const ratio = window.devicePixelRatio || 1, box = pane.svg.getBoundingClientRect();
    pane.canvas.width = Math.round(box.width * ratio);
    pane.canvas.height = Math.round(box.height * ratio);
    fit(pane, CLOSER);
  }
  draw();
}

function paint(pane) {
  const context = pane.canvas.getContext("2d"), ratio = window.devicePixelRatio || 1, view = views()[pane.v];
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, pane.canvas.width, pane.canvas.height);
  pane.note.hidden = Boolean(view);
  if (!view || !pane.picture) return;
  context.setTransform(ratio * pane.scale, 0, 0, ratio * pane.scale, ratio * pane.x, ratio * pane.y);
  context.imageSmoothingEnabled = pane.scale < 1.5;
  context.drawImage(pane.picture, 0, 0);
}

function set(element, values) {
  for (const [name, value] of Object.entries(values)) element.setAttribute(name, value);
}

// Put the skeleton where it belongs in one view.
function place(pane, bones = bonesOf(frame())) {
  const f = frame(), view = views()[pane.v], { ray, bones: lines, miss, marks, joints } = pane.parts;
  const points = work(f).joints.map((joint) => {
    if (!view || !joint.p) return null;
    const [u, v, z] = project(view, joint.p);
    return z > 1 && isFinite(u) && Math.abs(u) < 1e5 && Math.abs(v) < 1e5 ? toScreen(pane, u, v) : null;
  });
  const line = (element, a, b) => {
    element.style.display = a && b ? "" : "none";
    if (a && b) set(element, { x1: a[0], y1: a[1], x2: b[0], y2: b[1] });
  };
  EDGES.forEach(([a, b], e) => {
    line(lines[e], bones[e].known && points[a], bones[e].known && points[b]);
    lines[e].setAttribute("class", bones[e].off ? "bone off" : "bone");
  });
  work(f).joints.forEach((joint, j) => {
    const element = joints[j], point = points[j], mine = view && joint.m[pane.v];
    element.style.display = point ? "" : "none";
    if (point) set(element, { cx: point[0], cy: point[1], r: j === selected ? 7 : 5 });
    const kind = joint.by === "unknown" ? " unknown" : joint.by === "rest" ? " rest" : "";
    element.setAttribute("class", `joint${kind}${j === selected ? " selected" : ""}`);
    const cross = mine && joint.by !== "unknown" ? toScreen(pane, ...mine) : null;
    // Crosses of all joints would hide the hand: the selected joint's, and those that a point stays away from.
    const told = cross && (j === selected || !point || Math.hypot(cross[0] - point[0], cross[1] - point[1]) > 4);
    marks[j].style.display = told ? "" : "none";
    if (told) set(marks[j], { d: `M${cross[0] - 16} ${cross[1]}h7m18 0h7M${cross[0]} ${cross[1] - 16}v7m0 18v7` });
    line(miss[j], cross, cross && point);
  });
  const [a, b] = rayIn(pane, f);
  line(ray, a, b);
}

// Where the ray of the selected joint's only cross runs in another view.
function rayIn(pane, f) {
  const marks = marksOf(f, work(f).joints[selected]), view = views()[pane.v];
  if (marks.length !== 1 || !view || marks[0].index === pane.v) return [null, null];
  const { view: other, u, v } = marks[0];
  const ends = [other.z - 200, other.z + 200].map((z) => project(view, unproject(other, u, v, Math.max(20, z))));
  return ends.every((q) => q[2] > 1) ? ends.map((q) => toScreen(pane, q[0], q[1])) : [null, null];
}

function draw() {
  const f = frame(), w = work(f), bones = bonesOf(f);
  for (const pane of panes) {
    pane.section.classList.toggle("active", pane.v === active);
    paint(pane);
    place(pane, bones);
  }
  $("place").textContent = `${at + 1} of ${frames.length}`;
  const people = new Set(frames.map((o) => o.subject)).size > 1 ? `subject ${f.subject}, ` : "";
  $("about").textContent = `frame ${f.id}, ${people}sequence ${f.sequence}`;
  $("undo").disabled = !past.length;
  $("redo").disabled = !future.length;
  $("done").textContent = w.status === "done" ? "Done ✓" : "Done";
  $("skip").setAttribute("aria-pressed", w.status === "skip");
  $("surface").setAttribute("aria-pressed", fromSurface);
  $("span-mm").textContent = `${$("span").value} mm`;
  drawStrip();
  drawSide(f, w, bones);
}

function drawStrip() {
  const strip = $("frames");
  if (!strip.children.length) {
    strip.append(...frames.map((_, i) => {
      const button = document.createElement("button");
      button.tabIndex = -1; // "," and "." reach them all
      button.addEventListener("click", () => go(i));
      return button;
    }));
  }
  frames.forEach((f, i) => {
    const button = strip.children[i], w = state.frames[f.id], status = w ? w.status : "";
    const touched = w && w.joints.some((joint) => Object.keys(joint.m).length);
    button.toggleAttribute("data-touched", Boolean(touched));
    if (status) button.dataset.status = status; else delete button.dataset.status;
    if (i === at) button.setAttribute("aria-current", "true"); else button.removeAttribute("aria-current");
    button.setAttribute("aria-label", `Frame ${i + 1} of ${frames.length}${status ? `, ${status}` : touched ? ", begun" : ""}`);
  });
}

function drawSide(f, w, bones) {
  const joint = w.joints[selected], error = errorOf(f, joint), count = Object.keys(joint.m).length;
  $("joint-name").textContent = layout.points[selected];
  const how = {
    labels: "as it was labelled", model: "as the model has it", unknown: "left out", rest: "not placed yet",
    ray: "one view; its depth is as it was", surface: `${state.flesh[selected]} mm behind the skin in one view`,
    views: `from ${count} views, ${error === null ? "" : error.toFixed(1)} px off`,
  }[joint.by];
  $("joint-where").textContent = joint.p ? `${joint.p.map((x) => x.toFixed(1)).join(", ")} mm: ${how}` : how;
  $("unknown").setAttribute("aria-pressed", joint.by === "unknown");
  $("reset").disabled = !count && joint.by !== "unknown";
  $("flesh").value = state.flesh[selected];
  $("flesh-mm").textContent = `${state.flesh[selected].toFixed(1)} mm`;
  const list = $("joints");
  if (!list.children.length) {
    list.append(...layout.points.map((name, j) => {
      const item = document.createElement("li"), button = document.createElement("button");
      button.innerHTML = "<i></i><span></span><span class='by n'></span>";
      button.children[1].textContent = name;
      button.children[0].style.borderColor = layout.colors[j];
      button.addEventListener("click", () => select(j));
      item.append(button);
      return item;
    }));
  }
  w.joints.forEach((each, j) => {
    const button = list.children[j].firstChild, [dot, , by] = button.children, px = errorOf(f, each);
    dot.style.background = each.by === "rest" || each.by === "unknown" ? "none" : layout.colors[j];
    if (j === selected) button.setAttribute("aria-current", "true"); else button.removeAttribute("aria-current");
    by.textContent = px === null ? SAID[each.by] : `${Object.keys(each.m).length} views ${px.toFixed(1)} px`;
    by.className = `by n ${px > 4 ? "bad" : placed(each) ? "good" : each.by === "ray" ? "warn" : ""}`;
  });
  const sure = bones.every((bone) => bone.sure);
  $("bones-said").textContent = `mm, and this person's ${sure ? "median" : "usual length, as far as known"}`;
  const table = $("bones");
  if (!table.children.length) {
    table.append(...EDGES.map(([a, b]) => {
      const row = document.createElement("tr");
      row.innerHTML = "<td></td><td class='n'></td><td class='n muted'></td>";
      row.children[0].textContent = boneName(a, b);
      row.title = `${layout.points[a]} to ${layout.points[b]}`;
      return row;
    }));
  }
  bones.forEach((bone, e) => {
    const [, mm, of] = table.children[e].children;
    mm.textContent = bone.known && isFinite(bone.mm) ? bone.mm.toFixed(0) : "";
    mm.className = bone.off ? "n bad" : "n";
    table.children[e].children[0].className = bone.off ? "bad" : "";
    of.textContent = bone.of === null ? "" : bone.of.toFixed(0);
  });
}

// "index_proximal – intermediate": a finger is said once.
function boneName(a, b) {
  const [from, to] = [layout.points[a], layout.points[b]], finger = from.split("_")[0];
  return `${from} – ${to.startsWith(`${finger}_`) && from !== finger ? to.slice(finger.length + 1) : to}`.replaceAll("_", " ");
}

// ---- moving about ---------------------------------------------------------------------------------------------

function depthOf(i) {
  if (!depths.has(i)) {
    depths.set(i, Promise.all(frames[i].views.map((view) => (view ? decodeDepth(view) : null))));
    for (const old of depths.keys()) if (depths.size > 12 && Math.abs(old - i) > 3) depths.delete(old);
  }
  return depths.get(i);
}

async function go(i) {
  if (i < 0 || i >= frames.length) return;
  at = i;
  shown = [];
  panes.forEach((pane) => { pane.picture = null; fit(pane, CLOSER); });
  draw();
  const decoded = await depthOf(i);
  if (at !== i) return; // another one was asked for meanwhile
  shown = decoded;
  shade();
  draw();
  document.body.dataset.ready = String(i);
  if (i + 1 < frames.length) depthOf(i + 1);
}

function shade() {
  for (const pane of panes) {
    const view = views()[pane.v];
    pane.picture = view && shown[pane.v] ? shaded(shown[pane.v], view, +$("span").value, $("relief").checked) : null;
  }
}

function select(j) {
  selected = (j + COUNT) % COUNT;
  draw();
  $("joints").children[selected].scrollIntoView({ block: "nearest" });
}

function finish(status) {
  const f = frame();
  const left = work(f).joints.map((joint, j) => [joint, layout.points[j]]).filter(([joint]) => joint.by !== "unknown" && !tells(f, joint));
  if (status === "done" && left.length === COUNT) return say("Nothing is placed yet: drag joints, or skip the frame");
  change(status === "done" ? "frame done" : "frame skipped", (w) => { w.status = w.status === status ? "" : status; });
  if (work(f).status !== status) return undefined;
  if (status === "done" && left.length) say(`${left.length} joints were never placed and are left out: ${left.map(([, name]) => name).join(", ")}`);
  const order = frames.map((_, n) => (at + 1 + n) % frames.length);
  const next = order.find((n) => !state.frames[frames[n].id]?.status);
  if (next !== undefined) return go(next);
  draw();
  return say("All frames are done or skipped: save joints.csv");
}

function unknown() {
  change("joint unknown", (w, f) => {
    const joint = w.joints[selected];
    if (joint.by !== "unknown") { joint.by = "unknown"; return; }
    if (!joint.p) { joint.p = middleOf(f); joint.guess = true; }
    joint.by = joint.guess ? "rest" : f.source;
    settle(f, joint, selected, shown);
  });
}

function reset() {
  change("joint reset", (w, f) => {
    const p = f.prefill[selected];
    w.joints[selected] = { p, by: p ? f.source : "unknown", m: {} };
    follow(f);
  });
}

function toggleSurface() {
  fromSurface = !fromSurface;
  say(fromSurface ? "One view: the depth of the surface under the cursor" : "One view: the depth stays as it is");
  change("depth of a joint", (w, f) => {
    if (marksOf(f, w.joints[selected]).length === 1) { settle(f, w.joints[selected], selected, shown); follow(f); }
  });
  draw();
}

// A cross where the joint is drawn: it is right in this view, too.
function confirm() { nudge(0, 0); }

function nudge(dx, dy) {
  const view = views()[active];
  change(dx || dy ? "nudge" : "cross", (w, f) => {
    const joint = w.joints[selected];
    if (!view || !joint.p) return;
    const [u, v] = joint.m[active] || project(view, joint.p);
    joint.m[active] = [u + dx, v + dy];
    settle(f, joint, selected, shown);
    follow(f);
  });
}

// ---- mouse ----------------------------------------------------------------------------------------------------

function nearest(pane, x, y) {
  const view = views()[pane.v];
  let best = -1, least = REACH_PX;
  if (!view) return best;
  work().joints.forEach((joint, j) => {
    if (!joint.p) return;
    const [u, v, z] = project(view, joint.p);
    if (z < 1) return;
    const [px, py] = toScreen(pane, u, v), away = Math.hypot(px - x, py - y) - (j === selected ? 4 : 0);
    if (away < least) { least = away; best = j; }
  });
  return best;
}

function hover(pane, x, y) {
  const view = views()[pane.v], j = nearest(pane, x, y), [u, v] = toPixel(pane, x, y);
  const z = view && shown[pane.v] ? surfaceAt(shown[pane.v], view, u, v) : 0;
  pane.svg.classList.toggle("joint", j >= 0);
  pane.at.textContent = [j >= 0 ? layout.points[j] : "", z ? `${z} mm` : ""].filter(Boolean).join(", ");
}

function listen(pane) {
  const { svg } = pane;
  let drag = null;
  const where = (event) => { const box = svg.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  svg.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || drag) return;
    svg.setPointerCapture(event.pointerId);
    const [x, y] = where(event), j = nearest(pane, x, y);
    active = pane.v;
    const f = frame(), whole = event.shiftKey ? "move" : event.altKey ? "turn" : "";
    drag = { f, before: copy(work(f)), start: copy(work(f).joints), x, y, whole, moved: false };
    if (!whole && j >= 0) {
      selected = j;
      const [u, v] = project(views()[pane.v], work(f).joints[j].p), [px, py] = toScreen(pane, u, v);
      Object.assign(drag, { joint: j, dx: px - x, dy: py - y }); // the joint stays under the finger where it was taken
    } else Object.assign(drag, { panX: pane.x, panY: pane.y });
    svg.classList.add("dragging");
    svg.focus({ preventScroll: true });
    draw();
  });
  svg.addEventListener("pointermove", (event) => {
    const [x, y] = where(event);
    if (!drag) return hover(pane, x, y);
    if (!drag.moved && Math.hypot(x - drag.x, y - drag.y) < 2) return undefined;
    drag.moved = true;
    if (drag.joint !== undefined) {
      const joint = work(drag.f).joints[drag.joint];
      joint.m[pane.v] = toPixel(pane, x + drag.dx, y + drag.dy);
      settle(drag.f, joint, drag.joint, shown);
      follow(drag.f);
    } else if (drag.whole) moveHand(pane, drag, x - drag.x, y - drag.y);
    else {
      pane.x = drag.panX + x - drag.x;
      pane.y = drag.panY + y - drag.y;
      paint(pane);
      return place(pane);
    }
    return drawMoving();
  });
  const end = () => {
    if (!drag) return;
    const { f, before, joint, whole, moved } = drag;
    drag = null;
    svg.classList.remove("dragging");
    if (moved && (joint !== undefined || whole)) commit(whole ? `hand ${whole}d` : `move ${layout.points[joint]}`, f, before);
    draw();
  };
  svg.addEventListener("dblclick", (event) => { if (nearest(pane, ...where(event)) === selected) confirm(); });
  svg.addEventListener("pointerup", end);
  svg.addEventListener("pointercancel", end);
  svg.addEventListener("pointerleave", () => { if (!drag) pane.at.textContent = ""; });
  svg.addEventListener("focus", () => { active = pane.v; for (const p of panes) p.section.classList.toggle("active", p.v === active); });
  svg.addEventListener("wheel", (event) => {
    event.preventDefault();
    const [x, y] = where(event), [u, v] = toPixel(pane, x, y), view = views()[pane.v];
    if (!view) return;
    const least = Math.min(svg.clientWidth / view.w, svg.clientHeight / view.h) / 2;
    pane.scale = Math.min(40, Math.max(least, pane.scale * Math.exp(-event.deltaY * 0.0015)));
    pane.x = x - (u + 0.5) * pane.scale;
    pane.y = y - (v + 0.5) * pane.scale;
    paint(pane);
    place(pane);
  }, { passive: false });
}

let waiting = false;
function drawMoving() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}

// The joints without crosses, moved beside the image plane or turned about their middle.
function moveHand(pane, drag, dx, dy) {
  const view = views()[pane.v], joints = work(drag.f).joints;
  if (!view) return;
  const free = drag.start.map((joint, j) => j).filter((j) => drag.start[j].p && !Object.keys(drag.start[j].m).length);
  if (!free.length) return;
  const cam = free.map((j) => toCamera(view, drag.start[j].p));
  const middle = [0, 1, 2].map((i) => cam.reduce((sum, q) => sum + q[i], 0) / cam.length);
  const shift = [(dx / pane.scale / view.k[0]) * middle[2], (dy / pane.scale / view.k[1]) * middle[2], 0];
  const angle = Math.hypot(dx, dy) / 120, axis = [-dy, dx, 0].map((x) => x / Math.max(1e-9, Math.hypot(dx, dy)));
  const R = rotationOf([Math.cos(angle / 2), ...axis.map((x) => -x * Math.sin(angle / 2))]);
  free.forEach((j, n) => {
    const d = cam[n].map((x, i) => x - middle[i]);
    const q = drag.whole === "move" ? cam[n].map((x, i) => x + shift[i])
      : [0, 3, 6].map((r, i) => R[r] * d[0] + R[r + 1] * d[1] + R[r + 2] * d[2] + middle[i]);
    joints[j].p = toRig(view, q);
  });
}

// ---- keys and buttons -----------------------------------------------------------------------------------------

const KEYS = {
  Enter: () => finish("done"), s: () => finish("skip"), u: unknown, r: reset, m: confirm, d: toggleSurface,
  j: () => select(selected + 1), k: () => select(selected - 1),
  ".": () => go(at + 1), ",": () => go(at - 1), PageDown: () => go(at + 1), PageUp: () => go(at - 1),
  c: () => $("relief").click(), h: () => $("views").classList.toggle("bare"), "?": () => $("about-page").showModal(),
  0: () => { panes.forEach((pane) => fit(pane)); draw(); },
};
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

document.addEventListener("keydown", (event) => {
  if ($("about-page").open || event.altKey) return;
  const typed = event.target.matches("input[type=range]") && event.key in ARROWS;
  const pressed = event.target.matches("button, input[type=checkbox], input[type=file]") && (event.key === "Enter" || event.key === " ");
  if (typed || pressed) return;
  const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  let todo = null;
  if (event.ctrlKey || event.metaKey) todo = { z: event.shiftKey ? redo : undo, y: redo }[name];
  else if (name in ARROWS) todo = () => nudge(...ARROWS[name].map((x) => x * (event.shiftKey ? 5 : 1)));
  else todo = KEYS[name];
  if (!todo) return;
  event.preventDefault();
  todo();
});

for (const [id, todo] of Object.entries({
  previous: () => go(at - 1), next: () => go(at + 1), undo, redo, done: () => finish("done"), skip: () => finish("skip"),
  unknown, reset, surface: toggleSurface, save, help: () => $("about-page").showModal(),
  "save-state": () => download("labelling-state.json", JSON.stringify(state), "application/json"),
})) $(id).addEventListener("click", todo);
$("load").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) load(file);
  event.target.value = "";
});
$("flesh").addEventListener("input", (event) => {
  state.flesh[selected] = +event.target.value;
  change("depth behind the skin", (w, f) => {
    if (w.joints[selected].by === "surface") { settle(f, w.joints[selected], selected, shown); follow(f); }
  });
  keep();
  draw();
});
for (const id of ["relief", "span"]) $(id).addEventListener("input", () => { shade(); draw(); });
document.addEventListener("click", (event) => {
  // A mouse needs no focus on what it clicked, and Enter would press it again instead of finishing the frame.
  if (event.detail && event.target.closest("button, input[type=checkbox]")) document.activeElement.blur();
});
new ResizeObserver(arrange).observe($("views"));

const again = recall();
window.handloomLabel = {
  triangulate, alignment, project, decodeDepth, views: (i) => frames[i].views, state: () => state, csv: () => csv().text,
  screen: (v, u, w) => { const box = panes[v].svg.getBoundingClientRect(), [x, y] = toScreen(panes[v], u, w); return [box.left + x, box.top + y]; },
};
const first = frames.findIndex((f) => !state.frames[f.id]?.status);
arrange();
go(first < 0 ? 0 : first);
if (!again) $("about-page").showModal();
