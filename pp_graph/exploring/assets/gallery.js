"use strict";
// Cards and the enlarged image of all families. The family says how an image is drawn, described, filtered and sorted.

const view_ = { filter: "all", sort: Object.keys(SORTS)[0] };
const cards = [];
const visible = new Set();
let opened = null; // place of the enlarged image
const pointer = { x: 0, y: 0 }; // share of width and height

// ---- Cards -------------------------------------------------------------------------------------------------------

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
    ...Object.entries(LAYERS).map(([name, key]) => el("span", { class: key }, box(name, { truth: "ground truth" }[name] ?? name))));
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
    el("p", { class: "faint" }, `← and → show other images${gridOf(0) ? "; Shift with arrow keys moves the point whose value is shown" : ""}.`));
  $("viewer").addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way) return;
    event.preventDefault();
    if (!event.shiftKey) { if (way[0]) step(way[0]); return; }
    const grid = gridOf(opened);
    if (!grid) return;
    const [height, width] = grid;
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
  $("viewer-text").textContent = viewerText(opened);
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
  $("pointed").textContent = pointed(opened, pointer.x, pointer.y);
}

buildSettings();
buildToolbar();
buildViewer();
meta.shown.forEach((_, place) => addCard(place));
update();
