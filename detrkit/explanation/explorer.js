"use strict";
// The explorer. It reads the JSON blocks of its page (explanation/packing.py writes them) and draws what is asked.

const element = (id) => document.getElementById(id);
const block = (id) => JSON.parse(element(id).textContent);
const make = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};
const percent = (share) => `${share >= 0.1 || share === 0 ? Math.round(100 * share) : (100 * share).toPrecision(2)}\u00a0%`;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

const common = block("common");
const images = [];
for (let i = 0; element(`image-${i}`); i += 1) images.push(block(`image-${i}`));

const STROKES = ["solid", "double", "dotted"]; // classes differ by more than their hue
const MARKS = ["circle", "square", "diamond", "triangle"]; // of points, by level
const EVEN = 4; // a map whose peak is lower than so many times its mean looked nowhere in particular: painted faintly
const OPAQUE = 0.88;

// What is asked: a query by its place in the image's list, or a pixel {x, y} as fractions of the image.
const state = { image: 0, layer: 0, head: null, asks: "detections", kept: null, hovered: null, cells: false };
let opened = null; // the arrays of the image

const current = () => images[state.image];
const asked = () => state.hovered ?? state.kept;
const isPixel = (what) => what !== null && typeof what === "object";

// ---- arrays ----------------------------------------------------------------------------------------------------------

const KINDS = { uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array };

async function unpacked({ kind, shape, data }) {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return { shape, values: new KINDS[kind](await new Response(stream).arrayBuffer()) };
}

/** Every packed array inside a block, unpacked in place of its text. */
async function opening(content) {
  if (Array.isArray(content) || content === null || typeof content !== "object") return content;
  if (content.kind && content.data) return unpacked(content);
  const pairs = Object.entries(content).map(async ([name, value]) => [name, await opening(value)]);
  return Object.fromEntries(await Promise.all(pairs));
}

/** Weights of one map of packed maps [..., h, w], by its number among them. */
function mapAt({ steps, tops }, number) {
  const [height, width] = steps.shape.slice(-2);
  const start = number * height * width;
  const scale = tops.values[number] / 255;
  return { height, width, weights: Float32Array.from(steps.values.subarray(start, start + height * width), (v) => v * scale) };
}

/** The mean of maps of one size. */
function meanOf(maps) {
  const { height, width } = maps[0];
  const weights = new Float32Array(height * width);
  for (const map of maps) map.weights.forEach((weight, cell) => { weights[cell] += weight / maps.length; });
  return { height, width, weights };
}

/** Points of one head: places as fractions of the image, weights, and levels. */
function pointsAt(looks, number) {
  const { height: levels, width: each, weights } = mapAt(looks.weights, number);
  const place = (i) => looks.points.values[2 * number * levels * each + i] / 32767.5 - 0.5;
  return Array.from(weights, (weight, i) => ({ x: place(2 * i), y: place(2 * i + 1), weight, level: Math.floor(i / each) }));
}

/** What a query of a layer read: {map} or {points}, by one head or by all. */
function lookAt(looks, layer, query, head) {
  const packed = looks.maps ?? looks.weights;
  const [, queries, heads] = packed.tops.shape;
  const first = (layer * queries + query) * heads;
  const numbers = head === null || head >= heads ? Array.from({ length: heads }, (_, h) => first + h) : [first + head];
  if (looks.maps) return { map: meanOf(numbers.map((number) => mapAt(looks.maps, number))) };
  const points = numbers.flatMap((number) => pointsAt(looks, number));
  return { points: points.map((point) => ({ ...point, weight: point.weight / numbers.length })), outside: looks.outside[layer][query] };
}

// ---- what is asked ---------------------------------------------------------------------------------------------------

const asksPixels = () => isPixel(asked()) || (asked() === null && state.asks === "pixels");
const looksAsked = () => (asksPixels() ? opened?.encoder : opened?.cross);
const headsAsked = () => (asksPixels() && opened?.encoder?.maps ? 1 : (looksAsked()?.maps ?? looksAsked()?.weights)?.tops.shape[2] ?? 1);

/** Decoder layers, or those layers of the encoder that the page holds. */
function layersAsked() {
  const boxes = current().scores.length;
  if (!asksPixels()) return { first: 0, count: opened?.cross ? (opened.cross.maps?.steps ?? opened.cross.points).shape[0] : boxes };
  const { first = 0, layers = 1 } = current().encoder ?? {};
  return { first, count: layers };
}

/** The layer that is shown, counted from 0 among all. */
function layerShown() {
  const { first, count } = layersAsked();
  return clamp(state.layer, first, count - 1);
}

/** Which of the told boxes belong to a decoder layer. */
const toldAt = (layer) => clamp(layer - (layersOfDecoder() - current().scores.length), 0, current().scores.length - 1);
const layersOfDecoder = () => (current().cross ? (current().cross.maps?.steps ?? current().cross.points).shape[0] : current().scores.length);
const boxLayer = () => toldAt(asksPixels() ? layersOfDecoder() - 1 : layerShown());

/** The cell that a pixel lies in, and the nearest one whose look the page holds. */
function cellAt({ x, y }) {
  const { grid, rows, columns } = opened.encoder;
  const nearest = (held, cell) => held.reduce((best, one, i) => (Math.abs(one - cell) < Math.abs(held[best] - cell) ? i : best), 0);
  const i = nearest(rows, clamp(Math.floor(y * grid[0]), 0, grid[0] - 1));
  const j = nearest(columns, clamp(Math.floor(x * grid[1]), 0, grid[1] - 1));
  return { number: i * columns.length + j, row: rows[i], column: columns[j], grid };
}

function shown(head = state.head) {
  const what = asked();
  if (what === null || !looksAsked()) return null;
  if (!isPixel(what)) return lookAt(opened.cross, layerShown(), what, head);
  return lookAt(opened.encoder, layerShown() - opened.encoder.first, cellAt(what).number, head);
}

// ---- drawing ---------------------------------------------------------------------------------------------------------

const RAMP = common.ramp.map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));

/** Colour of a level in [0, 1]. */
const ramped = (level) => RAMP[Math.round(clamp(level, 0, 1) * (RAMP.length - 1))];
const css = (color, alpha = 1) => `rgb(${color.join(" ")} / ${alpha})`;

/** A map of more cells: eased from the middle of each old cell to the next, so that peaks stay in the middle of theirs. */
function smoothed({ height, width, weights }, side) {
  const scale = Math.max(1, Math.floor(side / Math.max(height, width)));
  const larger = { height: height * scale, width: width * scale, weights: new Float32Array(height * width * scale * scale) };
  const between = (place, size) => {
    const at = clamp((place + 0.5) / scale - 0.5, 0, size - 1);
    const low = Math.min(Math.floor(at), Math.max(0, size - 2));
    const share = at - low;
    return [low, Math.min(low + 1, size - 1), share * share * (3 - 2 * share)];
  };
  const columns = Array.from({ length: larger.width }, (_, column) => between(column, width));
  for (let row = 0; row < larger.height; row += 1) {
    const [top, bottom, down] = between(row, height).map((at, i) => (i < 2 ? at * width : at));
    columns.forEach(([left, right, over], column) => {
      const upper = weights[top + left] * (1 - over) + weights[top + right] * over;
      const lower = weights[bottom + left] * (1 - over) + weights[bottom + right] * over;
      larger.weights[row * larger.width + column] = upper * (1 - down) + lower * down;
    });
  }
  return larger;
}

function drawMap(canvas, map, opaque) {
  const sum = map.weights.reduce((a, b) => a + b, 0);
  const highest = map.weights.reduce((a, b) => Math.max(a, b), 0);
  const top = Math.max(highest, (EVEN * sum) / map.weights.length, 1e-12);
  const { height, width, weights } = state.cells ? map : smoothed(map, opaque ? 72 : 300);
  const small = make("canvas", { width, height });
  const pixels = new ImageData(width, height);
  weights.forEach((weight, cell) => {
    const level = weight / top;
    pixels.data.set([...ramped(level), 255 * (opaque ? 1 : OPAQUE * level ** 0.8)], 4 * cell);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = !state.cells;
  pen.drawImage(small, 0, 0, canvas.width, canvas.height);
}

const OUTLINES = {
  circle: (pen, r) => pen.arc(0, 0, r, 0, 2 * Math.PI),
  square: (pen, r) => pen.rect(-0.89 * r, -0.89 * r, 1.78 * r, 1.78 * r),
  diamond: (pen, r) => [[0, -1.25 * r], [1.25 * r, 0], [0, 1.25 * r], [-1.25 * r, 0]].forEach((to) => pen.lineTo(...to)),
  triangle: (pen, r) => [[0, -1.3 * r], [1.2 * r, 0.8 * r], [-1.2 * r, 0.8 * r]].forEach((to) => pen.lineTo(...to)),
};

function drawPoints(canvas, points, largest) {
  const pen = canvas.getContext("2d");
  const top = Math.max(...points.map((point) => point.weight), 1e-12);
  for (const { x, y, weight, level } of [...points].sort((a, b) => a.weight - b.weight)) {
    const share = weight / top;
    pen.save();
    pen.translate(x * canvas.width, y * canvas.height);
    pen.beginPath();
    OUTLINES[MARKS[Math.min(level, 3)]](pen, largest * (0.3 + 0.7 * Math.sqrt(share)));
    pen.closePath();
    pen.fillStyle = css(ramped(share), 0.35 + 0.65 * share);
    pen.fill();
    pen.lineWidth = largest / 6;
    pen.strokeStyle = `rgb(0 0 0 / ${0.25 + 0.6 * share})`;
    pen.stroke();
    pen.restore();
  }
}

/** What was read, on nothing or, small and alone, on a shade of the image. */
function drawLook(canvas, look, largest, alone) {
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (alone && look?.points) {
    pen.save();
    Object.assign(pen, { globalAlpha: 0.3, filter: "grayscale(1)" });
    pen.drawImage(element("image"), 0, 0, canvas.width, canvas.height);
    pen.restore();
  }
  if (look?.map) drawMap(canvas, look.map, alone);
  if (look?.points) drawPoints(canvas, look.points, largest);
}

function drawHeat() {
  const canvas = element("heat");
  drawLook(canvas, shown(), Math.max(canvas.width, canvas.height) / 75, false);
  element("picture").classList.toggle("reading", asked() !== null && Boolean(looksAsked()));
  element("picture").classList.toggle("pixels", state.asks === "pixels");
  const what = asked();
  element("cross").hidden = !isPixel(what);
  if (isPixel(what) && opened?.encoder) {
    const { row, column, grid } = cellAt(what);
    Object.assign(element("cross").style, { left: `${(100 * (column + 0.5)) / grid[1]}%`, top: `${(100 * (row + 0.5)) / grid[0]}%` });
  }
}

const colorOf = (label) => common.colors[label % common.colors.length];
const strokeOf = (label) => STROKES[label % STROKES.length];
const isDetection = (query) => query < current().detections;
const winnerOf = (query) => current().winners[query];
const lostTo = (query) => (isDetection(query) ? -1 : winnerOf(query));

function says(query, layer = boxLayer()) {
  const { labels, scores } = current();
  return { name: common.classes[labels[layer][query]], label: labels[layer][query], score: scores[layer][query].toFixed(2) };
}

/** Which boxes are drawn: detections; and of a query that is asked, those that lost to it, or the one it lost to. */
function isDrawn(query) {
  const what = asked();
  if (isPixel(what) || what === null) return isDetection(query);
  return isDetection(query) || query === what || lostTo(query) === what;
}

function drawBoxes() {
  const { shape, values } = opened ? opened.boxes : { shape: [0, 0, 4], values: [] };
  const what = asked();
  [...element("boxes").children].forEach((box, query) => {
    const start = 4 * (boxLayer() * shape[1] + query);
    const [x1, y1, x2, y2] = values.slice(start, start + 4);
    const { name, label, score } = says(query);
    const place = { left: x1, top: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) };
    for (const [side, fraction] of Object.entries(place)) box.style[side] = `${(100 * fraction).toFixed(3)}%`;
    box.hidden = !isDrawn(query);
    box.style.setProperty("--color", colorOf(label));
    box.style.zIndex = 500 - Math.round(400 * Math.sqrt(place.width * place.height));
    box.className = `box ${strokeOf(label)}`;
    box.classList.toggle("low", y1 < 0.05);
    box.classList.toggle("end", x1 > 0.8);
    box.classList.toggle("lost", !isDetection(query));
    box.classList.toggle("chosen", query === what);
    box.classList.toggle("faint", what !== null && query !== what && lostTo(query) !== what && lostTo(what) !== query);
    box.firstChild.textContent = isDetection(query) ? `${name} ${score}` : `${current().queries[query]}`;
    box.setAttribute("aria-label", `query ${current().queries[query]}, ${name} ${score}`);
  });
}

function drawHeads() {
  const heads = headsAsked();
  element("heads-control").hidden = heads < 2 || asked() === null;
  if (heads < 2 || asked() === null) return;
  const list = element("heads");
  const wanted = heads + 1;
  if (list.children.length !== wanted) list.replaceChildren(...Array.from({ length: wanted }, (_, i) => headButton(i ? i - 1 : null)));
  const [width, height] = current().size;
  [...list.children].forEach((button, i) => {
    const canvas = button.firstChild;
    Object.assign(canvas, { width: 96, height: Math.max(24, Math.round((96 * height) / width)) });
    drawLook(canvas, shown(i ? i - 1 : null), 6, true);
    button.setAttribute("aria-pressed", (i ? i - 1 : null) === state.head);
  });
}

const headButton = (head) =>
  make("button", { type: "button", title: head === null ? "0" : `${head + 1}`, onclick: () => update({ head }) },
    make("canvas"), head === null ? "mean" : `${head + 1}`);

function drawList() {
  const { queries, scores } = current();
  [...element("list").children].forEach(({ firstChild: button }, query) => {
    const { name, label, score } = says(query);
    button.style.setProperty("--color", colorOf(label));
    button.className = strokeOf(label);
    button.setAttribute("aria-current", query === asked());
    const winner = lostTo(query);
    const lost = winner >= 0 ? ` lost to query ${queries[winner]}` : "";
    button.children[1].replaceChildren(isDetection(query) ? `${name} ` : "", make("small", {}, `query ${queries[query]}${lost}`));
    button.children[2].textContent = scores[boxLayer()][query] >= 0.005 || isDetection(query) ? score : "< 0.01";
  });
}

function drawLayer() {
  const { first, count } = layersAsked();
  const slider = element("layer");
  Object.assign(slider, { min: first + 1, max: count, disabled: count - first < 2 });
  slider.value = layerShown() + 1;
  element("layer-name").textContent = asksPixels() ? "Encoder layer" : "Decoder layer";
  element("layer-number").textContent = `${layerShown() + 1} of ${count}`;
  const told = current().scores.length;
  const silent = !asksPixels() && told < count ? "This detector tells boxes at its last layer only." : "";
  element("layer-hint").textContent = asksPixels() && first ? `This page holds the layers from ${first + 1} on.` : silent;
}

const headsSaid = () => (headsAsked() < 2 ? "" : state.head === null || state.head >= headsAsked() ? ", all heads" : `, head ${state.head + 1}`);

function readingSaid(look) {
  if (!look) return "";
  if (look.map) {
    const sum = look.map.weights.reduce((a, b) => a + b, 0);
    const top = look.map.weights.reduce((a, b) => Math.max(a, b), 0);
    return ` Bright is where it read: the brightest cell holds ${percent(top / (sum || 1))} of its attention.`;
  }
  const levels = looksAsked().shapes.map(([h, w], i) => `${MARKS[Math.min(i, 3)]}s on a map of ${h} × ${w} cells`);
  const lost = look.outside >= 0.0005 ? ` ${percent(look.outside)} of the weight fell outside the image, where nothing is read.` : "";
  return ` Each mark is a point it read, larger and brighter with its weight: ${levels.join(", ")}.${lost}`;
}

function sentence() {
  const what = asked();
  const { queries, detections } = current();
  if (what === null) return detections ? "" : `No query scores ${common.threshold} or more. Choose one from the list to see where it read.`;
  if (isPixel(what)) {
    if (!opened?.encoder) return "This detector has no encoder whose attention could be shown.";
    const { row, column, grid } = cellAt(what);
    return `This place (row ${row + 1}, column ${column + 1} of ${grid.join(" × ")} cells), encoder layer ${layerShown() + 1}.${readingSaid(shown())}`;
  }
  const { name, score } = says(what);
  const winner = lostTo(what);
  const lost = winner < 0 ? "" : ` It lost: query ${queries[winner]} wants the same object and scores ${says(winner).score}.`;
  const says_ = isDetection(what) || winner < 0 ? `says ${name} ${score}` : `scores ${score}`;
  return `Query ${queries[what]} ${says_} (decoder layer ${layerShown() + 1}${headsSaid()}).${lost}${readingSaid(shown())}`;
}

const INVITES = {
  detections: "Point at a box to see where the detector read to find it; click beside the boxes to see what that place read. ? tells the keys.",
  pixels: "Point anywhere in the image to see what that place read in the encoder; click to keep it. Esc goes back to detections.",
};

// ---- queries that read each other ------------------------------------------------------------------------------------

const EDGE = 92; // pixels beside the matrix, for names

function matrixShown() {
  const { steps, tops } = opened.between;
  const [layers, heads] = tops.shape;
  const layer = Math.min(asksPixels() ? layers - 1 : layerShown(), layers - 1);
  return meanOf(Array.from({ length: heads }, (_, head) => mapAt({ steps, tops }, layer * heads + head)));
}

function drawMatrix() {
  element("between").hidden = !opened?.between;
  if (!opened?.between) return;
  const canvas = element("matrix");
  const map = matrixShown();
  const cell = clamp(Math.floor(600 / map.width), 11, 30);
  const density = window.devicePixelRatio || 1;
  const side = EDGE + cell * map.width;
  Object.assign(canvas, { width: side * density, height: (side - EDGE + 30) * density });
  canvas.style.width = `${side}px`;
  const pen = canvas.getContext("2d");
  pen.scale(density, density);
  const top = map.weights.reduce((a, b) => Math.max(a, b), 1e-12);
  map.weights.forEach((weight, i) => {
    pen.fillStyle = css(ramped(weight / top));
    pen.fillRect(EDGE + cell * (i % map.width), cell * Math.floor(i / map.width), cell - 1, cell - 1);
  });
  labelMatrix(pen, map.width, cell);
}

function labelMatrix(pen, count, cell) {
  const style = getComputedStyle(document.body);
  const quiet = style.getPropertyValue("color");
  pen.font = `${Math.min(11, cell)}px system-ui, sans-serif`;
  for (let query = 0; query < count; query += 1) {
    const strong = query === asked();
    pen.fillStyle = quiet;
    pen.globalAlpha = strong || isDetection(query) ? 1 : 0.6;
    pen.textAlign = "right";
    const name = isDetection(query) ? `${says(query).name.slice(0, 9)} ` : "";
    pen.fillText(`${strong ? "▸ " : ""}${name}${current().queries[query]}`, EDGE - 6, cell * query + cell * 0.72);
    pen.save();
    pen.translate(EDGE + cell * (query + 0.68), cell * count + 6);
    pen.rotate(Math.PI / 2);
    pen.textAlign = "left";
    pen.fillText(`${current().queries[query]}`, 0, 0);
    pen.restore();
  }
}

/** Row and column of the matrix under the pointer. */
function matrixCell(event) {
  const canvas = element("matrix");
  const scale = canvas.offsetWidth / (canvas.width / (window.devicePixelRatio || 1));
  const { width } = matrixShown();
  const cell = clamp(Math.floor(600 / width), 11, 30);
  const row = Math.floor(event.offsetY / scale / cell);
  const column = Math.floor((event.offsetX / scale - EDGE) / cell);
  return row < width && column < width ? { row, column, width } : null;
}

function sayMatrix(event) {
  const at = matrixCell(event);
  if (!at) return;
  const { queries } = current();
  const name = (query) => `query ${queries[query]} (${isDetection(query) ? `${says(query).name} ${says(query).score}` : "no detection"})`;
  const weight = at.column < 0 ? null : matrixShown().weights[at.row * at.width + at.column];
  const text = name(at.row);
  element("matrix-says").textContent =
    `${text[0].toUpperCase()}${text.slice(1)}` + (weight === null ? "" : ` gives ${percent(weight)} of its attention to ${at.row === at.column ? "itself" : name(at.column)}.`);
}

// ---- slots -----------------------------------------------------------------------------------------------------------

async function drawSlots() {
  if (!common.slots) return;
  const { boxes, kinds, queries, found, names, colors, images: count } = await opening(common.slots);
  element("slots").hidden = false;
  element("slots-note").textContent = `A square is the image. In it lies a mark for each box that the query gave in ${count} images, at its centre, whether it found something or not.`;
  const signs = ["●", "▬", "▮"];
  element("slots-key").replaceChildren(...names.map((name, kind) => {
    const sign = make("span", {}, signs[kind]);
    sign.style.color = colors[kind];
    return make("b", {}, sign, ` ${name} boxes`);
  }));
  const each = boxes.shape[1];
  element("slot-list").replaceChildren(...queries.map((query, i) => {
    const canvas = make("canvas", { width: 220, height: 220 });
    const pen = canvas.getContext("2d");
    for (let one = i * each; one < (i + 1) * each; one += 1) {
      const [x, y] = [0, 1].map((side) => (boxes.values[4 * one + side] / 255) * 220);
      const [w, h] = [[6, 6], [15, 4], [4, 15]][kinds.values[one]];
      pen.fillStyle = colors[kinds.values[one]];
      pen.globalAlpha = 0.75;
      pen.fillRect(x - w / 2, y - h / 2, w, h);
    }
    return make("figure", {}, canvas, make("figcaption", {}, `query ${query}: finds something in ${percent(found[i])}`));
  }));
}

// ---- answering -------------------------------------------------------------------------------------------------------

function draw() {
  drawHeat();
  drawBoxes();
  drawLayer();
  drawHeads();
  drawList();
  drawMatrix();
  element("says").textContent = sentence();
  element("invites").textContent = INVITES[state.asks];
  for (const asks of ["detections", "pixels"]) element(`ask-${asks}`).setAttribute("aria-checked", state.asks === asks);
}

function update(changes) {
  Object.assign(state, changes);
  if (isPixel(state.kept)) state.asks = "pixels";
  draw();
}

const ask = (asks) => update({ asks, kept: null, hovered: null });
const keep = (what) => update({ kept: what, hovered: null, asks: isPixel(what) ? "pixels" : "detections" });

function boxOf(query) {
  const box = make("button", { type: "button", tabIndex: -1 }, make("span"));
  box.addEventListener("pointerenter", () => update({ hovered: query }));
  box.addEventListener("pointerleave", () => update({ hovered: null }));
  box.addEventListener("click", (event) => { event.stopPropagation(); keep(query); });
  return box;
}

function rowOf(query) {
  const button = make("button", { type: "button" }, make("i", { className: "swatch" }), make("span"), make("span", { className: "score" }));
  button.addEventListener("click", () => keep(query));
  button.addEventListener("pointerenter", () => update({ hovered: query }));
  button.addEventListener("pointerleave", () => update({ hovered: null }));
  return make("li", { className: isDetection(query) ? "" : "lost" }, button);
}

async function open(number) {
  Object.assign(state, { image: number, kept: null, hovered: null });
  opened = null;
  const { picture, name, size, queries, detections, found } = current();
  const image = element("image");
  Object.assign(image, { src: picture, alt: name });
  document.querySelector(".explorer").style.setProperty("--ratio", size[0] / size[1]);
  const enlarged = Math.max(900 / Math.max(...size), 1);
  Object.assign(element("heat"), { width: Math.round(size[0] * enlarged), height: Math.round(size[1] * enlarged) });
  element("boxes").replaceChildren(...queries.map((_, query) => boxOf(query)));
  element("list").replaceChildren(...queries.map((_, query) => rowOf(query)));
  element("list-name").textContent = `${detections < found ? `the best ${detections} of ` : ""}${found} detection${found === 1 ? "" : "s"}, and other queries`;
  element("boxes").style.setProperty("--faint", clamp(5 / detections, 0.12, 0.5));
  [...element("thumbs").children].forEach((thumb, i) => thumb.setAttribute("aria-selected", i === number));
  const [arrays] = await Promise.all([opening(current()), image.decode()]);
  if (state.image !== number) return;
  opened = arrays;
  update({ layer: layersOfDecoder() - 1, kept: detections && state.asks === "detections" ? 0 : null });
}

/** The pointer as fractions of the image. */
function pixelOf(event) {
  const { left, top, width, height } = element("picture").getBoundingClientRect();
  return { x: clamp((event.clientX - left) / width, 0, 1), y: clamp((event.clientY - top) / height, 0, 1) };
}

function step(by) {
  const count = current().queries.length;
  const at = isPixel(state.kept) || state.kept === null ? (by > 0 ? -1 : count) : state.kept;
  keep(clamp(at + by, 0, count - 1));
  element("list").children[state.kept].scrollIntoView({ block: "nearest" });
}

function movePixel(right, down) {
  if (!opened?.encoder) return;
  const { x, y } = isPixel(state.kept) ? state.kept : { x: 0.5, y: 0.5 };
  const [height, width] = opened.encoder.grid;
  keep({ x: clamp(x + right / width, 0, 0.999), y: clamp(y + down / height, 0, 0.999) });
}

function turnTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.style.colorScheme || (dark ? "dark" : "light");
  document.documentElement.style.colorScheme = now === "dark" ? "light" : "dark";
  draw();
}

const KEYS = {
  ArrowUp: (shift) => (shift ? movePixel(0, -1) : step(-1)),
  ArrowDown: (shift) => (shift ? movePixel(0, 1) : step(1)),
  ArrowLeft: (shift) => (shift ? movePixel(-1, 0) : update({ layer: Math.max(layersAsked().first, layerShown() - 1) })),
  ArrowRight: (shift) => (shift ? movePixel(1, 0) : update({ layer: Math.min(layersAsked().count - 1, layerShown() + 1) })),
  Escape: () => ask("detections"),
  "?": () => element("manual").showModal(),
  m: () => ask(state.asks === "pixels" ? "detections" : "pixels"),
  c: () => update({ cells: !state.cells }),
  t: turnTheme,
  "[": () => open(Math.max(0, state.image - 1)),
  "]": () => open(Math.min(images.length - 1, state.image + 1)),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || element("manual").open) return;
  const slides = event.target.type === "range" && event.key.startsWith("Arrow");
  if (/^[0-9]$/.test(event.key)) update({ head: event.key === "0" ? null : Math.min(Number(event.key), headsAsked()) - 1 });
  else if (KEYS[event.key] && !slides) KEYS[event.key](event.shiftKey);
  else return;
  event.preventDefault();
}

function listen() {
  const picture = element("picture");
  picture.addEventListener("click", (event) => keep(pixelOf(event)));
  picture.addEventListener("pointermove", (event) => {
    if (state.asks === "pixels" && event.pointerType === "mouse") update({ hovered: pixelOf(event) });
  });
  picture.addEventListener("pointerleave", () => update({ hovered: null }));
  element("layer").addEventListener("input", (event) => update({ layer: Number(event.target.value) - 1 }));
  element("ask-detections").addEventListener("click", () => ask("detections"));
  element("ask-pixels").addEventListener("click", () => ask("pixels"));
  element("theme").addEventListener("click", turnTheme);
  element("help").addEventListener("click", () => element("manual").showModal());
  element("matrix").addEventListener("pointermove", sayMatrix);
  element("matrix").addEventListener("click", (event) => { const at = matrixCell(event); if (at) keep(at.row); });
  document.addEventListener("keydown", onKey);
}

function thumb({ picture, name }, number) {
  const button = make("button", { type: "button", title: name, onclick: () => open(number) }, make("img", { src: picture, alt: name }));
  button.setAttribute("role", "tab");
  return button;
}

element("ramp").style.background = `linear-gradient(to right, ${common.ramp.join(", ")})`;
if (images.length > 1) element("thumbs").append(...images.map(thumb));
listen();
open(clamp(Number(location.hash.slice(1)) - 1 || 0, 0, images.length - 1)); // page.html#2 shows the second image
drawSlots();
