// One job, in a dialog: why it is where it is, its last failure, what it has printed.

import { ask } from "./api.js";
import * as actions from "./actions.js";
import { byId, element, moment, shown } from "./dom.js";

/** A button with the job's name that opens the dialog. */
export function link(tree, name) {
  const made = element("button", { type: "button", class: "link", title: `Everything about job ${name}` }, name);
  made.addEventListener("click", () => open(tree, name));
  return made;
}

/** The same with words on it. */
export function button(tree, name) {
  const made = element("button", { type: "button" }, "Why, and the whole log");
  made.addEventListener("click", () => open(tree, name));
  return made;
}

/** A failure, as elements. */
export function failure(found) {
  if (found === null) return [element("p", { class: "hint" }, "Why is not stored.")];
  const made = [element("p", { class: "message" }, `${shown(found.reason)}: ${shown(found.message)}`)];
  if (found.traceback) made.push(part("Traceback", found.traceback));
  if (found.output) made.push(part("The last lines of its log", found.output));
  return made;
}

function part(title, text) {
  return element("div", {}, element("h3", {}, title), element("pre", { tabIndex: 0 }, shown(text)));
}

async function open(tree, name) {
  const dialog = byId("job");
  const body = byId("job-body");
  byId("job-title").textContent = `Job ${name}`;
  body.replaceChildren(element("p", { class: "hint" }, "reading ..."));
  dialog.dataset.job = name;
  dialog.dataset.tree = String(tree);
  if (!dialog.open) dialog.showModal();
  let made;
  try {
    made = elements(tree, await ask(`/${tree}/jobs/${name}`));
  } catch (error) {
    made = [element("p", { class: "trouble" }, error.message)];
  }
  if (dialog.dataset.job === name) body.replaceChildren(...made); // another one may have been opened meanwhile
}

function elements(tree, found) {
  const above = found.parent === null ? [] : [" below ", link(tree, found.parent)];
  const made = [
    element("p", {}, element("span", { class: `chip ${found.state}` }, found.state), ` ${shown(found.class)}`, ...above),
    element("ul", {}, ...found.why.map((sentence) => element("li", {}, shown(sentence)))),
  ];
  const doing = actions.forState(found.state, found.parent).map((what) => actions.button(tree, what, found.job, found.attempt));
  if (doing.length) made.push(element("p", { class: "buttons" }, ...doing));
  if (found.failure !== null) {
    const when = `Attempt ${found.failure.attempt}, ${moment(found.failure.time)}, on ${shown(found.failure.host ?? "an unknown host")}.`;
    made.push(element("h3", {}, "Its last failure"), element("p", {}, when), ...failure(found.failure));
  }
  if (found.failed_below.length) {
    const rows = found.failed_below.map((one) => element("li", {}, link(tree, one.job), ` ${shown(one.class)}`));
    made.push(element("h3", {}, "These below it have failed"), element("ul", {}, ...rows));
  }
  if (found.state === "issued" || found.failure !== null) made.push(log(tree, found.job));
  return made;
}

function log(tree, name) {
  const text = element("pre", { tabIndex: 0, hidden: true });
  const read = element("button", { type: "button" }, "Read its log");
  read.addEventListener("click", async () => {
    try {
      const found = await ask(`/${tree}/jobs/${name}/log`);
      text.textContent = shown(found.output) || "Nothing was printed.";
    } catch (error) {
      text.textContent = error.message;
    }
    text.hidden = false;
    read.textContent = "Read its log again";
    text.scrollTop = text.scrollHeight;
  });
  return element("div", {}, element("p", { class: "buttons" }, read), text);
}

byId("job-close").addEventListener("click", () => byId("job").close());
// Something was done about a job: what is shown of one is read again.
addEventListener("done", () => {
  if (byId("job").open) open(Number(byId("job").dataset.tree), byId("job").dataset.job);
});
