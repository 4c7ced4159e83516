"use strict";
// Detectors: which candidates pass, which boxes suppress others, and how they match the ground truth.

const LAYERS = { boxes: "", ...(marked && { truth: "truth key" }) };
const layers = { boxes: true, truth: true };
const perClass = Array.isArray(meta.confidence);
const own = () => ({ confidence: [meta.confidence].flat().map((each) => Math.max(each, meta.floor)), iou: meta.iou });
let settings = own();
const found = new Array(COUNT).fill(null); // detections of each image, the highest score first
const atOpening = new Array(COUNT).fill(null);
const [BEST, PROBABILITY, SCORE, CLASS, CANDIDATE] = [4, 5, 6, 7, 8];
const FARTHEST = 2 ** 20;
const { fround, min, max } = Math;

// Corners and area as the graph computes overlaps; see steps/overlaps.py.
function boundedBoxes(rows, places) {
  return places.map((i) => {
    const [x1, y1, x2, y2] = [0, 1, 2, 3].map((part) => limit(rows[part][i], -FARTHEST, FARTHEST));
    return { x1, y1, x2, y2, area: fround(max(fround(x2 - x1), 0) * max(fround(y2 - y1), 0)), nan: [0, 1, 2, 3].some((part) => Number.isNaN(rows[part][i])) };
  });
}

// Whether the IoU of two boxes exceeds the threshold, without a division.
function overlapping(a, best, iou) {
  const width = fround(min(a.x2, best.x2) - max(a.x1, best.x1));
  const height = fround(min(a.y2, best.y2) - max(a.y1, best.y1));
  const shared = fround(max(width, 0) * max(height, 0));
  return fround(fround(fround(a.area + best.area) - shared) * iou) < shared;
}

// Columns of the candidates that the graph returns at these settings, in order; see postprocessors/detection_steps.py.
function detect(rows, { confidence, iou }) {
  const levels = confidence.map(fround);
  let places = [];
  for (let i = 0; i < rows[BEST].length; i++) if (rows[PROBABILITY][i] > levels[perClass ? rows[CLASS][i] : 0]) places.push(i);
  if (!meta.everyClass) {
    // Of one candidate, the best class that passes comes first.
    const seen = new Set();
    places = places.filter((i) => !seen.has(rows[CANDIDATE][i]) && seen.add(rows[CANDIDATE][i]));
    places.sort((a, b) => rows[BEST][b] - rows[BEST][a] || rows[CANDIDATE][a] - rows[CANDIDATE][b]);
  }
  places = places.slice(0, meta.candidates);
  if (!meta.suppresses) return places.slice(0, meta.most);
  const boxes = boundedBoxes(rows, places);
  const alive = boxes.map((box) => !box.nan);
  const kept = [];
  const threshold = fround(iou);
  for (let i = 0; i < places.length && kept.length < meta.most; i++) {
    if (!alive[i]) continue;
    kept.push(places[i]);
    for (let j = i + 1; j < places.length; j++) {
      if (!alive[j] || (meta.classAware && rows[CLASS][places[j]] !== rows[CLASS][places[i]])) continue;
      if (overlapping(boxes[j], boxes[i], threshold)) alive[j] = false;
    }
  }
  return kept;
}

// Corners in pixels of the image; see preprocessing/placement.py.
function inFrame(place, rows, i) {
  const [width, height, left, upper, right, down] = meta.frames[place];
  const at = (part, offset, scale, most) => limit(fround((rows[part][i] - offset) * scale), 0, most);
  return [at(0, left, right, width), at(1, upper, down, height), at(2, left, right, width), at(3, upper, down, height)];
}

function share(box, other, crowd) {
  const [width, height] = [min(box[2], other[2]) - max(box[0], other[0]), min(box[3], other[3]) - max(box[1], other[1])];
  const shared = width > 0 && height > 0 ? width * height : 0;
  const [area, area2] = [box, other].map((each) => (each[2] - each[0]) * (each[3] - each[1]));
  return shared ? shared / (crowd ? area : area + area2 - shared) : 0;
}

// Mark each detection "right" or "wrong", or "" in a crowd, at an overlap of 0.5 as COCO does; see calibration/box_matches.py.
function match(place, detections) {
  const truth = marked[place];
  const taken = new Set();
  for (const each of detections) {
    let best = null;
    for (const crowd of [0, 1]) {
      for (let t = truth.length - 1; t >= 0; t--) {
        if (truth[t][4] !== each.kind || Number(truth[t][5]) !== crowd || (taken.has(t) && !crowd)) continue;
        const overlap = share(each.box, truth[t], crowd);
        if (overlap >= 0.5 && (best === null || overlap > best.overlap)) best = { t, overlap, crowd };
      }
      if (best) break;
    }
    if (best) taken.add(best.t);
    each.verdict = best ? (best.crowd ? "" : "right") : "wrong";
  }
  return truth.filter((box, t) => !box[5] && !taken.has(t));
}

function resultOf(place, values) {
  const rows = rowsOf[place];
  const boxes = detect(rows, values).map((i) => ({ box: inFrame(place, rows, i), score: rows[SCORE][i], probability: rows[PROBABILITY][i], kind: rows[CLASS][i], verdict: "" }));
  return { boxes, missed: marked ? match(place, boxes) : [] };
}

function decide() {
  for (let place = 0; place < COUNT; place++) {
    if (!rowsOf[place]) continue;
    found[place] = resultOf(place, settings);
    atOpening[place] ??= found[place];
  }
  drawScores();
}

// ---- Histogram of scores, and F1 at each confidence --------------------------------------------------------------

let histogram;
let bestF1 = null;
const lowest = { iou: null };

function drawScores() {
  if (lowest.iou !== settings.iou || lowest.arrived !== arrived) {
    const low = rowsOf.flatMap((rows, place) => (rows ? resultOf(place, { confidence: settings.confidence.map(() => meta.floor), iou: settings.iou }).boxes : []));
    Object.assign(lowest, { iou: settings.iou, arrived, boxes: low.sort((a, b) => b.probability - a.probability) });
    lowest.curve = marked && curveOf(low);
  }
  const kinds = marked ? [["right", "normal"], ["wrong", "anomalous"]] : [["", "unlabelled"]];
  const paths = kinds.map(([verdict, kind]) => {
    const counts = new Float64Array(50);
    for (const each of lowest.boxes) if (each.verdict === verdict) counts[limit(Math.floor((each.probability - meta.floor) / (1 - meta.floor) * 50), 0, 49)]++;
    return bars(counts, kind);
  });
  drawBars(histogram, meta.floor, 1, settings.confidence[0], [...paths, lowest.curve?.path ?? ""]);
}

// Detections of a higher confidence are the first of those of a lower one.
function curveOf(boxes) {
  const total = marked.slice(0, COUNT).reduce((sum, truth, place) => sum + (rowsOf[place] ? truth.filter((box) => !box[5]).length : 0), 0);
  let [right, wrong, path] = [0, 0, ""];
  bestF1 = { f1: 0, confidence: meta.floor };
  boxes.forEach((each, i) => {
    if (each.verdict === "right") right++;
    else if (each.verdict === "wrong") wrong++;
    const next = boxes[i + 1]?.probability ?? meta.floor;
    if (next === each.probability) return;
    const f1 = (2 * right) / (right + wrong + total);
    path += `${path ? "L" : "M"}${((each.probability - meta.floor) / (1 - meta.floor)) * WIDE} ${HIGH - (HIGH - 4) * f1}`;
    if (f1 > bestF1.f1) bestF1 = { f1, confidence: fround((each.probability + next) / 2) };
  });
  return { path: path && el("path", { d: path, class: "curve" }) };
}

// ---- Panels ------------------------------------------------------------------------------------------------------

const setAll = (value) => (settings.confidence = settings.confidence.map(() => fround(limit(value, meta.floor, 1))));

function buildSettings() {
  histogram = emptyHistogram("confidence", meta.floor, 1, () => settings.confidence[0], (value) => { setAll(value); schedule(); });
  $("levels").append(
    el("h2", {}, "Scores"), histogram,
    el("p", { class: "faint" }, marked ? "Scores of right (blue) and wrong (orange) detections; the line is F1 at each confidence" : "Scores of all detections"),
    limitRow("confidence", perClass ? "All classes" : "Confidence", [meta.floor, 1], () => exact(settings.confidence[0]), setAll),
    meta.suppresses ? limitRow("iou", "IoU", [0, 1], () => exact(settings.iou), (value) => (settings.iou = fround(value))) : "",
    ...(perClass
      ? [el("details", {}, el("summary", {}, "Confidence of each class"), ...settings.confidence.map((_, k) =>
          limitRow(`confidence-${k}`, className(k), [meta.floor, 1], () => exact(settings.confidence[k]), (value) => (settings.confidence[k] = fround(value)))))]
      : []),
    marked && !perClass ? el("button", { type: "button", id: "best", onclick: () => { if (bestF1) setAll(bestF1.confidence); schedule(); } }, "Take the confidence of the largest F1") : "");
  buildPanels(() => (settings = own()));
}

function optionsOf() {
  return { confidence: perClass ? settings.confidence.map(exact) : exact(settings.confidence[0]), ...(meta.suppresses && { iou: exact(settings.iou) }) };
}

function countsOf(kind) {
  const counts = { boxes: 0, right: 0, wrong: 0, missed: 0 };
  for (const each of found) {
    if (!each) continue;
    for (const { kind: own_, verdict } of each.boxes) {
      if (kind !== null && own_ !== kind) continue;
      counts.boxes++;
      if (verdict) counts[verdict]++;
    }
    counts.missed += each.missed.filter((box) => kind === null || box[4] === kind).length;
  }
  return { ...counts, ...rates(counts.right, counts.missed, counts.wrong) };
}

function headline() {
  const all = countsOf(null);
  return `: ${all.boxes.toLocaleString("en")} boxes` + (marked ? `, F1 ${percent(all.f1)}, ${all.missed} missed, ${all.wrong} false alarms` : "");
}

function resultRows() {
  const kinds = new Set(found.flatMap((each) => (each ? [...each.boxes.map((box) => box.kind), ...each.missed.map((box) => box[4])] : [])));
  const row = (name, kind) => {
    const each = countsOf(kind);
    return [name, each.boxes, ...(marked ? [each.missed, each.wrong, ...[each.precision, each.recall, each.f1].map((x) => percent(x, 0))] : [])];
  };
  const rows = [...kinds].sort((a, b) => a - b).map((kind) => row(className(kind), kind));
  return table([...rows, row("all", null)], ["class", "boxes", ...(marked ? ["missed", "false", "prec.", "recall", "F1"] : [])]);
}

// ---- Images ------------------------------------------------------------------------------------------------------

function draw(canvas, _, place) {
  const context = drawPicture(canvas, place, 640);
  const result = found[place];
  if (!context || !result) return;
  const [width, height] = meta.frames[place];
  const [x, y] = [canvas.width / width, canvas.height / height];
  const stroke = ([left, upper, right, lower], color, thick) => {
    context.strokeStyle = color;
    context.lineWidth = (thick * canvas.width) / 300;
    context.strokeRect(left * x, upper * y, (right - left) * x, (lower - upper) * y);
  };
  if (marked && layers.truth) for (const box of marked[place]) stroke(box, "#00d0ff", 4);
  if (!layers.boxes) return;
  context.font = `${Math.round(canvas.width / 28)}px system-ui, sans-serif`;
  context.textBaseline = "bottom";
  for (const { box, score, kind, verdict } of [...result.boxes].reverse()) {
    stroke(box, classColor(kind), 2);
    const text = `${className(kind)} ${score.toFixed(2)}${verdict === "wrong" ? " ✗" : ""}`;
    const size = context.measureText(text);
    const high = size.fontBoundingBoxAscent + size.fontBoundingBoxDescent;
    const [left, lower] = [limit(box[0] * x, 0, max(0, canvas.width - size.width - 4)), max(high, box[1] * y)];
    context.fillStyle = classColor(kind);
    context.fillRect(left, lower - high, size.width + 4, high);
    context.fillStyle = "#000";
    context.fillText(text, left + 2, lower);
  }
}

const wrongIn = (place) => found[place]?.boxes.filter((box) => box.verdict === "wrong").length ?? 0;
const missedIn = (place) => found[place]?.missed.length ?? 0;
const keyOf = (result) => JSON.stringify(result?.boxes.map(({ box, kind }) => [box, kind]));

function captionOf(place) {
  if (!found[place]) return { parts: [], wrong: false };
  const count = found[place].boxes.length;
  const [wrong, missed] = [wrongIn(place), missedIn(place)];
  return {
    parts: [`${count} ${count === 1 ? "box" : "boxes"}`, ...(wrong ? [el("b", { class: "wrong" }, `${wrong} false`)] : []), ...(missed ? [el("b", { class: "wrong" }, `${missed} missed`)] : [])],
    wrong: wrong + missed > 0,
  };
}

const FILTERS = {
  all: ["all images", () => true],
  ...(marked && { alarms: ["false alarms", (place) => wrongIn(place) > 0], missed: ["missed", (place) => missedIn(place) > 0] }),
  found: ["with boxes", (place) => found[place]?.boxes.length > 0],
  none: ["without boxes", (place) => !found[place]?.boxes.length],
  changed: ["changed since opening", (place) => keyOf(found[place]) !== keyOf(atOpening[place])],
};
const SORTS = {
  order: ["in the order of the data", (place) => place],
  ...(marked && { errors: ["most errors first", (place) => -wrongIn(place) - missedIn(place)] }),
  most: ["most boxes first", (place) => -(found[place]?.boxes.length ?? 0)],
  nearest: ["score nearest to the confidence first", (place) => min(...(rowsOf[place]?.[PROBABILITY] ?? []).map((x) => Math.abs(x - settings.confidence[0])))],
};

const viewerText = (place) => (found[place]?.boxes ?? []).slice(0, 20).map(({ box, score, kind, verdict }) =>
  `${className(kind)} ${score.toFixed(4)}: ${box.map((x) => x.toFixed(1)).join(", ")}${verdict && `, ${verdict}`}`).join("\n");

const gridOf = () => [100, 100]; // steps of the point that the keyboard moves

// The smallest box at a point, given as shares of width and height.
function pointed(place, left, upper) {
  const [width, height] = meta.frames[place];
  const [x, y] = [left * width, upper * height];
  const size = ({ box }) => (box[2] - box[0]) * (box[3] - box[1]);
  const [at] = (found[place]?.boxes ?? []).filter(({ box }) => box[0] <= x && x <= box[2] && box[1] <= y && y <= box[3]).sort((a, b) => size(a) - size(b));
  return `${x.toFixed(0)}, ${y.toFixed(0)}${at ? `: ${className(at.kind)}, score ${exact(at.score)}` : ""}`;
}
