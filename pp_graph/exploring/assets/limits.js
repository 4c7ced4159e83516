"use strict";
// What the pages of detectors and classifiers share: limits to move, the result, the command line.
// The family defines decide(), optionsOf(), resultRows(), headline() and captionOf(place).

const models = [{}]; // one model; its results by image
const [model] = models;
const rowsOf = new Array(COUNT).fill(null); // the rows of numbers of each image, see exploring/families.py
const marked = meta.truth;
const classNames = meta.classes;
const className = (k) => classNames[k] ?? String(k);
const CLASS_COLORS = ["#e69f00", "#56b4e9", "#2fc49b", "#f0e442", "#4a90d9", "#d55e00", "#cc79a7", "#a0a4a8"];
const classColor = (k) => CLASS_COLORS[k % CLASS_COLORS.length];
const limit = (x, least, most) => Math.max(least, Math.min(most, x));

async function receive([place, picture, text]) {
  const ready = showPicture(place, picture);
  const [height, width] = meta.sizes[place];
  const numbers = await decodeMap(text, height, width);
  rowsOf[place] = Array.from({ length: height }, (_, k) => numbers.subarray(k * width, (k + 1) * width));
  await ready;
}

// A number with a slider; `read` returns the number shown, `apply` takes a new one.
const shownLimits = [];
function limitRow(id, name, [least, most], read, apply) {
  const take = (event) => Number.isFinite(event.target.valueAsNumber) && (apply(limit(event.target.valueAsNumber, least, most)), schedule());
  const slider = el("input", { type: "range", id: `${id}-slider`, min: least, max: most, step: "any", "aria-label": `${name}, slider`, oninput: take });
  const number = el("input", { type: "number", class: "limit", id, step: "any", min: least, max: most, "aria-label": name, onchange: take });
  shownLimits.push(() => [slider, number].forEach((field) => field.valueAsNumber !== read() && (field.value = read())));
  return el("div", { class: "row" }, el("label", { for: id }, name), slider, number);
}

function table(rows, heads = []) {
  const head = heads.length ? [el("tr", {}, ...heads.map((name) => el("th", { scope: "col" }, name)))] : [];
  return [...head, ...rows.map(([name, ...cells]) => el("tr", {}, el("th", { scope: "row" }, name), ...cells.map((cell) => el("td", {}, cell))))];
}

// The result and the command line; `reset` returns to the settings that the page opened with.
function buildPanels(reset) {
  $("result").append(el("summary", { id: "summary" }), el("div", { class: "wide" }, el("table", { id: "table", class: "compact" })), el("div", { class: "wide", id: "more" }));
  $("result").open = $("take").open = matchMedia("(min-width: 801px)").matches;
  $("take").append(
    el("div", { class: "copy" }, el("pre", { id: "command-0", tabindex: 0 }), copyButton("command-0", "command")),
    el("div", { class: "copy" }, el("pre", { id: "json-0", tabindex: 0 }), copyButton("json-0", "JSON")),
    el("button", { type: "button", onclick: () => { reset(); schedule(); } }, "Reset settings"));
}

function update() {
  scheduled = false;
  decide();
  shownLimits.forEach((show) => show());
  $("summary").textContent = `Result${headline()}`;
  $("table").replaceChildren(...resultRows());
  const options = optionsOf();
  const flags = Object.entries(options).map(([name, value]) => ` --${name.replace("_", "-")} ${[value].flat().join(",")}`);
  $("command-0").textContent = `${meta.command}${flags.join("")} -o tuned${meta.ending}`;
  $("json-0").textContent = JSON.stringify(options, null, 1);
  showGallery();
}

function describe(place) {
  const { parts, wrong } = captionOf(place);
  cards[place].captions[0].replaceChildren(...parts.flatMap((part, i) => (i ? [" · ", part] : [part])));
  cards[place].item.classList.toggle("is-wrong", wrong);
}
