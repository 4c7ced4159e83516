"use strict";
// The controls and the gallery. Numbers and decisions come from decide.js and state.js.

const KINDS = { 0: "normal", 1: "anomalous", "-1": "unlabelled" };

let edited = both && JSON.stringify(meta.models[0].levels) !== JSON.stringify(meta.models[1].levels) ? [0] : models.map((_, k) => k);
const first = () => models[edited[0]];

function change(level, values) {
  for (const k of edited) Object.assign(models[k].settings[level], values);
  schedule();
}

// ---- Histograms: a level each, with a handle at the cutoff -------------------------------------------------------

const histograms = {};

function extent(level) {
  const numbers = [];
  for (const model of models) {
    const { threshold, min, max } = model.levels[level];
    numbers.push(threshold, ...(min === null ? [] : [min, max]));
    if (level === "pixel") for (const [, , least, most] of model.mapFacts) numbers.push(least, most);
  }
  let [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  if (level === "image") {
    for (const each of scores) {
      for (const score of each) {
        if (!Number.isFinite(score)) continue;
        low = Math.min(low, score);
        high = Math.max(high, score);
      }
    }
  }
  return low < high ? [low, high] : [low - 0.5, high + 0.5];
}

function makeHistogram(level, bins) {
  const [low, high] = extent(level);
  const counts = models.map(() => ({ 0: new Float64Array(bins), 1: new Float64Array(bins), "-1": new Float64Array(bins) }));
  const bin = (x) => Math.max(0, Math.min(bins - 1, Math.floor(((x - low) / (high - low)) * bins)));
  return (histograms[level] = { low, high, bins, counts, bin });
}

function binPixels(model, place) {
  const { counts, bin } = histograms.pixel;
  const own = counts[models.indexOf(model)];
  const truth = model.truths[place];
  const map = model.maps[place];
  for (let i = 0; i < map.length; i++) if (map[i] === map[i]) own[truth ? truth[i] : -1][bin(map[i])]++;
}

function drawHistogram(level) {
  const { svg, low, high, counts } = histograms[level];
  drawBars(svg, low, high, first().cutoffs[level], [0, 1, -1].map((kind) => bars(counts[edited[0]][kind], KINDS[kind])));
}

// Set the threshold so that the cutoff comes to a raw value, whatever the sensitivity.
function decideAt(level, raw) {
  const { min, max, sensitivity } = first().settings[level];
  const shift = min === null ? 0 : (0.5 - sensitivity) * (max - min);
  change(level, { threshold: Math.fround(raw - shift) });
}

function histogramOf(level) {
  const histogram = makeHistogram(level, level === "image" ? 40 : 80);
  const { low, high } = histogram;
  if (level === "image") {
    models.forEach((_, k) => scores[k].forEach((score, i) => {
      if (!Number.isNaN(score)) histogram.counts[k][labels[i]][histogram.bin(score)]++;
    }));
  }
  histogram.svg = emptyHistogram(`${level} threshold`, low, high, () => first().cutoffs[level], (raw) => decideAt(level, raw));
  return histogram.svg;
}

// ---- Settings ----------------------------------------------------------------------------------------------------

function levelSection(level) {
  const id = (name) => `${level}-${name}`;
  const number = (name, step, apply) =>
    el("input", {
      type: "number", id: id(name), step, "aria-label": `${level} ${name}`,
      onchange: (event) => Number.isFinite(event.target.valueAsNumber) && apply(event.target.valueAsNumber),
    });
  const sensitivity = (value) => change(level, { sensitivity: Math.max(0, Math.min(1, value)) });
  const slider = el("input", {
    type: "range", id: id("sensitivity"), min: 0, max: 1, step: 0.01,
    oninput: (event) => sensitivity(event.target.valueAsNumber),
  });
  const adjustable = meta.models[0].levels[level].min !== null;
  return el(
    "section", { class: "level" },
    el("h2", {}, level === "image" ? "Images" : "Pixels"),
    histogramOf(level),
    el("div", { class: "row" },
      el("label", { for: id("threshold") }, "Threshold"), number("threshold", "any", (value) => change(level, { threshold: Math.fround(value) })),
      el("span", { id: id("cutoff"), class: "faint" })),
    adjustable
      ? el("div", { class: "row" }, el("label", { for: id("sensitivity") }, "Sensitivity"), slider,
          number("sensitivity-number", 0.01, sensitivity))
      : "",
  );
}

function showLevel(level) {
  const { threshold, sensitivity } = first().settings[level];
  const put = (name, value) => {
    const field = $(`${level}-${name}`);
    if (field && field.valueAsNumber !== value) field.value = value;
  };
  put("threshold", exact(threshold));
  put("sensitivity", sensitivity);
  put("sensitivity-number", sensitivity);
  const cutoff = first().cutoffs[level];
  $(`${level}-cutoff`).textContent = Number.isNaN(cutoff) ? "nothing is anomalous" : `decides at ${text6(cutoff)}`;
  drawHistogram(level);
}

const price = { miss: 10, alarm: 1 };

function showResult() {
  const rows = [];
  const add = (name, cell) => rows.push(el("tr", {}, el("th", { scope: "row" }, name), ...models.map((model) => el("td", {}, cell(model)))));
  if (hasLabels) {
    const metrics = new Map(models.map((model) => [model, imageMetrics(model)]));
    const of = (name, form = String) => (model) => form(metrics.get(model)[name]);
    if (isLabelled) {
      add("anomalous, found", of("found"));
      add("anomalous, missed", of("missed"));
      add("normal, false alarm", of("alarms"));
      add("normal, passed", of("passed"));
      for (const name of ["precision", "recall", "f1"]) add(name === "f1" ? "F1" : name, of(name, percent));
      add("cost", (model) => text6(metrics.get(model).missed * price.miss + metrics.get(model).alarms * price.alarm));
    } else {
      add("called anomalous", (model) => `${model.labels.reduce((sum, flag) => sum + flag, 0)} of ${meta.images}`);
    }
    add("changed since opening", (model) => model.labels.reduce((sum, flag, i) => sum + (flag !== model.opened[i] ? 1 : 0), 0));
  }
  if (hasMasks) {
    const metrics = new Map(models.map((model) => [model, pixelMetrics(model)]));
    if ([...metrics.values()].some((each) => each.anomalous)) {
      for (const name of ["precision", "recall", "f1"]) add(`pixels, ${name === "f1" ? "F1" : name}`, (model) => percent(metrics.get(model)[name]));
    }
    add("anomalous pixels", (model) => model.pixels.reduce((sum, each) => sum + (each ? each.flagged : 0), 0).toLocaleString("en"));
  }
  $("summary").textContent = `Result${hasLabels && isLabelled ? models.map((model) => { const m = imageMetrics(model); return `: F1 ${percent(m.f1)}, ${m.missed} missed, ${m.alarms} false alarms`; })[edited[0]] : ""}`;
  $("table").replaceChildren(
    ...(both ? [el("tr", {}, el("td"), ...models.map((model, k) => el("th", { scope: "col" }, `${"AB"[k]} ${model.name}`)))] : []),
    ...rows,
  );
}

// The command line and the JSON that give a model the settings shown.
function settingsOf(model) {
  const statistics = structuredClone(model.statistics);
  let moved = model.needsStatistics;
  const flags = [];
  for (const level of levelNames) {
    const { threshold, min, sensitivity } = model.settings[level];
    if (threshold !== model.levels[level].threshold) moved = true;
    statistics[level].threshold = threshold;
    if (min !== null) flags.push(`--${level}-sensitivity ${sensitivity}`);
  }
  const stats = moved ? " --stats settings.json" : "";
  return {
    command: `${model.command}${stats} ${flags.join(" ")} -o tuned${model.ending}`.replace("  ", " "),
    json: moved ? JSON.stringify({ schema_version: 1, ...statistics }, (_, x) => (typeof x === "number" ? exact(x) : x), 1) : null,
  };
}

function showTake() {
  models.forEach((model, k) => {
    const { command, json } = settingsOf(model);
    $(`command-${k}`).textContent = command;
    $(`json-${k}`).textContent = json ?? "";
    $(`json-box-${k}`).hidden = json === null;
  });
}

function buildSettings() {
  if (both) {
    const choice = (value, name, on) => el("label", {}, el("input", { type: "radio", name: "edited", checked: on, onchange: () => { edited = value; schedule(); } }), name);
    $("edited").append(
      el("fieldset", {}, el("legend", {}, "Settings change"),
        choice([0], "A", edited.length === 1), choice([1], "B", false), choice([0, 1], "both", edited.length === 2)));
  }
  $("levels").append(...levelNames.map(levelSection));
  const cost = (name, label) => el("label", {}, label, el("input", {
    type: "number", min: 0, step: "any", value: price[name],
    oninput: (event) => { price[name] = event.target.valueAsNumber || 0; showResult(); } }));
  $("result").append(el("summary", { id: "summary" }), el("table", { id: "table" }));
  $("result").open = $("take").open = matchMedia("(min-width: 801px)").matches;
  if (hasLabels && isLabelled) $("result").append(el("div", { class: "row" }, "Cost of a", cost("miss", "miss "), cost("alarm", "false alarm ")));
  models.forEach((model, k) =>
    $("take").append(
      both ? el("h3", {}, `${"AB"[k]} ${model.name}`) : "",
      el("div", { class: "copy" }, el("pre", { id: `command-${k}`, tabindex: 0 }), copyButton(`command-${k}`, "command")),
      el("div", { class: "copy", id: `json-box-${k}` }, el("div", {}, "settings.json"), el("pre", { id: `json-${k}`, tabindex: 0 }), copyButton(`json-${k}`, "JSON")),
    ));
  $("take").append(el("button", {
    type: "button",
    onclick: () => { for (const model of models) model.settings = structuredClone(model.levels); schedule(); },
  }, "Reset settings"));
}

function update() {
  scheduled = false;
  recompute();
  levelNames.forEach(showLevel);
  showResult();
  showTake();
  showGallery();
}
