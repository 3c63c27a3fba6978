// What is asked, shown: on the image, in the controls, and in words.
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
