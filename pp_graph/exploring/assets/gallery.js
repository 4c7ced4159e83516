"use strict";
// Cards, the enlarged image, and how both are drawn.

const HEAT = heatColors();
const layers = { map: true, mask: true, truth: isLabelled };
const view_ = { filter: "all", sort: "score-down" };
const cards = [];
const visible = new Set();
let opened = null; // place of the enlarged image
const pointer = { x: 0, y: 0 }; // share of width and height

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
  const picture = pictures[place];
  if (!picture) return;
  if (canvas.width !== picture.naturalWidth || canvas.height !== picture.naturalHeight) {
    canvas.width = picture.naturalWidth;
    canvas.height = picture.naturalHeight;
  }
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = true;
  context.drawImage(picture, 0, 0);
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

// ---- Cards -------------------------------------------------------------------------------------------------------

function verdictOf(model, place) {
  if (!hasLabels) return ["", ""];
  const flagged = labelOf(model, place);
  const truth = truthOf(place);
  const wrong = { "1false": "missed", "0true": "false alarm" }[`${truth}${flagged}`];
  return [flagged ? "anomalous" : "normal", wrong ?? ""];
}

function addCard(place) {
  const canvases = models.map(() => el("canvas", { width: 224, height: 224 }));
  const captions = models.map(() => el("span", { class: "verdict-line" }));
  const button = el("button", { type: "button", onclick: () => openViewer(place) },
    el("span", { class: "canvases" }, ...canvases), el("span", { class: "name" }, meta.names[place]), ...captions);
  const item = el("li", {}, button);
  item.dataset.place = place;
  cards[place] = { item, canvases, captions };
  watcher.observe(item);
}

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const place = Number(target.dataset.place);
    if (isIntersecting) visible.add(place);
    else visible.delete(place);
    if (isIntersecting) redraw(place);
  }
}, { rootMargin: "200px" });

function redraw(place) {
  if (visible.has(place)) models.forEach((model, k) => draw(cards[place].canvases[k], model, place));
  if (opened === place) drawViewer();
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
if (!hasLabels) view_.sort = Object.keys(SORTS)[0];

function shownPlaces() {
  const [, keep] = FILTERS[view_.filter];
  const [, key] = SORTS[view_.sort];
  const kept = meta.shown.map((_, place) => place).filter(keep);
  const keys = new Map(kept.map((place) => [place, key(place)]));
  return kept.sort((a, b) => (keys.get(a) < keys.get(b) ? -1 : keys.get(a) > keys.get(b) ? 1 : a - b));
}

function showGallery() {
  const places = shownPlaces();
  const items = places.map((place) => cards[place].item);
  const now = [...$("gallery").children];
  if (items.length !== now.length || items.some((item, i) => item !== now[i])) {
    const focused = document.activeElement?.closest?.("#gallery li");
    $("gallery").replaceChildren(...items);
    if (focused?.isConnected) focused.firstChild.focus({ preventScroll: true });
  }
  const waiting = COUNT - arrived;
  $("count").textContent = `${places.length} of ${COUNT} images` + (COUNT < meta.images ? ` (chosen from ${meta.images})` : "") + (waiting ? `, ${waiting} still to read` : "");
  places.forEach(describe);
  visible.forEach((place) => redraw(place));
  if (opened !== null) drawViewer();
}

function buildToolbar() {
  const select = (name, label, options) => el("label", {}, label, el("select", {
    id: name, onchange: (event) => { view_[name] = event.target.value; schedule(); } },
    ...Object.entries(options).map(([value, [title]]) => el("option", { value, selected: view_[name] === value }, title))));
  const box = (name, title) => el("label", {}, el("input", {
    type: "checkbox", checked: layers[name], onchange: (event) => { layers[name] = event.target.checked; schedule(); } }), title);
  document.querySelector(".toolbar").append(
    select("filter", "Show ", FILTERS), select("sort", "Sort ", SORTS),
    ...(hasMasks ? [box("map", "map"), el("span", { class: "mask key" }, box("mask", "mask"))] : []),
    ...(hasMasks && isLabelled ? [el("span", { class: "truth key" }, box("truth", "ground truth"))] : []));
}

// ---- The enlarged image ------------------------------------------------------------------------------------------

function buildViewer() {
  const canvases = models.map(() => el("canvas", {
    onpointermove: (event) => {
      const box = event.target.getBoundingClientRect();
      pointer.x = (event.clientX - box.left) / box.width;
      pointer.y = (event.clientY - box.top) / box.height;
      showPointer();
    } }));
  const step = (way) => { const places = shownPlaces(); openViewer(places[(places.indexOf(opened) + way + places.length) % places.length] ?? opened); };
  $("viewer").append(
    el("div", { class: "row" }, el("strong", { id: "viewer-name" }),
      el("button", { type: "button", "aria-label": "Previous image", onclick: () => step(-1) }, "←"),
      el("button", { type: "button", "aria-label": "Next image", onclick: () => step(1) }, "→"),
      el("button", { type: "button", onclick: () => $("viewer").close() }, "Close")),
    el("div", { class: "canvases" }, ...canvases),
    el("div", { id: "viewer-text" }), el("div", { id: "pointed", role: "status" }),
    el("p", { class: "faint" }, "← and → show other images; Shift with arrow keys moves the point whose value is shown."));
  $("viewer").addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way) return;
    event.preventDefault();
    if (!event.shiftKey) { if (way[0]) step(way[0]); return; }
    const [height, width] = models[0].mapFacts?.[opened] ?? [1, 1];
    pointer.x = Math.max(0, Math.min(0.9999, pointer.x + way[0] / width));
    pointer.y = Math.max(0, Math.min(0.9999, pointer.y + way[1] / height));
    drawViewer();
    $("viewer").querySelectorAll("canvas").forEach(markPoint);
  });
  $("viewer").addEventListener("close", () => { const place = opened; opened = null; cards[place].item.firstChild.focus(); });
}

function openViewer(place) {
  opened = place;
  if (!$("viewer").open) $("viewer").showModal();
  drawViewer();
}

function drawViewer() {
  for (const [k, canvas] of [...$("viewer").querySelectorAll("canvas")].entries()) {
    draw(canvas, models[k], opened);
    // The box has the shape of the picture, so that the pointer's share of it is a place in the map.
    canvas.style.width = `min(${100 / models.length - 1}%, ${(68 * canvas.width) / canvas.height}vh)`;
  }
  $("viewer-name").textContent = meta.names[opened];
  $("viewer-text").textContent = models.map((model, k) => {
    const [label, wrong] = verdictOf(model, opened);
    const shares = hasLabels ? `score ${exact(scoreOf(model, opened))}, normalised ${text6(normalized(model.settings.image, scoreOf(model, opened)))}, ${label}${wrong ? `, ${wrong}` : ""}` : "";
    return `${both ? `${"AB"[k]}: ` : ""}${shares}`;
  }).join("\n") + (isLabelled ? `; ground truth ${KINDS[truthOf(opened)]}` : "");
  showPointer();
}

// Show the point that the keyboard moves.
function markPoint(canvas) {
  const context = canvas.getContext("2d");
  for (const [color, size] of [["#000", 12], ["#fff", 9]]) {
    context.strokeStyle = color;
    context.strokeRect(pointer.x * canvas.width - size / 2, pointer.y * canvas.height - size / 2, size, size);
  }
}

function showPointer() {
  $("pointed").textContent = models.map((model, k) => {
    const map = hasMasks && model.maps[opened];
    if (!map) return "";
    const [height, width] = model.mapFacts[opened];
    const [x, y] = [Math.min(width - 1, Math.floor(pointer.x * width)), Math.min(height - 1, Math.floor(pointer.y * height))];
    const raw = map[y * width + x];
    const level = model.settings.pixel;
    return `${both ? `${"AB"[k]}: ` : ""}row ${y}, column ${x}: ${exact(raw)}, normalised ${text6(normalized(level, raw))}, ${isAnomalous(level, model.cutoffs.pixel, raw) ? "anomalous" : "normal"}`;
  }).join("\n");
}

buildSettings();
buildToolbar();
buildViewer();
meta.shown.forEach((_, place) => addCard(place));
update();
