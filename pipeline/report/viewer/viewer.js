"use strict";
// A map without a library: one canvas, squares fetched as they are needed, the mosaic's pixels as coordinates.
const facts = JSON.parse(document.getElementById("facts").textContent);
const canvas = document.getElementById("map");
const pen = canvas.getContext("2d");
const squares = new Map();        // by address; the oldest go first
const MOST_SQUARES = 600;
const layerNow = () => document.querySelector("input[name=layer]:checked").value;
const sourceShown = () => document.getElementById("source").checked && !facts.no_source;

// The mosaic's pixel in the middle of the map, and screen pixels for each of the mosaic's.
const view = { row: facts.height / 2, col: facts.width / 2, zoom: 1 };
window.terrazzo = { view, squares, facts };  // for tests and curious people

// What the panel leaves of the map: it lies at the right or, on a phone, below.
function freeArea() {
  const panel = document.getElementById("panel").getBoundingClientRect();
  const below = panel.width > canvas.clientWidth * 0.8;
  return below ? { width: canvas.clientWidth, height: panel.top } : { width: panel.left, height: canvas.clientHeight };
}
function smallestZoom() {
  const free = freeArea();
  return Math.min(free.width / facts.width, free.height / facts.height) * 0.95;
}
function showAll() {
  const free = freeArea(), zoom = smallestZoom();
  const hiddenRows = (canvas.clientHeight - free.height) / zoom, hiddenCols = (canvas.clientWidth - free.width) / zoom;
  Object.assign(view, { row: (facts.height + hiddenRows) / 2, col: (facts.width + hiddenCols) / 2, zoom });
  draw();
}

function toMosaic(x, y) {
  return { col: view.col + (x - canvas.clientWidth / 2) / view.zoom, row: view.row + (y - canvas.clientHeight / 2) / view.zoom };
}
function zoomBy(times, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const before = toMosaic(x, y);
  view.zoom = Math.min(Math.max(view.zoom * times, Math.min(1, smallestZoom()) / 2), 32);
  const after = toMosaic(x, y);
  view.row += before.row - after.row;
  view.col += before.col - after.col;
  draw();
}
function moveBy(x, y) {
  const halfCols = canvas.clientWidth / 2 / view.zoom, halfRows = canvas.clientHeight / 2 / view.zoom;
  view.col = Math.min(Math.max(view.col - x / view.zoom, -halfCols), facts.width + halfCols);
  view.row = Math.min(Math.max(view.row - y / view.zoom, -halfRows), facts.height + halfRows);
  draw();
}

// The finest overview that is no finer than the screen.
function factorNow() {
  const wished = 1 / (view.zoom * (window.devicePixelRatio || 1));
  return facts.factors.filter(factor => factor <= wished * 1.01).pop() || 1;
}
function square(layer, factor, row, col) {
  const address = `/${layer}/${factor}/${row}/${col}.png`;
  let found = squares.get(address);
  if (!found) {
    found = { picture: new Image(), ready: false };
    found.picture.onload = () => { found.ready = true; draw(); };
    found.picture.src = address;
    squares.set(address, found);
    if (squares.size > MOST_SQUARES) squares.delete(squares.keys().next().value);
  }
  return found;
}
function drawLayer(layer) {
  const factor = factorNow(), side = facts.square_px * factor;
  const first = toMosaic(0, 0), last = toMosaic(canvas.clientWidth, canvas.clientHeight);
  const lastRow = Math.min(last.row, facts.height - 1), lastCol = Math.min(last.col, facts.width - 1);
  for (let row = Math.max(0, Math.floor(first.row / side)); row * side <= lastRow; row++) {
    for (let col = Math.max(0, Math.floor(first.col / side)); col * side <= lastCol; col++) {
      const found = square(layer, factor, row, col);
      if (!found.ready) continue;
      // Edges are rounded to whole screen pixels, so that neighbours meet without a gap.
      const left = Math.round(x(col * side)), top = Math.round(y(row * side));
      const right = Math.round(x(col * side + found.picture.width * factor));
      const bottom = Math.round(y(row * side + found.picture.height * factor));
      pen.drawImage(found.picture, left, top, right - left, bottom - top);
    }
  }
}
const x = col => (col - view.col) * view.zoom + canvas.clientWidth / 2;
const y = row => (row - view.row) * view.zoom + canvas.clientHeight / 2;

let asked = false;
function draw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
    pen.imageSmoothingEnabled = view.zoom < 1;
    pen.globalAlpha = 1;
    if (sourceShown()) drawLayer("source");
    pen.globalAlpha = sourceShown() ? document.getElementById("opacity").value / 100 : 1;
    if (layerNow() !== "none") drawLayer(layerNow());
    drawScale();
  });
}

function drawScale() {
  const metres = facts.pixel_m || 1, unit = facts.pixel_m ? "m" : "px";
  const most = 140 / view.zoom * metres;
  const power = 10 ** Math.floor(Math.log10(most));
  const length = [5, 2, 1].map(step => step * power).find(step => step <= most);
  const text = unit === "m" && length >= 1000 ? `${length / 1000} km` : unit === "m" && length < 0.001
    ? `${+(length * 1e6).toPrecision(1)} µm` : `${+length.toPrecision(1)} ${unit}`;
  document.querySelector("#scale span").textContent = text;
  document.querySelector("#scale i").style.width = `${length / metres * view.zoom}px`;
}

// Pointers: one drags, two pinch, the wheel zooms where it stands.
const pointers = new Map();
canvas.addEventListener("pointerdown", event => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  canvas.classList.add("dragging");
});
canvas.addEventListener("pointermove", event => {
  const before = pointers.get(event.pointerId);
  if (!before) { askValue(event.clientX, event.clientY); return; }
  if (pointers.size === 2) {
    const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
    const spread = (a, b) => Math.hypot(a.x - b.x, a.y - b.y);
    const now = { x: event.clientX, y: event.clientY };
    zoomBy(spread(now, other) / Math.max(1, spread(before, other)), (now.x + other.x) / 2, (now.y + other.y) / 2);
  } else moveBy(event.clientX - before.x, event.clientY - before.y);
  pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
});
for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, event => {
    pointers.delete(event.pointerId);
    if (!pointers.size) canvas.classList.remove("dragging");
    if (end === "pointerup") askValue(event.clientX, event.clientY);
  });
}
canvas.addEventListener("wheel", event => {
  event.preventDefault();
  zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), event.clientX, event.clientY);
}, { passive: false });
canvas.addEventListener("keydown", event => {
  const step = 80;
  const deeds = {
    ArrowLeft: () => moveBy(step, 0), ArrowRight: () => moveBy(-step, 0), ArrowUp: () => moveBy(0, step),
    ArrowDown: () => moveBy(0, -step), "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), 0: showAll,
  };
  if (deeds[event.key] && !event.ctrlKey && !event.metaKey) { event.preventDefault(); deeds[event.key](); askValue(); }
});
document.getElementById("in").onclick = () => zoomBy(1.5);
document.getElementById("out").onclick = () => zoomBy(1 / 1.5);
document.getElementById("all").onclick = showAll;

// The value under the cursor, or in the middle for who has none; the last question is the one that counts.
let waiting = 0, question = 0;
function askValue(atX = canvas.clientWidth / 2, atY = canvas.clientHeight / 2) {
  clearTimeout(waiting);
  waiting = setTimeout(async () => {
    const place = toMosaic(atX, atY), own = ++question;
    const row = Math.floor(place.row), col = Math.floor(place.col);
    const inside = row >= 0 && col >= 0 && row < facts.height && col < facts.width;
    let text = "Outside of the mosaic";
    if (inside) {
      try {
        const answer = await fetch(`/value/${row}/${col}`);
        if (!answer.ok) throw new Error(await answer.text());
        const value = await answer.json();
        const what = value.class === null ? "No data" : `${value.class}, confidence ${value.confidence.toFixed(3)}`;
        text = `${what}\nrow ${row}, column ${col}\n${value.x.toFixed(3)}, ${value.y.toFixed(3)}`;
      } catch (error) { text = `No answer: ${error.message}`; }
    }
    if (own === question) document.getElementById("value").textContent = text;
  }, 60);
}

function drawLegend() {
  const list = document.getElementById("legend");
  list.replaceChildren();
  if (layerNow() === "classes") {
    for (const { name, color } of facts.classes) {
      const item = document.createElement("li"), chip = document.createElement("i");
      chip.style.background = color;
      item.append(chip, name);
      list.append(item);
    }
  } else if (layerNow() === "confidence") {
    const item = document.createElement("li"), bar = document.createElement("i"), ends = document.createElement("span");
    item.className = "ramp";
    bar.style.background = `linear-gradient(90deg, ${facts.ramp.join(", ")})`;
    ends.innerHTML = "<span>0</span><span>1</span>";
    item.append(bar, ends);
    list.append(item);
  }
}
for (const input of document.querySelectorAll("#panel input")) {
  input.addEventListener("input", () => { drawLegend(); draw(); });
}
if (facts.no_source) {
  document.getElementById("source").disabled = true;
  document.getElementById("source").checked = false;
  const note = document.getElementById("no-source");
  note.textContent = facts.no_source;
  note.hidden = false;
}
new ResizeObserver(draw).observe(canvas);
drawLegend();
showAll();
