"use strict";
// The model's arithmetic in float32. Math.fround of +, -, * and / on float32 numbers rounds as float32 hardware does.

const SMALLEST_NORMAL = 2 ** -126;
const SMALLEST = 2 ** -149;
const LOWEST_KEY = 0x007fffff; // -inf
const HIGHEST_KEY = 0xff800000; // +inf
const view = new DataView(new ArrayBuffer(4));

// Float32 numbers as integers in the same order; see values/float_keys.py.
function fromKey(key) {
  view.setUint32(0, (key >= 0x80000000 ? key - 0x80000000 : ~key) >>> 0);
  return view.getFloat32(0);
}

// clip((x - threshold) / (max - min) + 0.5, 0, 1), in this order; see steps/min_max.py.
function normalized(level, x) {
  if (level.min === null) return x;
  const range = Math.fround(level.max - level.min);
  if (range === 0) return x > level.threshold ? 1 : x < level.threshold ? 0 : 0.5;
  const scaled = Math.fround(Math.fround(x - level.threshold) / range);
  return Math.min(Math.max(Math.fround(scaled + 0.5), 0), 1);
}

// The smallest float32 that is anomalous, NaN for none; see steps/compare.py.
function cutoffOf(level) {
  const least = level.min === null ? level.threshold : Math.fround(1 - Math.fround(level.sensitivity));
  const decide = (key) => normalized(level, fromKey(key)) > least;
  if (!decide(HIGHEST_KEY)) return NaN;
  if (decide(LOWEST_KEY)) return -Infinity;
  let below = LOWEST_KEY;
  let above = HIGHEST_KEY;
  while (above - below > 1) {
    const middle = Math.floor((above + below) / 2);
    if (decide(middle)) above = middle;
    else below = middle;
  }
  return fromKey(above);
}

// The number that the graph compares with: it holds no subnormal cutoff.
function written(level, cutoff) {
  if (cutoff === 0 || !(Math.abs(cutoff) < SMALLEST_NORMAL)) return cutoff;
  if (level.adjustable) return cutoff > 0 ? SMALLEST_NORMAL : 0;
  return cutoff > 0 ? SMALLEST : SMALLEST - SMALLEST_NORMAL;
}

function isAnomalous(level, cutoff, x) {
  return x >= cutoff || (level.nanIsAnomalous && x !== x);
}

function bytesOf(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

async function inflated(text) {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Undo encode_map of exploring/encoding.py: bytes by significance, then differences from the predicted bits.
async function decodeMap(text, height, width) {
  const bytes = await inflated(text);
  const count = height * width;
  const bits = new Int32Array(count);
  for (let i = 0; i < count; i++) {
    bits[i] = bytes[i] | (bytes[count + i] << 8) | (bytes[2 * count + i] << 16) | (bytes[3 * count + i] << 24);
  }
  for (let i = width; i < count; i++) bits[i] = (bits[i] + bits[i - width]) | 0;
  for (let start = 0; start < count; start += width) {
    for (let i = start + 1; i < start + width; i++) bits[i] = (bits[i] + bits[i - 1]) | 0;
  }
  return new Float32Array(bits.buffer);
}
