// What runs at this moment, the longest first: how long, where, how far it says that it is.

import { byId, duration, element, keyed, setText, shown, whole } from "./dom.js";
import * as job from "./job.js";
import * as actions from "./actions.js";

const HEADINGS = ["job", "class", "for", "attempt", "where", "progress", ""];

/** Show the running targets of a tree. */
export function show(tree) {
  const place = byId("running");
  const rows = tree.running;
  setText(byId("running-number"), rows === null ? "" : whole(rows.length + tree.running_more));
  if (rows === null || rows.length === 0) {
    const words = rows === null ? "What runs is known to a running master only, and none tells." : "Nothing runs at this moment.";
    if (place.textContent !== words) place.replaceChildren(element("p", { class: "hint" }, words));
    return;
  }
  if (place.querySelector("table") === null) place.replaceChildren(table(), element("p", { class: "hint" }));
  keyed(
    place.querySelector("tbody"),
    rows,
    (row) => `${row.job} ${row.attempt}`,
    (row) => line(tree.tree, row),
    update,
  );
  setText(place.querySelector("p"), tree.running_more ? `and ${whole(tree.running_more)} more` : "");
}

function table() {
  const head = element("tr", {}, ...HEADINGS.map((text) => element("th", { scope: "col", class: text === "for" || text === "attempt" ? "number" : "" }, text)));
  return element("table", {}, element("thead", {}, head), element("tbody"));
}

function line(tree, row) {
  return element(
    "tr",
    {},
    element("td", {}, job.link(tree, row.job)),
    element("td", { class: "name" }),
    element("td", { class: "number" }),
    element("td", { class: "number attempt" }),
    element("td", { class: "where" }),
    element("td", { class: "name progress" }, element("progress", { max: 1, hidden: true, "aria-label": `progress of ${row.job}` }), element("span")),
    element("td", {}, actions.button(tree, "kill", row.job, row.attempt)),
  );
}

function update(line, row) {
  const [, name, seconds, attempt, where, progress] = line.children;
  setText(name, shown(row.name));
  setText(seconds, duration(row.seconds));
  setText(where, row.host ? shown(row.host) : "the master's machine");
  setText(attempt, String(row.attempt));
  progress.firstChild.hidden = row.fraction === null;
  progress.firstChild.value = row.fraction ?? 0;
  setText(progress.lastChild, reported(row));
  line.classList.toggle("hung", row.hung);
}

function reported(row) {
  const parts = [];
  if (row.hung) parts.push(`hung? silent for ${duration(row.silent)}`);
  if (row.fraction !== null) parts.push(`${Math.floor(100 * row.fraction)} %`);
  if (row.words) parts.push(shown(row.words));
  return parts.join(", ");
}
