// The classes of targets: how many, how long, how much; sorted by whichever column is chosen.

import { byId, duration, element, keyed, memory, setText, shown, whole } from "./dom.js";

const mean = (kind) => (kind.succeeded ? kind.wall / kind.succeeded : null);
const left = (kind) => kind.counts.ready + kind.counts.issued + kind.counts.blocked + kind.counts.failed;
const COLUMNS = [
  ["class", (kind) => kind.name, shown],
  ["left", left, whole],
  ["failed", (kind) => kind.counts.failed, whole],
  ["succeeded", (kind) => kind.succeeded, whole],
  ["failures", (kind) => kind.failures, whole],
  ["time", (kind) => kind.wall, duration],
  ["mean", mean, duration],
  ["least", (kind) => kind.wall_min, duration],
  ["most", (kind) => (kind.succeeded ? kind.wall_max : null), duration],
  ["CPU", (kind) => kind.cpu_time, duration],
  ["memory", (kind) => kind.memory_max, memory],
];

let sorted = { column: 5, down: true };
let latest = null;

/** Show the classes of a tree. */
export function show(tree) {
  latest = tree;
  const place = byId("classes");
  if (place.querySelector("table") === null) place.replaceChildren(table());
  const [, value] = COLUMNS[sorted.column];
  const rows = [...tree.classes].sort((a, b) => compare(value(a), value(b)) * (sorted.down ? -1 : 1));
  keyed(
    place.querySelector("tbody"),
    rows,
    (kind) => kind.name,
    () => element("tr", {}, ...COLUMNS.map((_, n) => element("td", { class: n ? "number" : "name" }))),
    (line, kind) => COLUMNS.forEach(([, of, words], n) => setText(line.children[n], words(of(kind)))),
  );
  [...place.querySelectorAll("th")].forEach((head, n) => {
    head.setAttribute("aria-sort", n !== sorted.column ? "none" : sorted.down ? "descending" : "ascending");
  });
}

function compare(a, b) {
  if (typeof a === "string") return a < b ? -1 : a > b ? 1 : 0;
  return (a ?? -1) - (b ?? -1);
}

function table() {
  const heads = COLUMNS.map(([title], n) => {
    const button = element("button", { type: "button", class: "link" }, title);
    button.addEventListener("click", () => {
      sorted = { column: n, down: sorted.column === n ? !sorted.down : n > 0 };
      show(latest);
    });
    return element("th", { scope: "col", class: n ? "number" : "" }, button);
  });
  return element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody"));
}
