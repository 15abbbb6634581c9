// The tree, a level at a time: what is below a job is asked for when that is opened.

import { ask } from "./api.js";
import { byId, element, shown, whole } from "./dom.js";
import * as job from "./job.js";

const PAGE = 50;
let shownTree = null;

/** Show the first job of a tree, unless that is shown already. */
export function show(tree) {
  if (shownTree === tree.tree) return;
  shownTree = tree.tree;
  again();
}

/** Read it anew, from the top. */
export async function again() {
  const place = byId("tree");
  const list = element("ul", { class: "tree", "aria-label": "Jobs" });
  place.replaceChildren(list);
  await more(shownTree, null, null, list);
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
  const button = element("button", { type: "button", class: "toggle", "aria-expanded": "false", "aria-label": `What is below ${one.job}` }, "▸");
  button.addEventListener("click", async () => {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    button.textContent = open ? "▸" : "▾";
    place.querySelector(":scope > ul")?.remove();
    if (open) return;
    const list = element("ul");
    place.append(list);
    await more(tree, one.job, null, list);
    if (list.childElementCount === 0) list.append(element("li", { class: "hint" }, "all done meanwhile"));
  });
  return button;
}

byId("tree-again").addEventListener("click", again);
