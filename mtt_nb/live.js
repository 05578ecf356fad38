// Three linked views of a distillation run on one canvas: the plane, the images, the curves.
// The whole recorded history lives in the page, so that looking back asks nothing of the kernel.

const KINDS = { uint8: Uint8Array, int8: Int8Array, int32: Int32Array, float32: Float32Array, float64: Float64Array };
const MAX_FRAMES = 300, MAX_POINTS = 4000, MAX_BYTES = 50e6;  // of the frames; as in the kernel
const CURVE = 128;  // its height
const KEYS = ["space: start, pause", "s: step", "arrows, Home, End: look back", "with shift: student steps", "[ ]: images", "f: leave"];

function unpack(x, buffers) {
  if (Array.isArray(x)) return x.map(v => unpack(v, buffers));
  if (x === null || typeof x !== "object") return x;
  if (!("buffer" in x)) return Object.fromEntries(Object.entries(x).map(([k, v]) => [k, unpack(v, buffers)]));
  const b = buffers[x.buffer], bytes = b.buffer.slice(b.byteOffset, b.byteOffset + b.byteLength);  // a copy, so that it is aligned
  return Object.assign(new KINDS[x.dtype](bytes), { shape: x.shape });
}

const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
const last = list => list[list.length - 1];
const finite = format => x => Number.isFinite(x) ? format(x) : "not finite";  // messages have null in its place
const short = finite(x => x === 0 ? "0" : Math.abs(x) >= 1e4 || Math.abs(x) < 1e-3 ? x.toExponential(1) : String(+x.toPrecision(3)));
const percent = finite(x => `${(100 * x).toFixed(1)} %`);

// ---------------------------------------------------------------- what the page knows of the runs

const withAccuracy = runs => runs.some(run => run.accuracy.length || run.info.validates);
const newRun = info => ({ info, frames: [], points: [], accuracy: [], planes: new Map(), boxes: new Map(), status: {}, poke: null, inside: null,
                          painted: new Map(), asked: -Infinity });

function addPlanes(run, planes) {
  for (const p of planes ?? []) {
    run.planes.set(p.expert, p);
    run.boxes.set(p.expert, boxOf(p.path));
  }
}

function boxOf(path) {
  const box = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < path.length; i += 2) grow(box, path[i], path[i + 1]);
  return box;
}

function grow(box, x, y) {
  box[0] = Math.min(box[0], x); box[1] = Math.min(box[1], y); box[2] = Math.max(box[2], x); box[3] = Math.max(box[3], y);
}

// At most `most` items in the order of their steps, evenly spread over the run however long it gets: the first in each of equal stretches, and the newest
function thin(list, most, step) {
  for (let stretch = 2; list.length > most; stretch *= 2) {
    const place = x => Math.floor(step(x) / stretch);
    list = list.filter((x, i) => i === 0 || i === list.length - 1 || place(x) !== place(list[i - 1]));
  }
  return list;
}

// A list of [step, ...] with `more`, which is complete from its first step to its last; a replay may arrive after a newer tick
function joined(list, more) {
  if (!more.length) return list;
  const from = more[0][0], to = last(more)[0];
  return thin([...list.filter(p => p[0] < from), ...more, ...list.filter(p => p[0] > to)], MAX_POINTS, p => p[0]);
}

function addFrame(run, frame) {
  const at = run.frames.findLastIndex(f => f.step <= frame.step);
  if (at >= 0 && run.frames[at].step === frame.step) run.frames[at] = frame;
  else run.frames.splice(at + 1, 0, frame);
  const size = Object.values(frame).reduce((sum, v) => sum + (v?.byteLength ?? 0), 0);
  run.frames = thin(run.frames, clamp(MAX_BYTES / size, 2, MAX_FRAMES), f => f.step);
  const plane = run.planes.get(frame.expert);
  if (frame.path && plane) {  // make room for the student, but never so much that the expert becomes a dot
    const [a, b, c, d] = boxOf(plane.path), w = c - a, h = d - b, box = run.boxes.get(frame.expert);
    for (let i = 0; i < frame.path.length; i += 2)
      grow(box, clamp(frame.path[i], a - w / 2, c + w / 2), clamp(frame.path[i + 1], b - h, d + h));
  }
}

function receive(store, message) {
  if (message.kind === "replay") store.runs = message.runs.map(newRun);
  const run = store.runs[message.run];
  if (!run) return;  // it was said before the replay that was asked for
  if (message.kind === "replay" || message.kind === "reset") for (const view of store.views) view.restart();
  if (message.kind === "reset") store.runs[message.run] = Object.assign(newRun(message.info), { planes: run.planes, boxes: run.boxes });
  const target = store.runs[message.run];
  addPlanes(target, message.planes);
  for (const frame of message.frames ?? []) addFrame(target, frame);
  const p = message.points ?? [];
  target.points = joined(target.points, Array.from({ length: p.length / 3 }, (_, i) => [...p.subarray(3 * i, 3 * i + 3)]));
  target.accuracy = joined(target.accuracy, message.accuracy ?? []);
  if (message.status) target.status = message.status;
  if (message.kind === "inside") target.inside = message;
  if (message.kind === "tick") forget(target);
  if (message.kind === "poke") {
    target.asked = -Infinity;
    if (message.step < 0) return;  // an error, which the status tells
    target.poke = message;
    for (const s of target.painted.values()) if (s.sent) s.step ??= message.step;
  }
}

// The student's way with what was changed, if this frame is the newest and an answer for it has come
const poked = (run, frame) => frame && frame === last(run.frames) && run.poke?.step === frame.step && run.poke.distance ? run.poke : null;

// ---------------------------------------------------------------- what was painted, by image: all views show it

// It lasts until the meta-step after the one that it was answered at
function forget(run) {
  for (const [image, s] of run.painted) if (s.step != null && s.step !== last(run.frames)?.step) run.painted.delete(image);
}

// One question at a time: strokes made meanwhile go with the next one
function sendPaint(store, index, now = performance.now()) {
  const run = store.runs[index];
  if (!run || now - run.asked < 3000) return;
  for (const [image, s] of run.painted) if (!s.sent) {
    s.sent = true; run.asked = performance.now();
    send(store, { kind: "paint", run: index, image }, [s.pixels.slice().buffer, s.mask.slice().buffer]);
  }
}

function keepPaint(store, index) {
  sendPaint(store, index, Infinity);  // the last strokes, too
  for (const s of store.runs[index].painted.values()) Object.assign(s, { changed: false, kept: [s.pixels.slice(), s.mask.slice()] });
  send(store, { kind: "keep", run: index });
}

function undoPaint(store, index) {  // back to what was kept
  for (const [image, s] of store.runs[index].painted)
    if (s.kept) { s.pixels.set(s.kept[0]); s.mask.set(s.kept[1]); Object.assign(s, { changed: false, sent: true }); }
    else store.runs[index].painted.delete(image);
  send(store, { kind: "undo", run: index });
}

// ---------------------------------------------------------------- the kernel

function send(store, message, buffers) { if (!store.gone) store.model.send(message, undefined, buffers); }

function openStore(model) {
  const store = { model, runs: [], views: new Set(), gone: false };
  model.on("comm_live_update", () => {
    store.gone = true;
    for (const run of store.runs) Object.assign(run.status, { running: false, word: "no kernel" });
    for (const view of store.views) view.redraw();
    try { model.send({ kind: "ready" }); } catch { }  // if it was the connection alone, there is an answer
  });
  model.on("msg:custom", (content, buffers) => {
    const message = unpack(content, buffers);
    store.gone = false;
    receive(store, message);
    if (message.kind === "poke") sendPaint(store, message.run);
    for (const view of store.views) view.told(message);
  });
  model.send({ kind: "ready" });
  return store;
}

// ---------------------------------------------------------------- page elements

function element(tag, parent, attributes = {}, text = "") {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  if (text) e.textContent = text;
  parent?.append(e);
  return e;
}

class View {
  constructor(store, el) {
    Object.assign(this, { store, cursor: null, peek: null, k: null, peekK: null, playing: null, locked: null, plane: null, switched: 0,
                          open: null, brushAt: null, drag: null, swept: false, drawn: 0, regions: [], atlases: [], scale: 1, dirty: false, lastDraw: 0 });
    this.root = element("div", el, { class: "mtt" });
    this.build();
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.undo = [];
    const watch = (target, what, f) => { target.addEventListener(what, f); this.undo.push(() => target.removeEventListener(what, f)); };
    watch(matchMedia("(prefers-color-scheme: dark)"), "change", () => this.redraw());
    watch(document, "fullscreenchange", () => this.redraw());
    watch(window, "resize", () => this.redraw());
    const theme = new MutationObserver(() => this.redraw());
    theme.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"] });
    const size = new ResizeObserver(() => this.redraw());
    size.observe(this.root);
    this.undo.push(() => theme.disconnect(), () => size.disconnect());
    this.store.views.add(this);
    this.redraw();
  }

  build() {
    const r = this.root;
    const top = element("div", r, { class: "mtt-row mtt-top" });
    this.status = element("span", top, { class: "mtt-status" });
    this.backButton = element("button", top, { type: "button", class: "mtt-undo-reset" }, "Undo reset");
    this.backButton.hidden = true;
    this.error = element("div", r, { class: "mtt-error", role: "alert" });
    this.said = element("div", r, { class: "mtt-said", role: "status" });
    this.stage = element("div", r, { class: "mtt-stage" });
    this.canvas = element("canvas", this.stage, { tabindex: 0, role: "application", "aria-roledescription": "picture of the run", class: "mtt-canvas" });
    const row = element("div", r, { class: "mtt-row" });
    this.liveButton = element("button", row, { type: "button", class: "mtt-live", title: "Follow the newest meta-step (Escape)" });
    const tip = "Go through the recorded meta-steps; another press stops";
    this.playButton = element("button", row, { type: "button", class: "mtt-play", title: tip }, "Play");
    this.scrub = element("input", row, { type: "range", class: "mtt-scrub", "aria-label": "meta-step shown", min: 0, max: 0, value: 0 });
    this.scrubText = element("span", row, { class: "mtt-out" });
    this.fullButton = element("button", row, { type: "button", class: "mtt-full", title: "All of the screen, large enough for a lecture hall (key f; Escape ends it)" }, "Full screen");
    const inner = element("div", r, { class: "mtt-row mtt-inner" });
    element("span", inner, { class: "mtt-lead" }, "Inside this meta-step");
    this.kScrub = element("input", inner, { type: "range", class: "mtt-k", "aria-label": "student step shown", min: 0, max: 0, value: 0 });
    this.kText = element("span", inner, { class: "mtt-out" });
    this.sweepButton = element("button", inner, { type: "button", class: "mtt-sweep", title: "Which student step gives which image how much gradient" }, "Backward sweep");
    this.freeButton = element("button", inner, { type: "button", class: "mtt-free", title: "Draw start and expert at random again" }, "Random segments");
    this.chips = element("span", inner, { class: "mtt-chips", role: "group", "aria-label": "expert shown in the plane" });
    const bar = this.bar = element("div", r, { class: "mtt-row mtt-bar" });  // the page's own buttons are not on the full screen
    for (const [kind, name] of [["toggle", "Start"], ["step", "Step"], ["reset", "Reset"]])
      element("button", bar, { type: "button", class: `mtt-${kind}` }, name).onclick = () => this.send({ kind });
    element("span", bar, { class: "mtt-lead" }, KEYS.join("  ·  "));
    this.buildPanel();
    this.listen();
  }

  buildPanel() {
    const p = this.panel = element("div", this.stage, { class: "mtt-panel", role: "dialog", tabindex: -1 });
    p.hidden = true;
    const pair = element("div", p, { class: "mtt-pair" }), side = element("div", p, { class: "mtt-side" });
    this.big = element("canvas", pair, { class: "mtt-big", role: "img", tabindex: -1, "aria-label": "the image: paint on it" });
    this.grad = element("canvas", pair, { class: "mtt-grad", role: "img", "aria-label": "gradient of the loss on its pixels" });
    this.panelTitle = element("div", side, { class: "mtt-title", id: `mtt-title-${Math.random()}` });
    p.setAttribute("aria-labelledby", this.panelTitle.id);
    this.panelText = element("div", side, { class: "mtt-note" });
    const tools = element("div", side, { class: "mtt-row" });
    element("label", tools, {}, "Brush").append(this.brush = element("input", null, { type: "range", min: 0, max: 255, value: 255, class: "mtt-brush", "aria-label": "brush, black to white" }),
                                               this.colour = element("input", null, { type: "color", value: "#ffffff", class: "mtt-colour", "aria-label": "brush colour" }));
    const button = (name, text, title) => element("button", tools, { type: "button", class: `mtt-${name}`, title }, text);
    this.keepButton = button("keep", "Keep", "Give the run the painted image: the next meta-step starts from it");
    this.undoButton = button("undo", "Undo", "Forget what was painted and not kept");
    button("previous", "‹", "The image before (key [)").onclick = () => this.next(-1);
    button("next", "›", "The next image (key ])").onclick = () => this.next(1);
    this.closeButton = button("close", "Close", "Escape");
  }

  listen() {
    const c = this.canvas;
    this.liveButton.onclick = () => this.goLive();
    this.playButton.onclick = () => this.play();
    this.fullButton.onclick = () => this.fill();
    this.root.addEventListener("pointerdown", e => { if (e.target !== this.playButton) this.stop(); }, true);
    this.scrub.oninput = () => { this.cursor = +this.scrub.value; this.k = null; this.redraw(); };
    this.scrub.onchange = () => { if (this.cursor >= this.latest()) this.goLive(); };  // at its end it follows the run, as the curves do
    this.kScrub.oninput = () => { this.calm(); this.k = +this.kScrub.value; this.redraw(); };
    this.sweepButton.onclick = () => this.sweep();
    this.backButton.onclick = () => { this.send({ kind: "undo_reset" }); this.canvas.focus({ preventScroll: true }); };  // it goes away
    this.freeButton.onclick = () => {
      this.store.runs.forEach((r, run) => { if (r.status.pinned) this.send({ kind: "segment", run, expert: null }); });
      this.canvas.focus({ preventScroll: true });  // it goes away, too
    };
    this.closeButton.onclick = () => this.show(null);
    this.keepButton.onclick = () => this.settle(keepPaint);
    this.undoButton.onclick = () => this.settle(undoPaint);
    c.onpointermove = e => this.pointer(e);
    c.onpointerdown = e => { c.focus({ preventScroll: true }); this.press(e); };
    c.onpointerup = c.onpointercancel = e => this.release(e);
    c.onpointerleave = () => { if (!this.drag) { this.peek = this.peekK = null; this.redraw(); } };
    const held = e => { if (this.handleAt(e.touches[0])) e.preventDefault(); };  // or the page scrolls
    c.addEventListener("touchstart", held, { passive: false });
    this.root.onkeydown = e => this.key(e);
    const paint = e => this.paint(e);
    this.big.onpointerdown = e => {
      if (e.button) return;
      e.preventDefault();  // the focus would go to the page, and the keys with it
      this.panel.focus({ preventScroll: true });
      this.big.setPointerCapture(e.pointerId); this.painting = true; paint(e);
    };
    this.big.onpointermove = e => { if (this.painting) paint(e); };
    this.big.onpointerup = this.big.onpointercancel = () => { this.painting = false; this.brushAt = null; };
  }

  send(message) { send(this.store, message); }

  close() {
    this.undo.forEach(f => f());
    this.calm();
    clearInterval(this.playing);
    clearTimeout(this.later);
    this.store.views.delete(this);
  }

  // -------------------------------------------------------------- which frame

  steps() { return this.store.runs.flatMap(r => r.frames.length ? [last(r.frames).step] : []); }
  latest() { return Math.max(0, ...this.steps()); }
  wanted() { return this.peek ?? this.cursor ?? Infinity; }
  frame(run) {
    const at = run.frames.findLastIndex(f => f.step <= this.wanted());
    return run.frames[Math.max(0, at)];
  }
  isLatest(run) { return this.frame(run) === last(run.frames); }
  inner() { return this.peekK ?? this.k; }  // the student step shown
  goLive() { this.calm(); this.cursor = this.peek = this.k = null; this.redraw(); }
  restart() {
    this.calm(); this.stop();
    this.cursor = this.peek = this.k = this.peekK = this.plane = this.drag = null;
    this.show(null);
  }

  play() {
    if (this.playing) return this.stop();
    if (this.cursor == null) this.move(-1e9);
    const [by, wait] = this.still.matches ? [8, 533] : [1, 67];
    this.playing = setInterval(() => { this.move(by); if (this.cursor == null) this.stop(); }, wait);
    this.redraw();
  }
  stop() {
    if (!this.playing) return;
    clearInterval(this.playing);
    this.playing = null;
    this.redraw();
  }

  move(by) {
    const steps = [...new Set(this.store.runs.flatMap(r => r.frames.map(f => f.step)))].sort((a, b) => a - b);
    if (!steps.length) return;
    const at = steps.findLastIndex(s => s <= Math.min(this.cursor ?? Infinity, last(steps)));
    const to = clamp(at + by, 0, steps.length - 1);
    this.peek = this.k = null;
    this.cursor = to === steps.length - 1 && by > 0 ? null : steps[to];
    this.redraw();
  }

  moveInside(by) {
    const n = this.innerSteps();
    this.calm();
    if (n) { this.k = clamp((this.k ?? (by > 0 ? -1 : n + 1)) + by, 0, n); this.redraw(); }
  }
  innerSteps() { const f = this.store.runs[0] && this.frame(this.store.runs[0]); return f?.distance ? f.distance.length - 1 : 0; }

  key(e) {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    const by = e.target === this.scrub && { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[e.key];  // frames, which may be far apart
    if (by) { this.stop(); this.move(by); e.preventDefault(); }
    const arrow = e.key.startsWith("Arrow"), slides = e.target.matches(".noUi-handle") && (arrow || /^(Home|End|Page)/.test(e.key));
    const its = slides || e.target.isContentEditable || e.target.tagName === "INPUT" && e.key !== "Escape" || e.target.tagName === "BUTTON" && e.key === " ";
    if (e.target.type === "range" && e.key === " ") e.preventDefault();  // the page would scroll
    if (its) { e.stopPropagation(); return; }  // a control's own keys: JupyterLab is not to take them
    const inside = e.shiftKey, act = {
      ArrowLeft: () => inside ? this.moveInside(-1) : this.move(-1), ArrowRight: () => inside ? this.moveInside(1) : this.move(1),
      Home: () => this.move(-1e9), End: () => this.goLive(), Escape: () => this.open ? this.show(null) : this.goLive(),
      " ": () => e.repeat || this.send({ kind: "toggle" }), s: () => this.send({ kind: "step" }),
      "[": () => this.next(-1), "]": () => this.next(1), f: () => e.repeat || this.fill(),
      ",": () => this.shift(-1, 0), ".": () => this.shift(1, 0), "<": () => this.shift(0, -1), ">": () => this.shift(0, 1),
    }[e.key];
    if (act) { this.stop(); act(); e.preventDefault(); }
    if (act || arrow || e.key.length === 1) e.stopPropagation();  // JupyterLab would insert a cell for b
  }

  // -------------------------------------------------------------- pointing

  at(e) {
    const box = this.canvas.getBoundingClientRect(), x = (e.clientX - box.left) / this.scale, y = (e.clientY - box.top) / this.scale;
    return { x, y, region: this.regions.find(r => x >= r.x && x <= r.x + r.w && y >= r.y && y <= r.y + r.h) };
  }

  pointer(e) {
    if (this.drag) return this.dragged(e);
    const { x, y, region } = this.at(e), old = this.peek, oldK = this.peekK;
    this.peek = this.peekK = null;
    this.canvas.style.cursor = "default";
    if (region?.kind === "curve") { this.peek = region.step(x); this.canvas.style.cursor = "ew-resize"; }
    else if (region?.kind === "strip") { this.peekK = region.k(x); this.canvas.style.cursor = "ew-resize"; }
    else if (region?.kind === "plane") {
      const handle = region.handle(x, y), end = handle ? null : region.end(x, y);
      if (handle) this.canvas.style.cursor = "grab";
      if (end != null) { this.peek = end; this.canvas.style.cursor = "pointer"; }
    } else if (region?.kind === "images" && region.image(x, y) != null) this.canvas.style.cursor = "zoom-in";
    if (this.peek !== old || this.peekK !== oldK) this.redraw();
  }

  handleAt(e) {
    const { x, y, region } = this.at(e);
    return region?.kind === "plane" ? region.handle(x, y) : null;
  }

  press(e) {
    const { x, y, region } = this.at(e), handle = this.handleAt(e);
    if (!region || e.button) return;
    if (handle) this.drag = { kind: "segment", which: handle, region, epoch: region.epoch, target: region.target };
    else if (region.kind === "curve") this.drag = { kind: "curve", region };
    else if (region.kind === "strip") this.drag = { kind: "strip", region };
    else if (region.kind === "plane" && region.end(x, y) != null) { this.cursor = region.end(x, y); this.redraw(); }
    else if (region.kind === "images" && region.image(x, y) != null)
      this.drag = { kind: "image", open: { run: region.run, image: region.image(x, y) } };
    if (this.drag) { this.canvas.setPointerCapture(e.pointerId); this.dragged(e); }
  }

  dragged(e) {
    const { x, y } = this.at(e), d = this.drag, old = d.region;
    d.region = this.regions.find(r => r.kind === old?.kind && r.x === old.x && r.y === old.y) ?? old;  // as it is drawn now
    if (d.kind === "curve") this.cursor = this.peek = d.region.step(x);
    if (d.kind === "strip") { this.calm(); this.k = this.peekK = d.region.k(x); }
    if (d.kind === "segment") {
      const near = d.region.nearest(x, y);
      if (d.which === "start") d.epoch = Math.min(near, d.target - 1); else d.target = Math.max(near, d.epoch + 1);
      const key = `${d.epoch} ${d.target}`;
      if (key !== d.key) this.askSegment(d.region, d.epoch, d.target);
      d.key = key;
    }
    this.redraw();
  }

  release(e) {
    const d = this.drag;
    if (d?.kind === "curve" && this.cursor >= this.latest()) this.cursor = null;
    if (d?.kind === "image" && e.type === "pointerup") this.show(d.open);  // not where the page is scrolled by a finger
    this.peek = this.peekK = this.drag = null;
    this.redraw();
  }

  askSegment({ run, expert }, epoch, target) { this.send({ kind: "segment", run, expert, epoch, span: target - epoch }); }

  shift(start, target) {  // the keyboard's way to drag
    const region = this.regions.find(r => r.kind === "plane" && r.movable);
    if (!region) return;
    const epoch = clamp(region.epoch + start, 0, region.target + target - 1), end = clamp(region.target + target, epoch + 1, region.epochs);
    this.askSegment(region, epoch, end);
  }

  // -------------------------------------------------------------- one image, painted

  show(open) {
    const inside = this.panel.contains(document.activeElement);
    this.open = open;
    this.panel.hidden = !open;
    if (open && !inside) this.closeButton.focus({ preventScroll: true });
    else if (!open && inside) this.canvas.focus({ preventScroll: true });  // or the keys would be JupyterLab's
    this.redraw();
    if (open) requestAnimationFrame(() => this.panel.scrollIntoView({ block: "nearest" }));  // once it has its place
  }

  next(by) {
    const o = this.open ?? { run: 0, image: -Math.min(by, 0) - 1 }, n = this.store.runs[o.run]?.info.n ?? 0;
    if (n) this.show({ run: o.run, image: (o.image + by + n) % n });
  }

  strokes() { return this.open && this.store.runs[this.open.run].painted.get(this.open.image); }

  paint(e) {
    const run = this.store.runs[this.open?.run], frame = run && this.frame(run);
    if (!frame || !run.info.can.includes("paint") || !this.isLatest(run)) return;
    if (run.status.running) this.send({ kind: "pause" });
    const [h, w, c] = frame.images.shape.slice(1), box = this.big.getBoundingClientRect();
    const pixel = p => [Math.floor((p.clientX - box.left) / box.width * w), Math.floor((p.clientY - box.top) / box.height * h)];
    const s = this.strokes() ?? { pixels: new Uint8Array(h * w * c), mask: new Uint8Array(h * w) };
    run.painted.set(this.open.image, Object.assign(s, { changed: true, sent: false, step: null }));
    const radius = Math.floor(Math.min(h, w) / 24), ink = this.ink(c), moves = e.getCoalescedEvents?.() ?? [];
    const dab = (px, py) => {  // what lies outside the image is left out
      for (let y = Math.max(0, py - radius); y <= Math.min(h - 1, py + radius); y++)
        for (let x = Math.max(0, px - radius); x <= Math.min(w - 1, px + radius); x++) {
          s.mask[y * w + x] = 1;
          for (let i = 0; i < c; i++) s.pixels[(y * w + x) * c + i] = ink[i];
        }
    };
    for (const [x, y] of (moves.length ? moves : [e]).map(pixel)) {  // pixel by pixel from the last place to this one
      const [x0, y0] = this.brushAt ?? [x, y], n = Math.max(1, Math.abs(x - x0), Math.abs(y - y0));
      for (let i = 0; i <= n; i++) dab(Math.round(x0 + (x - x0) * i / n), Math.round(y0 + (y - y0) * i / n));
      this.brushAt = [x, y];
    }
    sendPaint(this.store, this.open.run);
    this.redrawAll();
  }

  settle(act) {  // what was painted is kept or undone
    this.panel.focus({ preventScroll: true });  // a button that goes grey loses the focus
    act(this.store, this.open.run);
    this.redrawAll();
  }

  ink(c) { return c === 1 ? [+this.brush.value] : [1, 3, 5].map(i => parseInt(this.colour.value.slice(i, i + 2), 16)); }

  sweep() {
    const run = this.store.runs[0], frame = run && this.frame(run);
    if (!frame) return;
    if (run.status.running) this.send({ kind: "pause" });
    this.cursor = null;
    this.swept = true;
    this.send({ kind: "inside", run: 0 });
  }

  animateSweep(message) {
    this.calm();
    const n = this.k = message.norms.shape[0];
    if (this.still.matches) return;
    this.timer = setInterval(() => {
      if (this.k > 1) { this.k -= 1; this.redraw(); return; }
      this.calm();
      this.timer = setTimeout(() => { this.k = null; this.redraw(); }, 4000);
    }, clamp(5000 / n, 60, 400));
  }
  calm() { clearTimeout(this.timer); }  // of either kind

  told(message) {
    if (message.kind === "inside" && this.swept) { this.swept = false; this.animateSweep(message); }  // in the view that asked
    if (!this.still.matches) return this.redraw();
    const wait = clamp(500 - (performance.now() - this.lastDraw), 0, 500);  // less motion: what moves by itself does so twice a second
    this.later ??= setTimeout(() => { this.later = null; this.redraw(); }, wait);
  }

  // -------------------------------------------------------------- drawing

  redraw() {
    if (this.dirty) return;
    this.dirty = true;
    requestAnimationFrame(() => { this.dirty = false; this.lastDraw = performance.now(); if (this.root.isConnected) this.draw(); });
  }
  redrawAll() { for (const view of this.store.views) view.redraw(); }

  draw() {
    const { runs } = this.store, css = getComputedStyle(this.root), wide = Math.max(240, this.stage.clientWidth);
    this.drawPanel();  // first, as the layout asks for its height
    this.scale = this.fitting(wide, runs);
    this.root.style.setProperty("--mtt-scale", this.scale);
    const width = wide / this.scale;
    const colour = name => css.getPropertyValue(`--mtt-${name}`).trim();
    this.ink_ = Object.fromEntries(["text", "faint", "line", "expert", "student", "ends", "loss", "accuracy"].map(n => [n, colour(n)]));
    const parts = this.layout(width, runs, this.scale), ratio = this.scale * (window.devicePixelRatio || 1), c = this.canvas;
    if (c.width !== Math.round(width * ratio) || c.height !== Math.round(parts.height * ratio)) {
      c.width = Math.round(width * ratio); c.height = Math.round(parts.height * ratio);
      c.style.height = `${parts.height * this.scale}px`;
    }
    const g = this.g = c.getContext("2d");
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, parts.height);
    g.imageSmoothingEnabled = false;
    g.lineJoin = "round";
    this.regions = [];
    runs.forEach((run, i) => {
      const frame = this.frame(run), p = parts.runs[i];
      if (p.plane) { this.drawPlane(run, i, frame, p.plane); this.drawStrip(run, frame, p.strip); }
      this.drawImages(run, i, frame, p.images);
    });
    this.drawCurves(runs, parts.curves);
    const { x: left, y: top, w: across } = parts.panel ?? {};
    if (parts.panel) for (const [side, v] of Object.entries({ left, top, width: across })) this.panel.style[side] = `${v * this.scale}px`;
    this.words();
    if (document.fullscreenElement === this.root && this.rowsHeight() > this.fitted.rows) this.redraw();  // a row has appeared
  }

  panelHeight(w, scale) {
    this.panel.style.width = `${w * scale}px`;
    return this.panel.offsetHeight / scale;
  }

  fill() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.root.requestFullscreen?.().then(() => this.canvas.focus());
  }

  // How much larger than on a page: on the full screen as much as leaves room for the rows
  fitting(wide, runs) {
    if (document.fullscreenElement !== this.root) return 1;
    const r = this.root, now = [wide, r.clientHeight, runs.length, this.chips.childElementCount, !!this.open].join();
    if (this.fitted?.now === now && this.rowsHeight() <= this.fitted.rows) return this.fitted.scale;
    let scale = 3.05, needed;
    do {
      scale = Math.round(20 * scale - 1) / 20;
      r.style.setProperty("--mtt-scale", scale);
      needed = scale * (this.layout(wide / scale, runs, scale).height + 26) + this.rowsHeight();
    } while (scale > 1 && (needed > r.clientHeight || wide / scale < 720));
    this.fitted = { now, scale, rows: this.rowsHeight() };
    return scale;
  }
  rowsHeight() { return [...this.root.children].reduce((sum, e) => sum + (e === this.stage ? 0 : e.offsetHeight), 0); }

  layout(width, runs, scale) {
    const n = Math.max(1, runs.length), gap = 16, share = k => (width - gap * (k - 1)) / k;
    const columns = share(n) < 420 ? 1 : n, w = share(columns);
    const side = columns === 1 && width > 700, strip = 92, out = { runs: [] };
    const pathless = run => !run.planes.size && !run.frames.some(f => f.distance);
    const room = document.fullscreenElement === this.root ? Infinity : innerHeight - 505;  // the curves and the first row are to be seen
    const planeH = clamp(Math.min(width * (side || columns > 1 ? 0.34 : 0.7), room), 170, 380), high = planeH + strip + 8;
    for (let i = 0, y = 0; i < n; i++) {
      const x = i % columns * (w + gap), left = Math.round(w * 0.54), plane = { x, y, w: side ? left : w, h: planeH };
      const strips = { x, y: y + planeH + 8, w: plane.w, h: strip };
      if (!runs[i] || pathless(runs[i])) out.runs.push({ images: { x, y, w, h: high } });
      else if (side) out.runs.push({ plane, strip: strips, images: { x: x + left + gap, y, w: w - left - gap, h: high } });
      else out.runs.push({ plane, strip: strips, images: { x, y: y + high + 8, w, h: this.imagesHeight(runs[i], w) } });
      const { images } = out.runs[i];
      if (columns === 1) y = images.y + images.h + 12;
    }
    let bottom = Math.max(...out.runs.map(p => p.images.y + p.images.h));
    const images = out.runs[this.open?.run]?.images;
    if (images) {  // the panel covers nothing: it stands under the images where they leave room for it, else above the curves
      const rest = images.h - 8 - this.panelHeight(images.w, scale), below = rest < 110;
      out.panel = below ? { x: 0, y: bottom + 8, w: width } : { ...images, y: images.y + rest + 8 };
      if (below) bottom += 8 + this.panelHeight(width, scale);
      else images.h = rest;
    }
    const curves = withAccuracy(runs) ? 3 : 2, rows = width / curves < 140 ? curves : 1;
    out.curves = { x: 0, y: bottom + 12, w: width, h: rows * CURVE };
    out.height = bottom + 12 + rows * CURVE;
    return out;
  }

  imagesHeight(run, w) {  // where they stand under the plane: with a line of words, and not more
    const box = { w, h: 336 }, shape = (this.frame(run)?.images ?? run.info.begin)?.shape;
    if (!shape) return box.h;
    const { columns, rise } = this.tiling(shape, box);
    return 22 + Math.ceil(shape[0] / columns) * rise + 18;
  }

  tiling([n, h, w], box) {  // as large as they go; a last row that is not full counts against it
    const fit = columns => {
      const tile = Math.min(box.w / columns, box.h / Math.ceil(n / columns) * (w / h)), gap = clamp(tile * 0.08, 1, 6), zoom = (tile - gap) / w;
      const zw = zoom >= 1 ? Math.floor(zoom) * w : zoom * w, zh = zw * h / w;
      return { columns, zw, zh, pitch: zw + gap, rise: zh + gap, worth: zw / (n % columns ? 1.35 : 1) };
    };
    let best = fit(1);
    for (let columns = 2; columns <= n; columns++) {
      const next = fit(columns);
      if (next.worth >= best.worth) best = next;  // of two as large the one with fewer rows
    }
    return best;
  }

  text(s, x, y, { color = this.ink_.text, align = "left", size = 12, bold = false, base = "alphabetic", max } = {}) {
    const g = this.g;
    this.letters(size, bold);
    g.fillStyle = color; g.textAlign = align; g.textBaseline = base;
    g.fillText(s, x, y, max);
  }
  letters(size, bold) { this.g.font = `${bold ? "600 " : ""}${size}px ${this.font ??= getComputedStyle(this.root).fontFamily}`; }
  wide(s, size, bold) { this.letters(size, bold); return this.g.measureText(s).width; }

  heading(r, titles, size, aside = "", look = {}) {  // the first of the titles that leaves room for what stands at the right
    const room = r.w - (aside && this.wide(aside, 11, look.bold) + 12);
    const title = titles.find(s => this.wide(s, size, true) <= room) ?? last(titles);
    this.text(title, r.x, r.y + size, { size, bold: true, max: room });
    this.text(aside, r.x + r.w, r.y + size, { size: 11, align: "right", color: this.ink_.faint, ...look });
  }

  line(points, color, width = 1.5, dash = []) {
    const g = this.g;
    g.beginPath();
    points.forEach(([x, y], i) => i ? g.lineTo(x, y) : g.moveTo(x, y));
    g.strokeStyle = color; g.lineWidth = width; g.setLineDash(dash); g.stroke(); g.setLineDash([]);
  }

  dot(x, y, r, color, { square = false, hollow = false } = {}) {
    const g = this.g;
    g.beginPath();
    if (square) g.rect(x - r, y - r, 2 * r, 2 * r); else g.arc(x, y, r, 0, 7);
    g.fillStyle = g.strokeStyle = color; g.lineWidth = 2;
    if (hollow) g.stroke(); else g.fill();
  }

  choosePlane(run, frame) {  // the expert whose plane is shown: while running no more than one change in three seconds
    const mine = [poked(run, frame), frame].find(f => f?.path)?.expert, now = performance.now();
    if (this.locked != null && run.planes.has(this.locked)) return this.locked;
    const hurried = run.status.running && this.cursor == null && this.peek == null && now - this.switched < 3000;
    if (mine != null && mine !== this.plane && !(hurried && run.planes.has(this.plane))) { this.plane = mine; this.switched = now; }
    return this.plane ?? run.planes.keys().next().value;
  }

  drawPlane(run, index, newest, r) {
    const g = this.g, ink = this.ink_, expert = this.choosePlane(run, newest), plane = run.planes.get(expert);
    this.text(`${this.store.runs.length > 1 ? run.info.name + ": " : ""}parameter space${expert == null ? "" : `, plane of expert ${expert}`}`, r.x, r.y + 13, { bold: true, size: 13 });
    if (!plane) {  // of so many or so large experts that not all planes are kept
      if (newest) this.text("the plane of this expert is not kept", r.x + 18, r.y + 40, { color: ink.faint, size: 11 });
      return;
    }
    const wanted = newest?.step ?? Infinity, mine = run.frames.filter(f => f.step <= wanted && f.expert === expert && f.path), frame = last(mine);
    const changed = poked(run, newest), poke = changed?.path && changed.expert === expert ? changed : null;  // not on another expert's segment
    const [x0, y0, x1, y1] = run.boxes.get(expert), in_ = { x: r.x + 18, y: r.y + 22, w: r.w - 26, h: r.h - 44 };
    const pad = 0.07, high = Math.max(pad, 20 / in_.h);  // room for a number above the highest epoch
    const sx = in_.w / ((x1 - x0) * (1 + 2 * pad)), sy = in_.h / ((y1 - y0) * (1 + 2 * high));
    const to = (x, y) => [in_.x + (x - x0 + (x1 - x0) * pad) * sx, in_.y + in_.h - (y - y0 + (y1 - y0) * high) * sy];
    const walk = path => Array.from({ length: path.length / 2 }, (_, i) => to(path[2 * i], path[2 * i + 1]));
    g.strokeStyle = ink.line; g.lineWidth = 1; g.strokeRect(in_.x, in_.y, in_.w, in_.h);
    g.save(); g.beginPath(); g.rect(in_.x - 6, in_.y - 6, in_.w + 12, in_.h + 12); g.clip();
    const path = walk(plane.path);
    this.line(path, ink.expert, 2);
    path.forEach(([x, y], t) => { this.dot(x, y, 3, ink.expert); if (t % 5 === 0 || t === path.length - 1) this.text(String(t), x, y - 7, { color: ink.expert, size: 10, align: "center" }); });
    const ends = mine.slice(0, -1).map(f => ({ step: f.step, at: to(f.path[f.path.length - 2], f.path[f.path.length - 1]) }));
    ends.forEach((e, i) => { g.globalAlpha = 0.12 + 0.5 * i / ends.length; this.dot(...e.at, 2.5, ink.ends); });
    g.globalAlpha = 1;
    const region = { kind: "plane", run: index, ...r, expert, handle: () => null,
                     end: (x, y) => ends.reduce((best, e) => { const d = Math.hypot(e.at[0] - x, e.at[1] - y); return d < best[0] ? [d, e.step] : best; }, [9, null])[1],
                     nearest: (x, y) => path.reduce((best, p, t) => { const d = Math.hypot(p[0] - x, p[1] - y); return d < best[0] ? [d, t] : best; }, [Infinity, 0])[1] };
    if (poke ?? frame) this.drawStudent(run, newest, frame, poke, { to, walk, path, region });
    g.restore();
    const [e1, e2] = plane.explained, stretch = sy / sx;
    this.text(`axis 1: ${(100 * e1).toFixed(1)} % of the expert's variance`, in_.x + in_.w, r.y + r.h - 8, { color: ink.faint, align: "right", size: 11 });
    if (in_.w > 340) this.text(`drawn ×${short(stretch)} as high as wide`, in_.x, r.y + r.h - 8, { color: ink.faint, size: 11 });
    g.save(); g.translate(r.x + 11, in_.y + in_.h / 2); g.rotate(-Math.PI / 2);
    this.text(`axis 2: ${(100 * e2).toFixed(1)} %`, 0, 0, { color: ink.faint, align: "center", size: 11 });
    g.restore();
    const crowd = [path, ...[poke, frame].filter(Boolean).map(f => walk(f.path))].flatMap(points => points.flatMap(([x, y], i) => {  // of the lines, too
      const [u, v] = points[Math.max(0, i - 1)];
      return [0, 0.2, 0.4, 0.6, 0.8].map(a => [x + a * (u - x), y + a * (v - y)]);
    }));
    const older = frame && newest !== frame ? `, meta-step ${frame.step}` : "";
    this.legend(in_, crowd, poke && newest !== frame ? "" : `student${older}`, ends.length > 0, region);
    this.regions.push(region);
  }

  legend(in_, crowd, student, ends, { changed, movable }) {  // in the emptiest corner, or between two
    const ink = this.ink_, w = 160, h = 58 + 14 * (changed + ends), corners = [[1, 1], [0, 0], [1, 0], [0, 1], [0.5, 1], [0.5, 0]].map(([i, j]) => [in_.x + 6 + i * (in_.w - w - 12), in_.y + 8 + j * (in_.h - h - 8)]);
    const points = ([cx, cy]) => crowd.filter(([x, y]) => x > cx - 12 && x < cx + w + 12 && y > cy - 16 && y < cy + h + 12).length;
    const [x, y] = corners.reduce((best, c) => points(c) < points(best) ? c : best);
    let at = y + 4;
    const row = (draw, s) => { draw(at); this.text(s, x + 30, at + 4, { size: 11 }); at += 14; };
    const walk = (v, color) => { this.line([[x, v], [x + 24, v]], color, 2, [5, 3]); this.dot(x + 12, v, 3, color, { square: true }); };
    row(v => { this.line([[x, v], [x + 24, v]], ink.expert, 2); this.dot(x + 12, v, 3, ink.expert); }, "expert, by epoch");
    if (student) row(v => walk(v, ink.student), student);
    if (changed) row(v => walk(v, ink.text), "student, changed");
    if (ends) row(v => this.dot(x + 12, v, 2.5, ink.ends), "other ends");
    row(v => this.dot(x + 12, v, 4.5, ink.text, { hollow: true, square: true }), movable ? "start (drag it)" : "start");
    row(v => this.dot(x + 12, v, 5, ink.text, { hollow: true }), movable ? "target (drag it)" : "target");
  }

  drawStudent(run, newest, frame, poke, { to, walk, path, region }) {
    const ink = this.ink_, g = this.g;
    const shown = poke ?? frame, points = walk(shown.path), start = to(...shown.start), target = to(...shown.target);
    if (poke && frame === newest) { g.globalAlpha = 0.35; this.line(walk(frame.path), ink.student, 1.5, [3, 4]); g.globalAlpha = 1; }
    const color = poke ? ink.text : ink.student;
    this.line(points, color, 2.2, [6, 3]);
    points.forEach(([x, y]) => this.dot(x, y, 3, color, { square: true }));
    this.dot(...target, 8, ink.text, { hollow: true }); this.dot(...target, 1.5, ink.text);
    this.dot(...start, 6, ink.text, { hollow: true, square: true });
    const epoch = shown.epoch, end = this.nearestPoint(path, target), at = points[this.inner()];
    if (at) { this.dot(...at, 6.5, ink.text, { square: true }); this.dot(...at, 5, ink.student, { square: true }); }
    Object.assign(region, { epoch, changed: !!poke, target: end, epochs: path.length - 1, movable: run.info.can.includes("segment") && this.isLatest(run) });
    if (region.movable) region.handle = (x, y) => Math.hypot(x - target[0], y - target[1]) < 12 ? "target" : Math.hypot(x - start[0], y - start[1]) < 11 ? "start" : null;
    region.marks = { start, target };
  }

  nearestPoint(path, [x, y]) { return path.reduce((b, p, t) => { const d = Math.hypot(p[0] - x, p[1] - y); return d < b[0] ? [d, t] : b; }, [Infinity, 0])[1]; }

  drawStrip(run, frame, r) {
    const ink = this.ink_, g = this.g;
    const title = "distance to target, all dimensions", aside = "1: as far as the start; its square is the loss";
    this.heading(r, [title, "distance to target"], 12, this.wide(title, 12, true) + this.wide(aside, 11) + 12 < r.w ? aside : "");
    const poke = poked(run, frame), f = poke ?? frame;
    const in_ = { x: r.x + 34, y: r.y + 20, w: r.w - 142, h: r.h - 36 };
    g.strokeStyle = ink.line; g.lineWidth = 1; g.strokeRect(in_.x, in_.y, in_.w, in_.h);
    if (!f?.distance) return;
    const n = f.distance.length - 1;
    const top = Math.max(1.05, ...f.distance, ...(f.off ?? [])) * 1.04, to = (k, v) => [in_.x + in_.w * k / Math.max(1, n), in_.y + in_.h * (1 - Math.min(v, 4) / Math.min(top, 4))];
    for (const v of [0, 1]) this.text(String(v), in_.x - 5, to(0, v)[1] + 4, { color: ink.faint, align: "right", size: 10 });
    this.line([to(0, 1), to(n, 1)], ink.line, 1, [2, 3]);
    const curve = (values, color, dash) => this.line(Array.from(values, (v, k) => to(k, v)), color, 2, dash);
    if (poke && frame.distance) { g.globalAlpha = 0.35; curve(frame.distance, ink.student, [6, 3]); g.globalAlpha = 1; }
    curve(f.distance, poke ? ink.text : ink.student, [6, 3]);
    if (f.off) curve(f.off, ink.faint, [2, 2]);
    const label = (values, s, color, y) => this.text(`${s} ${last(values).toFixed(2)}`, in_.x + in_.w + 8, clamp(y, in_.y + 8, in_.y + in_.h), { color, size: 11 });
    const yt = to(n, last(f.distance))[1] + 4;
    label(f.distance, "to target", ink.text, yt);
    if (f.off) { const yo = to(n, last(f.off))[1] + 4; label(f.off, "off the plane", ink.faint, Math.abs(yo - yt) < 12 ? yt + (yo >= yt && yt < in_.y + in_.h - 12 ? 13 : -13) : yo); }
    const at = this.inner();
    if (at != null && at <= n) this.line([to(at, 0), [to(at, 0)[0], in_.y]], ink.text, 1.5);
    for (const k of [0, n]) this.text(String(k), to(k, 0)[0], in_.y + in_.h + 12, { color: ink.faint, size: 10, align: "center" });
    this.regions.push({ kind: "strip", ...r, k: x => clamp(Math.round((x - in_.x) / in_.w * n), 0, n) });
  }

  atlas(frame, index) {  // all images side by side, at one pixel a pixel
    if (this.atlases[index]?.frame === frame) return this.atlases[index].canvas;
    const [n, h, w, c] = frame.images.shape, canvas = document.createElement("canvas"), across = Math.min(n, 64);
    canvas.width = across * w; canvas.height = Math.ceil(n / across) * h;
    const g = canvas.getContext("2d"), pixels = g.createImageData(canvas.width, canvas.height), out = pixels.data, from = frame.images;
    for (let i = 0; i < n; i++) for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
      const a = ((i * h + y) * w + x) * c, b = ((Math.floor(i / across) * h + y) * canvas.width + (i % across) * w + x) * 4;
      out[b] = from[a]; out[b + 1] = from[a + (c > 1 ? 1 : 0)]; out[b + 2] = from[a + (c > 1 ? 2 : 0)]; out[b + 3] = 255;
    }
    g.putImageData(pixels, 0, 0);
    this.atlases[index] = { frame, canvas };
    return canvas;
  }

  overlay(s, [, h, w, c]) {  // the painted pixels alone
    const canvas = document.createElement("canvas");
    canvas.width = w; canvas.height = h;
    const g = canvas.getContext("2d"), pixels = g.createImageData(w, h);
    for (let p = 0; p < w * h; p++) if (s.mask[p]) pixels.data.set([...[0, 1, 2].map(q => s.pixels[p * c + Math.min(q, c - 1)]), 255], p * 4);
    g.putImageData(pixels, 0, 0);
    return canvas;
  }

  imagesHeading(run, frame, r, state, bars) {
    const [n, , , c] = frame?.images.shape ?? [0], named = this.store.runs.length > 1 && !run.planes.size;
    const name = named ? `${run.info.name}: ` : "";
    const title = `${name}${n ? `${n} ` : ""}synthetic image${n === 1 ? "" : "s"}${state}`;
    const note = bars || `pixels: ${c === 3 ? "0 to 1 in each colour" : "0 black to 1 white"}, clipped`;
    const fits = bars || this.wide(title, 13, true) + this.wide(note, 11) + 12 < r.w;
    this.heading(r, [title, `${name}${n} images`], 13, fits ? note : "");
  }

  drawImages(run, index, frame, r) {
    const ink = this.ink_, g = this.g, hint = "Step takes one meta-step, Start all of them.";
    const begin = frame || !run.info.begin ? null : run.begin ??= { images: run.info.begin };  // before the first meta-step
    frame ??= begin;
    const k = frame?.distance && this.inner() || null;  // student step k leads to point k: none leads to the start
    const norms = k && run.inside?.step === frame.step ? run.inside.norms : null;
    this.imagesHeading(run, frame, r, begin ? ", as they begin" : "", norms ? `bar: gradient by student step ${k}, of the largest` : "");
    if (!frame) { this.text(hint, r.x, r.y + 38, { color: ink.faint }); return; }
    const [n, h, w] = frame.images.shape, box = { x: r.x, y: r.y + 22, w: r.w, h: r.h - 24 };
    const { columns, zw, zh, pitch, rise } = this.tiling(frame.images.shape, box), across = Math.min(n, 64), left = box.x, atlas = this.atlas(frame, index);
    const place = i => [left + (i % columns) * pitch, box.y + Math.floor(i / columns) * rise];
    const size = frame.batches?.shape[1], batch = k && frame.batches ? new Set(frame.batches.subarray((k - 1) * size, k * size)) : null;
    const most = norms ? norms.reduce((a, b) => Math.max(a, b), 1e-30) : 1;
    for (let i = 0; i < n; i++) {
      const [x, y] = place(i);
      g.globalAlpha = batch && !batch.has(i) ? 0.22 : 1;
      g.drawImage(atlas, (i % across) * w, Math.floor(i / across) * h, w, h, x, y, zw, zh);
      const painted = this.isLatest(run) && run.painted.get(i);
      if (painted) g.drawImage(this.overlay(painted, frame.images.shape), x, y, zw, zh);
      g.globalAlpha = 1;
      const used = k && (!batch || batch.has(i));
      g.strokeStyle = used ? ink.text : ink.line; g.lineWidth = used ? 2 : 1;
      g.strokeRect(x - 0.5, y - 0.5, zw + 1, zh + 1);
      if (norms) { const v = norms[(k - 1) * n + i] / most; g.fillStyle = ink.student; g.fillRect(x, y + zh - Math.max(3, zh * 0.14), zw * v, Math.max(3, zh * 0.14)); }
      if (this.open?.run === index && this.open.image === i) { g.strokeStyle = ink.text; g.lineWidth = 3; g.strokeRect(x - 1, y - 1, zw + 2, zh + 2); }
    }
    if (begin) { this.text(hint, left, Math.min(place(n - 1)[1] + zh + 18, r.y + r.h - 4), { color: ink.faint }); return; }
    this.regions.push({ kind: "images", run: index, ...r, place, zw, zh, image: (x, y) => {
      const i = Math.floor((y - box.y) / rise) * columns + Math.floor((x - left) / pitch);
      return x >= left && x < left + columns * pitch && y >= box.y && i >= 0 && i < n ? i : null; } });
  }

  drawCurves(runs, r) {
    const many = runs.length > 1, across = r.h > CURVE ? 1 : withAccuracy(runs) ? 3 : 2, w = (r.w - 16 * (across - 1)) / across;
    const ink = this.ink_, dashes = [[], [5, 3], [2, 3]];
    const styles = color => runs.map((_, i) => [i ? ink.faint : color, dashes[i % 3]]);  // of the first run, and of those it is compared with
    const place = i => ({ x: r.x + i % across * (w + 16), y: r.y + Math.floor(i / across) * CURVE, w, h: CURVE - (across === 1 ? 8 : 0) });
    const panel = (i, color, ...curve) => this.drawCurve(place(i), styles(color), ...curve);
    const column = c => runs.map(run => run.points.map(p => [p[0], p[c]]));
    const loss = runs[0]?.info.loss ?? "loss", every = runs[0]?.info.every;
    const titles = [`${loss}, log scale (thick: running mean)`, `${loss}, log scale`, `${loss}, log`, "loss, log"];
    panel(0, ink.loss, titles.slice(+many), column(1), true, short);
    panel(1, ink.text, ["student learning rate", "student lr"], column(2), false, short);
    const accuracy = runs.map(run => run.accuracy);
    if (withAccuracy(runs)) panel(2, ink.accuracy, ["validation accuracy", "accuracy"], accuracy, false, percent, every ? `every ${every} meta-steps` : "");
    if (many) runs.forEach((run, i) => {
      const y = r.y + place(0).h - 24 - 13 * (runs.length - 1 - i);
      this.text(i ? "- - " : "\u2014 ", r.x + 46, y, { color: styles(ink.loss)[i][0], size: 11 });
      this.text(run.info.name, r.x + 46 + this.wide("- - ", 11), y, { size: 11 });
    });
  }

  drawCurve(r, styles, titles, series, log, format, empty = "") {
    const ink = this.ink_, g = this.g, f = log ? v => Math.log10(Math.max(v, 1e-12)) : v => v;
    const all = series.flat().filter(p => Number.isFinite(p[1]));
    const step = (this.store.runs[0] && this.frame(this.store.runs[0])?.step) ?? 0;
    const at = series.map(s => s.findLast(p => p[0] <= step)).filter(Boolean);
    this.heading(r, titles, 12, at.map(p => format(p[1])).join("  ·  "), { color: ink.text, bold: true });
    const in_ = { x: r.x + 40, y: r.y + 20, w: r.w - 46, h: r.h - 38 };
    g.strokeStyle = ink.line; g.lineWidth = 1; g.strokeRect(in_.x, in_.y, in_.w, in_.h);
    const end = Math.max(1, this.latest(), ...series.map(s => last(s)?.[0] ?? 0)), begin = Math.min(1, end);
    const X = s => in_.x + in_.w * (s - begin) / Math.max(1, end - begin);
    this.regions.push({ kind: "curve", ...r, step: x => Math.round(begin + clamp((x - in_.x) / in_.w, 0, 1) * (end - begin)) });
    if (this.latest()) {
      this.text("1", in_.x, r.y + r.h - 5, { color: ink.faint, size: 10, align: "center" });
      this.text(`${end}${in_.w < 110 ? "" : ` meta-step${end > 1 ? "s" : ""}`}`, in_.x + in_.w, r.y + r.h - 5, { color: ink.faint, size: 10, align: "right" });
    }
    if (!all.length) return this.text(empty, in_.x + in_.w / 2, in_.y + in_.h / 2 + 4, { color: ink.faint, size: 11, align: "center" });
    let low = all.reduce((m, p) => Math.min(m, f(p[1])), Infinity), high = all.reduce((m, p) => Math.max(m, f(p[1])), -Infinity);
    const margin = Math.max((high - low) * 0.08, Math.abs(high) * 1e-3, 1e-9);
    low -= margin; high += margin;
    const Y = v => in_.y + in_.h * (1 - (f(v) - low) / (high - low)), back = v => log ? 10 ** v : v;
    for (const v of [low + margin, high - margin]) this.text(format(back(v)), in_.x - 4, Y(back(v)) + 4, { color: ink.faint, size: 10, align: "right" });
    series.forEach((s, i) => {
      const [color, dash] = styles[i], ok = s.filter(p => Number.isFinite(p[1]));
      g.globalAlpha = log ? 0.35 : 1;
      this.line(ok.map(p => [X(p[0]), Y(p[1])]), color, log ? 1 : 2, dash);
      g.globalAlpha = 1;
      if (log) { let m = null; const keep = 1 - 1 / clamp(ok.length / 8, 1, 25); this.line(ok.map(p => { m = m == null ? f(p[1]) : keep * m + (1 - keep) * f(p[1]); return [X(p[0]), Y(back(m))]; }), color, 2.2, dash); }
      if (ok.length < 30 && !log) ok.forEach(p => this.dot(X(p[0]), Y(p[1]), 2, color));
    });
    this.line([[X(step), in_.y], [X(step), in_.y + in_.h]], ink.text, 1.5);
    for (const p of at) this.dot(X(p[0]), Y(p[1]), 4, ink.text, { hollow: true });
  }

  drawPanel() {
    const run = this.store.runs[this.open?.run], frame = run && this.frame(run);
    if (!frame || this.open.image >= frame.images.shape[0]) return;
    const i = this.open.image, [, h, w, c] = frame.images.shape, size = h * w * c, canPaint = run.info.can.includes("paint"), live = this.isLatest(run);
    const fill = (canvas, colour) => {
      if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
      const g = canvas.getContext("2d"), pixels = g.createImageData(w, h);
      for (let p = 0; p < w * h; p++) pixels.data.set([...colour(p), 255], p * 4);
      g.putImageData(pixels, 0, 0);
    };
    const images = frame.images, s = live ? this.strokes() : null;
    fill(this.big, p => [0, 1, 2].map(q => { const a = p * c + Math.min(q, c - 1); return s?.mask[p] ? s.pixels[a] : images[i * size + a]; }));
    this.grad.hidden = !frame.grad;
    if (frame.grad) fill(this.grad, p => {  // down the gradient: orange wants to be brighter, purple darker
      const v = -frame.grad[(i * h * w) + p] / 127, a = Math.sqrt(Math.abs(v)), to = v > 0 ? [179, 88, 6] : [84, 39, 136];
      return to.map(t => Math.round(247 + (t - 247) * a));
    });
    const name = run.info.labels?.[i];
    this.panelTitle.textContent = `image ${i + 1} of ${images.shape[0]}${name == null ? "" : `, class ${name}`}`;
    const kept = `Kept${run.status.word === "finished" ? "" : ": the next meta-step starts from it"}.`;
    this.panelText.textContent = (frame.grad ? `Right: what lowers the loss. Orange: brighter, purple: darker; full colour is a slope of ${short(frame.grad_scale)}. ` : "") +
      (!canPaint ? "" : !live ? "Press Live to paint." : s && !s.changed ? kept : "Paint on the left image: the student's path is computed again.");
    for (const b of [this.keepButton, this.undoButton]) b.disabled = !(canPaint && live && [...run.painted.values()].some(t => t.changed));
    this.brush.hidden = c > 1; this.colour.hidden = c === 1; this.big.style.cursor = canPaint && live ? "crosshair" : "default";
    this.brush.parentElement.hidden = !canPaint;
  }

  words() {
    const { runs } = this.store, run = runs[0], d = this.root.dataset;
    if (!run) { this.status.textContent = "waiting for the kernel"; return; }
    const frame = this.frame(run), latest = this.latest(), error = runs.map(r => r.status.error).find(Boolean);
    const s = (runs.find(r => r.status.running) ?? runs.find(r => r.info.driven) ?? run).status;
    const parts = [`meta-step ${s.step ?? latest}${s.total ? ` of ${s.total}` : ""}`];
    const gone = this.store.gone ? "the kernel has gone: run the cell again" : "";
    if (s.running) parts.push(`${(s.rate ?? 0).toFixed(1)} steps/s`);
    if (s.running && s.left != null) parts.push(`${s.left < 90 ? Math.round(s.left) + " s" : Math.round(s.left / 60) + " min"} left`);
    else if (!s.running && s.word) parts.push(s.word);
    if (frame && frame.step < latest) parts.push(`shown: meta-step ${frame.step}`);
    for (const each of runs) {
      const f = this.frame(each);
      if (f) parts.push(`${runs.length > 1 ? `${each.info.name} ` : ""}loss ${short(f.loss)}`, `student lr ${short(f.lr)}`);
    }
    if (frame?.expert != null) parts.push(`expert ${frame.expert} from epoch ${frame.epoch}`);
    const pinned = runs.some(r => r.status.pinned), poke = poked(run, frame);
    if (pinned) parts.push("segment held");
    if (poke) parts.push(`changed: loss ${short(frame.loss)} → ${short(poke.loss)}`);
    this.status.textContent = parts.join("  ·  ");
    const say = (where, text) => { if (where.textContent !== text) where.textContent = text; };  // or it is read aloud again
    say(this.error, gone || error || "");
    const kept = s.dropped && !s.running ? `${s.dropped} meta-step${s.dropped > 1 ? "s" : ""}` : "";
    this.backButton.hidden = !kept;
    this.backButton.title = `Bring back the ${kept} that Reset dropped: possible until the next meta-step`;
    const state = s.running ? "running" : `${s.word ?? ""}${kept && `; Undo reset brings ${kept} back`}`;
    say(this.said, this.open ? `${this.panelTitle.textContent}; ${state}` : state);
    const recorded = !runs.some(r => r.info.driven), frames = Math.max(...runs.map(r => r.frames.length));
    this.bar.hidden = recorded;
    this.bar.querySelector(".mtt-toggle").textContent = s.running ? "Pause" : "Start";
    this.liveButton.textContent = recorded ? "Newest" : "Live";
    this.fullButton.textContent = document.fullscreenElement === this.root ? "Leave full screen" : "Full screen";
    this.playButton.disabled = frames < 2;
    this.playButton.textContent = this.playing ? "Stop" : "Play";
    const shown = frame?.step ?? 0, n = this.innerSteps();
    const where = s.running && frame === last(run.frames) ? "the newest meta-step" : `meta-step ${shown}, loss ${short(frame?.loss)}`;  // constant in a run: it is read at each change
    this.canvas.setAttribute("aria-label", frame ? `${where}; arrow keys move through the meta-steps, with shift through ${n} student steps` : "no meta-step yet");
    Object.assign(this.scrub, { min: 1, max: Math.max(1, latest), value: shown });
    this.scrub.setAttribute("aria-valuetext", `meta-step ${shown} of ${latest}`);
    this.liveButton.setAttribute("aria-pressed", String(this.cursor == null && this.peek == null));
    this.scrubText.textContent = !frame ? "" : this.cursor == null && this.peek == null ? `newest: ${shown}` : `meta-step ${shown} of ${latest}`;
    this.kScrub.parentElement.hidden = !n;
    const k = this.inner(), norms = k && run.inside?.step === shown ? run.inside.norms : null;
    Object.assign(this.kScrub, { max: n, value: k ?? n });
    this.kScrub.setAttribute("aria-valuetext", `student step ${k ?? n} of ${n}`);
    const sum = list => list.reduce((a, b) => a + b, 1e-30), images = norms?.shape[1];
    const share = norms ? sum(norms.subarray((k - 1) * images, k * images)) / sum(norms) : null;
    const part = share == null ? "" : `: ${(100 * share).toFixed(0)} % of the gradient`;
    this.kText.textContent = k == null ? `${n} student steps` : `step ${k} of ${n}${part}`;
    this.sweepButton.hidden = !run.info.can.includes("sweep"); this.freeButton.hidden = !pinned;
    this.drawChips(run);
    this.nameSliders();
    if (shown !== +d.shown) this.drawn += 1;
    Object.assign(d, { shown, latest, frames: run.frames.length, points: run.points.length, live: +(this.cursor == null && this.peek == null), k: k ?? "", expert: this.plane ?? "",
                       image: this.open?.image ?? "", drawn: this.drawn, running: +!!s.running, loss: frame?.loss ?? "", poke: poke?.loss ?? "", pinned: +pinned,
                       error: gone || error || "", inside: run.inside?.step ?? "", share: share ?? "", runs: runs.length, width: this.canvas.width });
    d.marks = JSON.stringify(this.regions.find(q => q.marks)?.marks ?? null);
  }

  nameSliders() {  // those of the page beside the picture: their handles have no names of their own
    const box = this.root.closest(".widget-vbox");
    if (!box) return;
    box.onkeydown = e => this.key(e);  // the picture's keys are those of its sliders and buttons, too
    box.onkeyup = () => this.redraw();
    for (const slider of box.querySelectorAll(".widget-hslider")) {
      const [label, handle, value] = [".widget-label", ".noUi-handle", ".widget-readout"].map(s => slider.querySelector(s));
      slider.title = label.title;
      handle.setAttribute("aria-label", label.title || label.textContent);
      handle.setAttribute("aria-valuetext", value.textContent);
      if (value.isContentEditable) Object.assign(value, { role: "textbox", ariaLabel: handle.ariaLabel });
    }
  }

  drawChips(run) {
    const experts = [...run.planes.keys()].sort((a, b) => a - b), key = experts.join();
    this.chips.hidden = experts.length < 2;
    if (key !== this.chipKey) {
      this.chipKey = key;
      this.chips.replaceChildren();
      element("span", this.chips, { class: "mtt-lead" }, "plane of expert");
      for (const e of [null, ...experts]) {
        const b = element("button", this.chips, { type: "button", title: e == null ? "follow the run" : `stay with expert ${e}` }, e == null ? "any" : String(e));
        b.onclick = () => { this.locked = e; this.redraw(); };
      }
    }
    const pressed = experts.indexOf(this.locked) + 1;  // 0: any
    this.chips.querySelectorAll("button").forEach((b, i) => b.setAttribute("aria-pressed", String(i === pressed)));
  }
}

export default () => {  // called once for each lab: all its views share what the page knows
  let store;
  return {
    initialize({ model }) { store = openStore(model); },
    render({ el }) { const view = new View(store, el); return () => view.close(); },
  };
};
