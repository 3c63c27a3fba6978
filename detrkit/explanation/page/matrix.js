// How queries read each other.

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
    pen.translate(EDGE + cell * (query + 0.5), cell * count + 6);
    pen.rotate(Math.PI / 2);
    pen.textAlign = "left";
    pen.textBaseline = "middle";
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
