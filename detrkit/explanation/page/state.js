"use strict";
// The explorer reads the JSON blocks of its page (explanation/packing.py writes them) and draws what is asked.
// Its files become one script, in the order of explanation/explorer.py. This one: what is asked, and of what.

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
