// Puts the page together: chooses a tree, hears of it, and has each part show what it is about.

import * as actions from "./actions.js";
import { ask, listen } from "./api.js";
import * as charts from "./charts.js";
import * as classes from "./classes.js";
import { byId, element, keyed, setText, shown, whole } from "./dom.js";
import * as failures from "./failures.js";
import * as progress from "./progress.js";
import * as running from "./running.js";
import * as tree from "./tree.js";

const PARTS = [progress, actions, running, failures, tree, classes];

let chosen = Number(location.hash.slice(1)) || 1;
let stop = () => {};

function heard(kind, value) {
  if (kind === "trees") return choices(value);
  if (value.tree !== chosen) return;
  trouble(value.trouble);
  if (value.state === null) return;
  byId("main").hidden = false;
  for (const part of PARTS) part.show(value);
  if (value.point !== null) charts.add(value.point);
}

function choices(trees) {
  byId("trees").hidden = trees.length < 2;
  keyed(
    byId("trees"),
    trees,
    (one) => String(one.tree),
    (one) => {
      const button = element("button", { type: "button", title: shown(one.directory) });
      button.addEventListener("click", () => choose(one.tree));
      return button;
    },
    (button, one) => {
      const counts = one.counts;
      const all = counts === null ? 0 : Object.values(counts).reduce((sum, number) => sum + number, 0);
      const far = all ? ` ${Math.floor((100 * counts.done) / all)} %` : "";
      const failed = counts?.failed ? `, ${whole(counts.failed)} failed` : "";
      setText(button, `${shown(one.name)}${far}${failed}`);
      button.setAttribute("aria-pressed", String(one.tree === chosen));
    },
  );
}

function trouble(words) {
  byId("trouble").hidden = !words;
  setText(byId("trouble"), shown(words ?? ""));
}

function link(words, lost) {
  setText(byId("link"), words);
  byId("link").classList.toggle("lost", lost);
}

async function choose(number) {
  stop();
  chosen = number;
  history.replaceState(null, "", `${location.pathname}${location.search}#${number}`);
  for (const id of ["running", "failures", "classes"]) byId(id).replaceChildren();
  try {
    charts.begin(await ask(`/${number}/history`));
  } catch {
    charts.begin([]); // listening tells why
  }
  if (number === chosen) stop = listen(number, heard, link);
}

choose(chosen);
