"use strict";
// Cards of an anomaly model: maps, outlines of masks, and what images can be filtered and sorted by.

const HEAT = heatColors();
const LAYERS = { ...(hasMasks && { map: "", mask: "mask key" }), ...(hasMasks && isLabelled && { truth: "truth key" }) }; // with the class of its key
const layers = { map: true, mask: true, truth: isLabelled };

// Dark below the threshold at 0.5, warm above, and more opaque where more anomalous; as overlays of pp-graph run.
function heatColors() {
  const stops = [[16, 16, 46], [209, 73, 91], [255, 247, 192]];
  return Uint32Array.from({ length: 256 }, (_, i) => {
    const [from, to, share] = i < 128 ? [stops[0], stops[1], i / 128] : [stops[1], stops[2], (i - 128) / 127];
    const [r, g, b] = from.map((start, c) => Math.round(start + (to[c] - start) * share));
    return ((Math.round(0.7 * i) << 24) | (b << 16) | (g << 8) | r) >>> 0;
  });
}

function painted(width, height, paint) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const data = context.createImageData(width, height);
  paint(new Uint32Array(data.data.buffer));
  context.putImageData(data, 0, 0);
  return canvas;
}

function outline(pixels, mask, width, height, color) {
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (!mask[i]) continue;
      const inside = (x === 0 || mask[i - 1]) && (x === width - 1 || mask[i + 1]) && (y === 0 || mask[i - width]) && (y === height - 1 || mask[i + width]);
      if (!inside) pixels[i] = color;
    }
  }
}

function draw(canvas, model, place) {
  const context = drawPicture(canvas, place);
  if (!context) return;
  const map = model.maps[place];
  if (!map) return;
  const [height, width] = model.mapFacts[place];
  if (layers.map) {
    const level = model.settings.pixel;
    const [, , least, most] = model.mapFacts[place];
    const plain = { threshold: (least + most) / 2, min: least, max: most }; // without a range: that of the map
    const scale = level.min === null ? plain : level;
    const range = scale.max - scale.min || 1;
    const heat = painted(width, height, (pixels) => {
      for (let i = 0; i < pixels.length; i++) {
        const x = (map[i] - scale.threshold) / range + 0.5;
        pixels[i] = HEAT[x >= 1 || x !== x ? 255 : x <= 0 ? 0 : Math.round(x * 255)];
      }
    });
    context.drawImage(heat, 0, 0, canvas.width, canvas.height);
  }
  context.imageSmoothingEnabled = false;
  const lines = painted(width, height, (pixels) => {
    if (layers.truth && model.truths[place]) outline(pixels, model.truths[place], width, height, 0xffffd000);
    if (layers.mask) outline(pixels, maskOf(model, place), width, height, 0xff2828ff);
  });
  context.drawImage(lines, 0, 0, canvas.width, canvas.height);
}

function verdictOf(model, place) {
  if (!hasLabels) return ["", ""];
  const flagged = labelOf(model, place);
  const truth = truthOf(place);
  const wrong = { "1false": "missed", "0true": "false alarm" }[`${truth}${flagged}`];
  return [flagged ? "anomalous" : "normal", wrong ?? ""];
}

function describe(place) {
  const { item, captions } = cards[place];
  models.forEach((model, k) => {
    const [label, wrong] = verdictOf(model, place);
    const pixels = model.pixels[place];
    const parts = [
      both ? "AB"[k] : "",
      hasLabels ? text6(scoreOf(model, place)) : "",
      label ? el("b", { class: label }, label) : "",
      wrong ? el("b", { class: "wrong" }, wrong) : "",
      pixels ? `${pixels.flagged.toLocaleString("en")} px` : "",
    ].filter((part) => part !== "");
    captions[k].replaceChildren(...parts.flatMap((part, i) => (i ? [" · ", part] : [part])));
  });
  const [label, wrong] = verdictOf(models[0], place);
  item.dataset.label = label;
  item.classList.toggle("is-wrong", wrong !== "");
}

const FILTERS = {
  all: ["all images", () => true],
  ...(hasLabels && isLabelled && {
    alarms: ["false alarms", (place) => models.some((model) => verdictOf(model, place)[1] === "false alarm")],
    missed: ["missed", (place) => models.some((model) => verdictOf(model, place)[1] === "missed")],
  }),
  ...(hasLabels && {
    anomalous: ["called anomalous", (place) => models.some((model) => labelOf(model, place))],
    normal: ["called normal", (place) => models.some((model) => !labelOf(model, place))],
    flips: ["label changed since opening", (place) => models.some((model) => Boolean(model.opened[meta.shown[place]]) !== labelOf(model, place))],
  }),
  ...(hasMasks && { maskflips: ["mask changed since opening", (place) => models.some((model) => model.pixels[place]?.changed)] }),
  ...(both && hasLabels && { differ: ["A and B differ in label", (place) => labelOf(models[0], place) !== labelOf(models[1], place)] }),
  ...(both && hasMasks && { maskdiffer: ["A and B differ in pixels", (place) => differingPixels(place) !== 0] }),
};
const flaggedPixels = (place) => models[0].pixels[place]?.flagged ?? 0;
const scoreRank = (place) => { const score = scoreOf(models[0], place); return Number.isNaN(score) ? Infinity : score; };
const SORTS = {
  ...(hasLabels && {
    "score-down": ["highest score first", (place) => -scoreRank(place)],
    "score-up": ["lowest score first", scoreRank],
    distance: ["nearest to the cutoff first", (place) => Math.abs(scoreOf(models[0], place) - models[0].cutoffs.image) || 0],
  }),
  ...(hasMasks && { pixels: ["most anomalous pixels first", (place) => -flaggedPixels(place)] }),
  ...(both && hasMasks && { difference: ["most differing pixels first", (place) => -(differingPixels(place) ?? 0)] }),
  order: ["in the order of the data", (place) => place],
};

const gridOf = (place) => models[0].mapFacts?.[place] ?? [1, 1];

function viewerText(place) {
  return models.map((model, k) => {
    const [label, wrong] = verdictOf(model, place);
    const shares = hasLabels ? `score ${exact(scoreOf(model, place))}, normalised ${text6(normalized(model.settings.image, scoreOf(model, place)))}, ${label}${wrong ? `, ${wrong}` : ""}` : "";
    return `${both ? `${"AB"[k]}: ` : ""}${shares}`;
  }).join("\n") + (isLabelled ? `; ground truth ${KINDS[truthOf(place)]}` : "");
}

// The numbers at a point, given as shares of width and height.
function pointed(place, left, upper) {
  return models.map((model, k) => {
    const map = hasMasks && model.maps[place];
    if (!map) return "";
    const [height, width] = model.mapFacts[place];
    const [x, y] = [Math.min(width - 1, Math.floor(left * width)), Math.min(height - 1, Math.floor(upper * height))];
    const raw = map[y * width + x];
    const level = model.settings.pixel;
    return `${both ? `${"AB"[k]}: ` : ""}row ${y}, column ${x}: ${exact(raw)}, normalised ${text6(normalized(level, raw))}, ${isAnomalous(level, model.cutoffs.pixel, raw) ? "anomalous" : "normal"}`;
  }).join("\n");
}
