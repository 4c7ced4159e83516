"use strict";
// What the page knows: scores, maps and settings, and the decisions that follow from them.

const labels = new Int8Array(bytesOf(meta.labels).buffer); // of all images: 1 anomalous, 0 normal, -1 unknown
const isLabelled = labels.some((label) => label >= 0);
const scores = meta.scores && meta.scores.map((text) => new Float32Array(bytesOf(text).buffer));
const both = meta.models.length > 1;

const models = meta.models.map((model) => ({
  ...model,
  mapFacts: model.maps, // height, width, smallest and largest number of each map
  truthPixels: new Float64Array(COUNT),
  settings: structuredClone(model.levels),
  cutoffs: {},
  opened: null, // labels of all images under the settings that the page opened with
  maps: new Array(COUNT).fill(null),
  truths: new Array(COUNT).fill(null), // 1 where ground truth is anomalous, null if unknown
  pixels: new Array(COUNT).fill(null), // counts of each image shown
}));
const levelNames = Object.keys(meta.models[0].levels);
const hasLabels = levelNames.includes("image");
const hasMasks = levelNames.includes("pixel");

function labelOf(model, place) {
  return hasLabels ? isAnomalous(model.settings.image, model.cutoffs.image, scoreOf(model, place)) : null;
}

function scoreOf(model, place) {
  return scores ? scores[models.indexOf(model)][meta.shown[place]] : NaN;
}

function truthOf(place) {
  return labels[meta.shown[place]];
}

function allLabels(model) {
  const values = scores[models.indexOf(model)];
  const { image: level } = model.settings;
  return Uint8Array.from(values, (score) => isAnomalous(level, model.cutoffs.image, score));
}

function maskOf(model, place, cutoff = model.cutoffs.pixel) {
  const map = model.maps[place];
  if (!map) return null;
  const mask = new Uint8Array(map.length);
  const nan = model.settings.pixel.nanIsAnomalous;
  for (let i = 0; i < mask.length; i++) mask[i] = map[i] >= cutoff || (nan && map[i] !== map[i]) ? 1 : 0;
  return mask;
}

// Anomalous pixels of an image, those that ground truth confirms, and those that changed since the page opened.
function countPixels(model, place) {
  const map = model.maps[place];
  const truth = model.truths[place];
  const cutoff = model.cutoffs.pixel;
  const before = model.openedCutoff;
  const nan = model.settings.pixel.nanIsAnomalous;
  let flagged = 0;
  let right = 0;
  let changed = 0;
  for (let i = 0; i < map.length; i++) {
    const x = map[i];
    const now = x >= cutoff || (nan && x !== x);
    if (now) {
      flagged++;
      if (truth && truth[i]) right++;
    }
    if (now !== (x >= before || (nan && x !== x))) changed++;
  }
  return { flagged, right, changed };
}

function recompute() {
  for (const model of models) {
    for (const name of levelNames) model.cutoffs[name] = written(model.settings[name], cutoffOf(model.settings[name]));
    if (hasLabels) {
      model.labels = allLabels(model);
      model.opened ??= model.labels;
    }
    if (!hasMasks) continue;
    model.openedCutoff ??= model.cutoffs.pixel;
    if (model.countedCutoff === model.cutoffs.pixel) continue;
    model.countedCutoff = model.cutoffs.pixel;
    for (let place = 0; place < COUNT; place++) if (model.maps[place]) model.pixels[place] = countPixels(model, place);
  }
}

// Pixels that the two models decide differently; null while a map is missing, or if their sizes differ.
function differingPixels(place) {
  const masks = models.map((model) => maskOf(model, place));
  if (!masks[0] || !masks[1] || masks[0].length !== masks[1].length) return null;
  let differ = 0;
  for (let i = 0; i < masks[0].length; i++) if (masks[0][i] !== masks[1][i]) differ++;
  return differ;
}

function imageMetrics(model) {
  const counts = { found: 0, missed: 0, alarms: 0, passed: 0 };
  model.labels.forEach((flagged, index) => {
    if (labels[index] === 1) counts[flagged ? "found" : "missed"]++;
    else if (labels[index] === 0) counts[flagged ? "alarms" : "passed"]++;
  });
  return { ...counts, ...rates(counts.found, counts.missed, counts.alarms) };
}

function pixelMetrics(model) {
  let [found, anomalous, flagged] = [0, 0, 0];
  for (let place = 0; place < COUNT; place++) {
    if (!model.pixels[place] || !model.truths[place]) continue;
    found += model.pixels[place].right;
    flagged += model.pixels[place].flagged;
    anomalous += model.truthPixels[place];
  }
  return { ...rates(found, anomalous - found, flagged - found), anomalous };
}

async function receive([place, picture, maps, masks]) {
  const ready = showPicture(place, picture);
  for (let k = 0; k < maps.length; k++) {
    const model = models[k];
    const [height, width] = model.mapFacts[place];
    const map = await decodeMap(maps[k], height, width);
    const known = masks[k] || truthOf(place) === 0;
    model.truths[place] = masks[k] ? await inflated(masks[k]) : known ? new Uint8Array(map.length) : null;
    model.truthPixels[place] = known ? model.truths[place].reduce((sum, pixel) => sum + pixel, 0) : 0;
    model.maps[place] = map;
    model.pixels[place] = countPixels(model, place);
    binPixels(model, place);
    redraw(place);
  }
  await ready;
}
