// How far the tree is: a bar, counts by state, pace and time left.

import { byId, duration, element, keyed, moment, pace, setText, shown, timeOfDay, whole } from "./dom.js";

const STATES = [
  ["done", "done"],
  ["issued", "running, or about to"],
  ["ready", "ready to start"],
  ["blocked", "wait for children"],
  ["failed", "failed"],
];
const WORDS = {
  complete: "Complete: every job is done.",
  failed: "The run has ended, and some jobs have failed.",
  stopped: "The run was stopped before its end. Starting the same command again goes on with it.",
  interrupted: "The run was interrupted: its master died, or its machine. Starting the same command again goes on with it.",
};

/** Show the progress of a tree. */
export function show(tree) {
  setText(byId("directory"), shown(tree.directory));
  setText(byId("state"), state(tree));
  byId("state").dataset.state = tree.state ?? "";
  const counts = tree.counts ?? {};
  const all = STATES.reduce((sum, [name]) => sum + (counts[name] ?? 0), 0);
  bar(counts, all);
  numbers(byId("counts"), STATES.map(([name, words]) => [words, whole(counts[name] ?? 0), name]));
  const { busy, most } = tree.slots;
  const slots = busy === null ? "–" : most === null ? `${busy}` : `${busy} of ${most}`;
  numbers(byId("pace"), [
    [`of ${whole(all)} jobs`, percent(counts.done ?? 0, all), "far"],
    ["targets", pace(tree.rate)],
    ["time left, about", duration(tree.time_left)],
    ["slots busy", slots],
    ["looked at", tree.time === null ? "–" : timeOfDay(tree.time)],
  ]);
  document.title = all ? `${percent(counts.done, all)} ${shown(tree.name)}` : "jobTreeMonitor";
}

function state(tree) {
  if (tree.state !== "running") return WORDS[tree.state] ?? "Nothing is known yet.";
  const paused = tree.paused === null ? "" : `Paused by ${shown(tree.paused)}: nothing more is started until it is told to go on. `;
  if (tree.master === null) return `${paused}Running.`;
  const { host, pid, started } = tree.master;
  return `${paused}Running on ${shown(host)} with pid ${pid} since ${moment(started)}.`;
}

function bar(counts, all) {
  const parts = STATES.filter(([name]) => counts[name]);
  keyed(
    byId("bar"),
    parts,
    ([name]) => name,
    ([name]) => element("span", { class: `part ${name}` }),
    (part, [name, words]) => {
      part.style.flexGrow = String(counts[name] / all);
      part.title = `${whole(counts[name])} ${words}`;
    },
  );
  byId("bar").setAttribute("aria-valuenow", all ? String(Math.floor((100 * counts.done) / all)) : "0");
  byId("bar").setAttribute("aria-valuetext", `${percent(counts.done ?? 0, all)} of ${whole(all)} jobs are done`);
}

/** Never 100 % before it is. */
function percent(part, all) {
  return all ? `${Math.floor((1000 * part) / all) / 10} %` : "0 %";
}

function numbers(list, rows) {
  keyed(
    list,
    rows,
    (_, n) => String(n),
    ([, , kind]) => element("div", { class: kind ?? "" }, element("dt"), element("dd")),
    (row, [words, value]) => {
      setText(row.firstChild, words);
      setText(row.lastChild, value);
    },
  );
}
