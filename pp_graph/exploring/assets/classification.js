"use strict";
// Classifiers: the limit of unknown images, thresholds of several classes, and the confusion matrix.

const LAYERS = {};
const layers = {};
const own = () => ({ unknown: meta.unknown, multi: meta.multi === null ? null : [meta.multi].flat() });
let settings = own();
const atOpening = new Array(COUNT).fill(null);
const found = new Array(COUNT).fill(null);
const decidesUnknown = meta.unknown !== null;
const perClass = Array.isArray(meta.multi);
const MOST_CLASSES = 12; // of a whole confusion matrix
const UNKNOWN = -1;

// What the graph decides; see postprocessors/classification.py.
function decide() {
  for (let place = 0; place < COUNT; place++) {
    if (!rowsOf[place]) continue;
    const [row] = rowsOf[place];
    const [probability, kind] = row;
    const known = Number.isNaN(probability) ? !meta.nanIsUnknown : probability >= Math.fround(settings.unknown ?? 0);
    const each = { probability, kind, unknown: decidesUnknown && !known, labels: null };
    if (settings.multi) {
      each.labels = [];
      for (let k = 2; k < row.length; k++) {
        const level = Math.fround(settings.multi[perClass ? k - 2 : 0]);
        if (row[k] > level || (Number.isNaN(row[k]) && meta.nanIsUnknown)) each.labels.push(k - 2);
      }
    }
    each.key = `${each.unknown} ${each.labels}`;
    found[place] = each;
    atOpening[place] ??= each;
  }
  drawScores();
}

// The class by the ground truth; undefined without.
const truthOf = (place) => marked?.[place];
function isWrong(place) {
  const each = found[place];
  const truth = truthOf(place);
  if (!each || truth === undefined) return false;
  if (Array.isArray(truth)) return String(each.labels ?? [each.kind]) !== String(truth);
  return truth !== (each.unknown ? UNKNOWN : each.kind);
}
const nameOf = (k) => (k === UNKNOWN ? "unknown" : className(k));

// ---- Panels ------------------------------------------------------------------------------------------------------

let histogram;
function drawScores() {
  const kinds = marked && !meta.several ? [[false, "normal"], [true, "anomalous"]] : [[null, "unlabelled"]];
  drawBars(histogram, 0, 1, settings.unknown ?? 0, kinds.map(([wrong, name]) => {
    const counts = new Float64Array(40);
    found.forEach((each, place) => {
      if (each && !Number.isNaN(each.probability) && (wrong === null || (each.kind !== truthOf(place)) === wrong)) counts[limit(Math.floor(each.probability * 40), 0, 39)]++;
    });
    return bars(counts, name);
  }));
}

function buildSettings() {
  const least = 0.001; // retune takes limits above 0
  const setUnknown = (value) => { if (decidesUnknown) settings.unknown = Math.fround(limit(value, least, 1)); };
  const setAll = (value) => (settings.multi = settings.multi.map(() => Math.fround(value)));
  histogram = emptyHistogram("limit of unknown images", 0, 1, () => settings.unknown ?? 0, (value) => { setUnknown(value); schedule(); });
  $("levels").append(
    el("h2", {}, "Largest probability"), histogram,
    marked && !meta.several ? el("p", { class: "faint" }, "Images whose most probable class is right (blue) and wrong (orange)") : "",
    decidesUnknown ? limitRow("unknown", "Unknown below", [least, 1], () => exact(settings.unknown), setUnknown) : "",
    ...(settings.multi
      ? [limitRow("multi", perClass ? "All classes" : "Threshold", [0, 1], () => exact(settings.multi[0]), setAll),
          ...(perClass ? [el("details", {}, el("summary", {}, "Threshold of each class"), ...settings.multi.map((_, k) =>
            limitRow(`multi-${k}`, className(k), [0, 1], () => exact(settings.multi[k]), (value) => (settings.multi[k] = Math.fround(value)))))] : [])]
      : []));
  buildPanels(() => (settings = own()));
}

function optionsOf() {
  return {
    ...(decidesUnknown && { unknown_below: exact(settings.unknown) }),
    ...(settings.multi && { multi_label: perClass ? settings.multi.map(exact) : exact(settings.multi[0]) }),
  };
}

function headline() {
  const unknown = found.filter((each) => each?.unknown).length;
  const right = found.filter((each, place) => each && !isWrong(place)).length;
  const parts = [...(marked ? [`${percent(right / arrived)} right`] : []), ...(decidesUnknown ? [`${unknown} unknown`] : [])];
  return parts.length ? `: ${parts.join(", ")}` : "";
}

function resultRows() {
  $("more").replaceChildren(...(marked && !meta.several ? [el("table", { id: "confusion", class: "compact" }, ...confusion())] : []));
  const rows = [["images", arrived]];
  if (marked) rows.push(["wrong", found.filter((each, place) => each && isWrong(place)).length]);
  if (decidesUnknown) rows.push(["unknown", found.filter((each) => each?.unknown).length]);
  rows.push(["changed since opening", found.filter((each, place) => each && each.key !== atOpening[place].key).length]);
  if (!settings.multi) return table(rows);
  const count = rowsOf.find((each) => each)?.[0].length - 2 || 0;
  const each = Array.from({ length: count }, (_, k) => {
    const present = (place) => found[place]?.labels.includes(k);
    const places = found.map((_, place) => place).filter(present);
    if (!meta.several) return [className(k), places.length];
    const right = places.filter((place) => truthOf(place).includes(k)).length;
    const total = found.filter((result, place) => result && truthOf(place).includes(k)).length;
    const { precision, recall, f1 } = rates(right, total - right, places.length - right);
    return [className(k), places.length, percent(precision), percent(recall), percent(f1)];
  });
  return [...table(rows), ...table(each, ["class", "present", ...(meta.several ? ["precision", "recall", "F1"] : [])])];
}

// A row for each true class, a column for each predicted one; of many classes, the most frequent confusions.
function confusion() {
  const counts = new Map();
  const predicted = (each) => (each.unknown ? UNKNOWN : each.kind);
  found.forEach((each, place) => {
    if (!each) return;
    const key = `${truthOf(place)} ${predicted(each)}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  });
  const kinds = [...new Set(found.flatMap((each, place) => (each ? [truthOf(place), predicted(each)] : [])))].sort((a, b) => (a === UNKNOWN) - (b === UNKNOWN) || a - b);
  if (kinds.length <= MOST_CLASSES) {
    return table(kinds.map((truth) => [nameOf(truth), ...kinds.map((kind) => counts.get(`${truth} ${kind}`) ?? 0)]), ["is \\ called", ...kinds.map(nameOf)]);
  }
  const confused = [...counts].map(([key, count]) => [...key.split(" ").map(Number), count]).filter(([truth, kind]) => truth !== kind);
  return table(confused.sort((a, b) => b[2] - a[2]).slice(0, 20).map(([truth, kind, count]) => [nameOf(truth), nameOf(kind), count]), ["is", "called", "images"]);
}

// ---- Images ------------------------------------------------------------------------------------------------------

const draw = (canvas, _, place) => drawPicture(canvas, place);

function topOf(place, count) {
  const row = rowsOf[place]?.[0].subarray(2) ?? [];
  return Array.from(row, (x, k) => [x, k]).sort((a, b) => b[0] - a[0] || a[1] - b[1]).slice(0, count);
}
const truthText = (place) => [truthOf(place)].flat().map(nameOf).join(", ") || "none";

function captionOf(place) {
  const each = found[place];
  if (!each) return { parts: [], wrong: false };
  const wrong = isWrong(place);
  const called = each.labels ? each.labels.map(className).join(", ") || "none" : className(each.kind);
  const others = topOf(place, 3).map(([x, k]) => `${className(k)} ${x.toFixed(3)}`).join(", ");
  return {
    parts: [el("b", {}, each.unknown ? `unknown (${called})` : called), ...(wrong ? [el("b", { class: "wrong" }, `is ${truthText(place)}`)] : []), others],
    wrong,
  };
}

const FILTERS = {
  all: ["all images", () => true],
  ...(marked && { wrong: ["wrong", isWrong] }),
  ...(decidesUnknown && { unknown: ["unknown", (place) => found[place]?.unknown], known: ["known", (place) => !found[place]?.unknown] }),
  changed: ["changed since opening", (place) => found[place]?.key !== atOpening[place]?.key],
};
const SORTS = {
  order: ["in the order of the data", (place) => place],
  "prob-up": ["least probable first", (place) => found[place]?.probability ?? 2],
  "prob-down": ["most probable first", (place) => -(found[place]?.probability ?? 2)],
  class: ["by class", (place) => found[place]?.kind ?? -1],
};

const viewerText = (place) => topOf(place, 10).map(([x, k]) => `${className(k)}: ${exact(x)}`).join("\n") + (marked ? `\nground truth: ${truthText(place)}` : "");
const gridOf = () => null;
const pointed = () => "";
