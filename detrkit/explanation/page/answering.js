// Mouse, finger and keyboard.

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
  state.image = number;
  opened = null;
  const { picture, name, size, queries, detections, found } = current();
  const first = detections && state.asks === "detections" ? 0 : null; // shows at once what there is to see
  Object.assign(state, { kept: first, hovered: null, layer: layersOfDecoder() - 1 });
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
  draw();
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
