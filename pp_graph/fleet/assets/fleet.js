"use strict";
// Sort and filter the rows; the choice is kept in the address, so that a link shows the same.
const body = document.querySelector("#fleet tbody");
const heads = [...document.querySelectorAll("#fleet thead th")];
const text = document.querySelector("#text");
const choices = [...document.querySelectorAll(".filters select")];
const columns = Object.fromEntries(heads.map((head, index) => [head.dataset.name, index]));
const value = (row, index) => row.cells[index].dataset.value;

function sortBy(head, descending) {
  const index = heads.indexOf(head);
  const rows = [...body.rows];
  // Missing values stay last in both orders.
  rows.sort((one, other) => {
    const [a, b] = [value(one, index), value(other, index)];
    if (a === "" || b === "") return (a === "") - (b === "");
    const order = a.trim() !== "" && b.trim() !== "" && !isNaN(a) && !isNaN(b) ? a - b : a.localeCompare(b);
    return descending ? -order : order;
  });
  body.append(...rows);
  for (const other of heads) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
}

function filter() {
  const wanted = text.value.trim().toLowerCase();
  let shown = 0;
  for (const row of body.rows) {
    const fits = (!wanted || row.textContent.toLowerCase().includes(wanted)) &&
      choices.every((choice) => !choice.value || row.cells[columns[choice.dataset.name]].dataset.value === choice.value);
    row.hidden = !fits;
    shown += fits;
  }
  document.querySelector("#count").textContent = `${shown} of ${body.rows.length} artifacts`;
}

function remember() {
  const state = new URLSearchParams();
  if (text.value) state.set("text", text.value);
  for (const choice of choices) if (choice.value) state.set(choice.dataset.name, choice.value);
  const sorted = heads.find((head) => head.hasAttribute("aria-sort"));
  if (sorted) state.set("sort", (sorted.ariaSort === "descending" ? "-" : "") + sorted.dataset.name);
  history.replaceState(null, "", state.size ? `#${state}` : location.pathname);
}

for (const head of heads) {
  head.querySelector("button").addEventListener("click", () => {
    sortBy(head, head.getAttribute("aria-sort") === "ascending");
    remember();
  });
}
for (const control of [text, ...choices]) control.addEventListener("input", () => { filter(); remember(); });
document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());

const state = new URLSearchParams(location.hash.slice(1));
text.value = state.get("text") || "";
for (const choice of choices) choice.value = state.get(choice.dataset.name) || "";
const sort = state.get("sort");
const head = sort && heads[columns[sort.replace(/^-/, "")]];
if (head) sortBy(head, sort.startsWith("-"));
filter();
