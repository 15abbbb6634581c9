// Jobs that were given up: the reason at once, traceback and the end of the log when one is opened. The first ones are
// told at every look; those after them are read when they are asked for.

import { ask } from "./api.js";
import * as actions from "./actions.js";
import { byId, element, keyed, moment, setText, shown, whole } from "./dom.js";
import * as job from "./job.js";

const PAGE = 20;
const MOST_TEXT = 500;

let latest = null;
let known = 0;

/** Show the failures of a tree. */
export function show(tree) {
  const place = byId("failures");
  const number = tree.failed.length + tree.failed_more;
  setText(byId("failures-number"), number ? whole(number) : "");
  if (number === 0) {
    if (place.textContent !== "No job was given up.") place.replaceChildren(element("p", { class: "hint" }, "No job was given up."));
    return;
  }
  if (place.querySelector("ul") === null) {
    place.replaceChildren(
      element("p", { class: "buttons" }, actions.button(tree.tree, "retryAll")),
      element("ul", { class: "plain" }),
      element("ul", { class: "plain further" }),
      element("p", {}, element("button", { type: "button", class: "small" }, `${PAGE} more`)),
    );
    place.lastChild.firstChild.addEventListener("click", () => further(place, latest));
  }
  latest = tree;
  keyed(
    place.querySelector("ul"),
    tree.failed,
    (row) => `${row.job} ${row.attempt}`,
    (row) => item(tree.tree, row),
    () => {},
  );
  // What has moved up among the first is not shown twice; when some are failures no more, they are read again.
  const first = new Set(tree.failed.map((row) => row.job));
  const list = place.querySelector(".further");
  if (number < known) list.replaceChildren();
  known = number;
  for (const one of [...list.children]) if (first.has(one.dataset.job)) one.remove();
  place.lastChild.hidden = list.childElementCount >= tree.failed_more;
}

async function further(place, tree) {
  const list = place.querySelector(".further");
  const after = list.lastChild?.dataset.job ?? tree.failed.at(-1).job;
  try {
    const rows = await ask(`/${tree.tree}/failed`, { after, limit: PAGE });
    list.append(...rows.map((row) => item(tree.tree, { ...row, message: (row.failure?.message ?? "").slice(0, MOST_TEXT) })));
    if (rows.length < PAGE) place.lastChild.hidden = true;
  } catch (error) {
    list.append(element("li", { class: "trouble" }, error.message));
  }
}

function item(tree, row) {
  const body = element("div", { class: "body" });
  const summary = element(
    "summary",
    {},
    element("span", { class: "id" }, row.job),
    element("span", { class: "name" }, shown(row.class)),
    element("span", { class: "message" }, shown(row.message)),
  );
  const details = element("details", { class: "failure" }, summary, body);
  details.addEventListener("toggle", () => {
    if (details.open && body.childElementCount === 0) fill(tree, row, body);
  });
  return element("li", { data: { job: row.job } }, details);
}

async function fill(tree, row, body) {
  body.replaceChildren(element("p", { class: "hint" }, "reading ..."));
  try {
    const found = await ask(`/${tree}/jobs/${row.job}`);
    const when = found.failure === null ? "" : `Attempt ${found.failure.attempt}, ${moment(found.failure.time)}, on ${shown(found.failure.host ?? "an unknown host")}.`;
    body.replaceChildren(
      element("p", {}, when),
      ...job.failure(found.failure),
      element("p", { class: "buttons" }, actions.button(tree, "retry", row.job, row.attempt), actions.button(tree, "forget", row.job), job.button(tree, row.job)),
    );
  } catch (error) {
    body.replaceChildren(element("p", { class: "trouble" }, error.message));
  }
}
