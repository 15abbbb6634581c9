// Jobs that were given up: the reason at once, traceback and the end of the log when one is opened.

import { ask } from "./api.js";
import * as actions from "./actions.js";
import { byId, element, keyed, moment, setText, shown, whole } from "./dom.js";
import * as job from "./job.js";

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
      element("p", { class: "hint" }),
    );
  }
  keyed(
    place.querySelector("ul"),
    tree.failed,
    (row) => `${row.job} ${row.attempt}`,
    (row) => item(tree.tree, row),
    () => {},
  );
  const more = tree.failed_more ? `and ${whole(tree.failed_more)} more: jobTreeStatus --failed --most N shows N of them.` : "";
  setText(place.lastChild, more);
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
  return element("li", {}, details);
}

async function fill(tree, row, body) {
  body.replaceChildren(element("p", { class: "hint" }, "reading ..."));
  try {
    const found = await ask(`/${tree}/jobs/${row.job}`);
    const when = found.failure === null ? "" : `Attempt ${found.failure.attempt}, ${moment(found.failure.time)}, on ${shown(found.failure.host ?? "an unknown host")}.`;
    body.replaceChildren(
      element("p", {}, when),
      ...job.failure(found.failure),
      element("p", { class: "buttons" }, actions.button(tree, "retry", row.job), actions.button(tree, "forget", row.job), job.button(tree, row.job)),
    );
  } catch (error) {
    body.replaceChildren(element("p", { class: "trouble" }, error.message));
  }
}
