// Packed arrays, and what one query read.

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
