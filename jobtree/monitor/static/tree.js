// The tree, a level at a time: what is below a job is asked for when that is opened. While jobs come and go it is read
// again every now and then, unless somebody is about to use it.

import { ask } from "./api.js";
import { byId, element, shown, whole } from "./dom.js";
import * as job from "./job.js";

const PAGE = 20;
const EVERY = 5000; // milliseconds, at the least, from one reading to the next

let shownTree = null;
let shownCounts = "";
let readAt = 0;
let opened = new Set();

/** Show the first level of a tree, and read again what is shown if jobs have changed their state. */
export function show(tree) {
  const place = byId("tree");
  const counts = JSON.stringify(tree.counts);
  if (shownTree !== tree.tree) {
    shownTree = tree.tree;
    place.replaceChildren();
  } else {
    const used = place.contains(document.activeElement) || place.matches(":hover") || place.dataset.further === "true";
    if (counts === shownCounts || used || document.hidden || performance.now() - readAt < EVERY) return;
  }
  shownCounts = counts;
  again();
}

/** Read it anew, from the top; what is open stays open. */
export async function again() {
  const place = byId("tree");
  const tree = shownTree;
  readAt = performance.now();
  const all = [...place.querySelectorAll("[aria-expanded]")];
  const open = all.filter((button) => button.getAttribute("aria-expanded") === "true").map((button) => button.dataset.job);
  opened = all.length ? new Set(open) : null;
  const list = element("ul", { class: "tree", "aria-label": "Jobs" });
  await more(tree, null, null, list);
  if (tree !== shownTree) return; // another one was chosen meanwhile
  place.dataset.further = "false";
  place.replaceChildren(list);
  if (list.childElementCount === 0) place.replaceChildren(element("p", { class: "hint" }, "Every job is done."));
}

async function more(tree, parent, after, list) {
  try {
    const found = await ask(`/${tree}/jobs`, { parent, after, limit: PAGE });
    list.append(...found.map((one) => item(tree, one)));
    if (found.length === PAGE) list.append(further(tree, parent, found.at(-1).job, list));
  } catch (error) {
    list.append(element("li", { class: "trouble" }, error.message));
  }
}

function further(tree, parent, after, list) {
  const button = element("button", { type: "button", class: "small" }, `${PAGE} more`);
  const place = element("li", {}, button);
  button.addEventListener("click", async () => {
    place.remove();
    byId("tree").dataset.further = "true";
    await more(tree, parent, after, list);
  });
  return place;
}

function item(tree, one) {
  const waits = one.pending ? ` waits for ${whole(one.pending)}` : "";
  const failures = one.tries ? ` ${one.tries} ${one.tries === 1 ? "failure" : "failures"}` : "";
  const row = element(
    "div",
    { class: "row" },
    job.link(tree, one.job),
    element("span", { class: `chip ${one.state}` }, one.state),
    element("span", { class: "name" }, shown(one.class)),
    element("span", { class: "hint" }, waits + failures),
  );
  const made = element("li", {}, row);
  if (one.pending) row.prepend(toggle(tree, one, made));
  else row.prepend(element("span", { class: "toggle" }));
  return made;
}

function toggle(tree, one, place) {
  const button = element("button", { type: "button", class: "toggle", "aria-expanded": "false", data: { job: one.job }, "aria-label": `What is below ${one.job}` }, "▸");
  const turn = async () => {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    button.textContent = open ? "▸" : "▾";
    place.querySelector(":scope > ul")?.remove();
    if (open) return;
    const list = element("ul");
    place.append(list);
    await more(tree, one.job, null, list);
    if (list.childElementCount === 0) list.append(element("li", { class: "hint" }, "all done meanwhile"));
  };
  button.addEventListener("click", turn);
  // The first level is open at first.
  if (opened === null ? one.parent === null : opened.delete(one.job)) turn();
  return button;
}

byId("tree-again").addEventListener("click", again);
addEventListener("done", again); // something was done about a job
