// Maps and points on a canvas.

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
  for (const { x, y, weight, level } of points.filter((point) => point.weight > 0).sort((a, b) => a.weight - b.weight)) {
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
