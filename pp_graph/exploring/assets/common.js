"use strict";
// What the pages of all families share: the data, elements, formats, one update a frame.

const meta = JSON.parse(document.getElementById("meta").textContent);
const COUNT = meta.shown.length;
const pictures = new Array(COUNT).fill(null);

const $ = (id) => document.getElementById(id);
function el(tag, attributes = {}, ...children) {
  const node = document.createElementNS(
    ["svg", "rect", "line", "g", "text", "path"].includes(tag) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml",
    tag,
  );
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}
const text6 = (x) => (Number.isFinite(x) ? String(Number(x.toPrecision(6))) : String(x));
const exact = (x) => Number(x.toPrecision(9)); // reads back as the same float32
const percent = (x, digits = 1) => (Number.isNaN(x) ? "–" : `${(100 * x).toFixed(digits)} %`);

function rates(found, missed, alarms) {
  const share = (part, whole) => (whole ? part / whole : NaN);
  return {
    precision: share(found, found + alarms),
    recall: share(found, found + missed),
    f1: share(2 * found, 2 * found + missed + alarms),
  };
}

function copyButton(id, what) {
  const button = el("button", {
    type: "button", "aria-label": `Copy ${what}`,
    onclick: async () => {
      try {
        await navigator.clipboard.writeText($(id).textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren($(id)); // a frame may not write to the clipboard
        button.textContent = "Selected";
      }
      setTimeout(() => (button.textContent = "Copy"), 1500);
    },
  }, "Copy");
  return button;
}

// ---- One update a frame ------------------------------------------------------------------------------------------

let scheduled = false;
function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(update);
}

// Data arrive while the page loads; maps are decoded one after the other, in order.
let queue = Promise.resolve();
let arrived = 0;
function received(data) {
  queue = queue
    .then(() => receive(data))
    .then(() => {
      arrived++;
      if (arrived === COUNT || arrived % 16 === 0) schedule();
    });
}
function receivedAll() {
  queue = queue.then(() => {
    document.body.dataset.ready = "true";
    schedule();
  });
}

async function showPicture(place, content) {
  const image = new Image();
  image.src = `data:image/jpeg;base64,${content}`;
  await image.decode();
  pictures[place] = image;
  redraw(place);
}

// Draw the picture on a canvas of its size, but at least so wide, and return the canvas' context; null while there is no picture.
function drawPicture(canvas, place, least = 0) {
  const picture = pictures[place];
  if (!picture) return null;
  const zoom = Math.max(1, least / picture.naturalWidth);
  const [width, height] = [picture.naturalWidth, picture.naturalHeight].map((size) => Math.round(zoom * size));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = true;
  context.drawImage(picture, 0, 0, width, height);
  return context;
}

// ---- Histograms with a handle ------------------------------------------------------------------------------------

const [WIDE, HIGH] = [320, 96];

// Counts as bars; small ones stay visible.
function bars(counts, kind) {
  const most = Math.max(...counts);
  if (!most) return "";
  let path = `M0 ${HIGH}`;
  counts.forEach((count, i) => (path += `V${HIGH - (HIGH - 4) * Math.sqrt(count / most)}H${((i + 1) / counts.length) * WIDE}`));
  return el("path", { d: `${path}V${HIGH}Z`, class: kind });
}

// An empty histogram from low to high. `current` returns the number at the handle, `move` takes a new one.
function emptyHistogram(name, low, high, current, move) {
  const at = (event) => {
    const box = svg.getBoundingClientRect();
    return low + Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)) * (high - low);
  };
  const handle = el(
    "g",
    {
      class: "handle", tabindex: 0, role: "slider", "aria-label": name, "aria-valuemin": text6(low), "aria-valuemax": text6(high),
      onkeydown: (event) => {
        const way = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 }[event.key];
        if (!way) return;
        event.preventDefault();
        move(current() + (way * (high - low)) / (event.shiftKey ? 2000 : 200));
      },
    },
    el("rect", { x: -12, y: 0, width: 24, height: HIGH, class: "grip" }),
    el("line", { x1: 0, x2: 0, y1: 0, y2: HIGH }),
    el("rect", { x: -4, y: 0, width: 8, height: 14, rx: 3 }),
  );
  const svg = el(
    "svg",
    {
      viewBox: `0 0 ${WIDE} ${HIGH + 14}`, class: "histogram",
      onpointerdown: (event) => {
        svg.setPointerCapture(event.pointerId);
        handle.focus();
        move(at(event));
      },
      onpointermove: (event) => svg.hasPointerCapture(event.pointerId) && move(at(event)),
    },
    el("g", { class: "bars" }),
    el("text", { x: 0, y: HIGH + 12 }, text6(low)),
    el("text", { x: WIDE, y: HIGH + 12, "text-anchor": "end" }, text6(high)),
    handle,
  );
  return svg;
}

function drawBars(svg, low, high, number, paths) {
  svg.querySelector(".bars").replaceChildren(...paths);
  const at = Number.isNaN(number) ? WIDE : Math.max(0, Math.min(1, (number - low) / (high - low))) * WIDE;
  const handle = svg.querySelector(".handle");
  handle.setAttribute("transform", `translate(${at} 0)`);
  handle.setAttribute("aria-valuenow", text6(number));
  handle.setAttribute("aria-valuetext", `decides at ${text6(number)}`);
}
