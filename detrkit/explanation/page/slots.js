// What each query has become a specialist of.

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
