// What can be done about a run: each step is asked about once more before it is ordered. What came of it is said at the
// bottom of the page, and seen at the next look.

import { order } from "./api.js";
import { byId, element, keyed, setText, shown } from "./dom.js";

const ANSWER_STAYS = 12000;

// On the button; in the dialog the question, what it means, and the button that does it.
const ACTIONS = {
  retry: {
    label: "Try again",
    title: (job) => `Try job ${job} again?`,
    words: "It gets its tries back, and starts as soon as there is room for it.",
    yes: "Try again",
  },
  retryAll: {
    label: "Try all again",
    title: () => "Try all failed jobs again?",
    words: "They get their tries back, and start as soon as there is room for them.",
    yes: "Try all again",
  },
  forget: {
    label: "Forget …",
    title: (job) => `Forget job ${job}?`,
    words: "It is taken out of the tree with everything below it, as if it had never been added, and what waits for it goes on without. This cannot be undone.",
    yes: "Forget it",
    harms: true,
  },
  kill: {
    label: "Kill …",
    title: (job) => `Kill the worker of job ${job}?`,
    words: "Its process is ended at once. This counts as a failed try; the job is tried again while it has tries left.",
    yes: "Kill it",
    harms: true,
  },
  pause: {
    label: "Pause …",
    title: () => "Pause the run?",
    words: "Nothing more is started until it is told to go on, even if the run is started again. What is running goes on to its end.",
    yes: "Pause",
  },
  goOn: {
    label: "Go on …",
    title: () => "Go on with the run?",
    words: "Jobs are started again as soon as there is room for them.",
    yes: "Go on",
  },
};

const BY_STATE = { failed: ["retry", "forget"], issued: ["kill"], ready: ["forget"], blocked: ["forget"] };

/** What can be done about a job in this state. The first one of a tree cannot be forgotten. */
export const forState = (state, parent) => (BY_STATE[state] ?? []).filter((what) => what !== "forget" || parent !== null);

/** A button for one of them. job, attempt: those it is about, as they are seen now. */
export function button(tree, what, job = null, attempt = null) {
  const { label, harms } = ACTIONS[what];
  const made = element("button", { type: "button", class: harms ? "danger" : "", data: { action: what } }, label);
  if (job !== null) made.setAttribute("aria-label", `${label.replace(" …", "")} job ${job}`);
  made.addEventListener("click", () => ask(tree, what, job, attempt));
  return made;
}

/** Show what can be done about a whole run. */
export function show(tree) {
  const can = tree.state !== "running" ? [] : [tree.paused === null ? "pause" : "goOn"];
  keyed(byId("steer"), can, (what) => `${tree.tree} ${what}`, (what) => button(tree.tree, what), () => {});
}

function ask(tree, what, job, attempt) {
  const { title, words, yes, harms } = ACTIONS[what];
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title(job);
  byId("confirm-words").textContent = words;
  const button = byId("confirm-yes");
  button.textContent = yes;
  button.className = harms ? "danger" : "primary";
  button.onclick = () => {
    dialog.close();
    carryOut(tree, what, job, attempt);
  };
  dialog.showModal();
}

async function carryOut(tree, what, job, attempt) {
  const path = job === null ? `/${tree}/${what === "retryAll" ? "retry" : what}` : `/${tree}/jobs/${job}/${what}`;
  const body = (what === "retry" || what === "kill") && attempt !== null ? { attempt } : {};
  say("Asking …", false, Infinity);
  try {
    const { done, words } = await order(path, body);
    say(shown(words), !done, ANSWER_STAYS);
    if (done) dispatchEvent(new Event("done"));
  } catch (error) {
    say(error.message, true, ANSWER_STAYS);
  }
}

let timer = null;

/** Above everything, dialogs too. */
function say(words, wrong, stays) {
  const place = byId("answer");
  clearTimeout(timer);
  setText(place, words);
  place.classList.toggle("wrong", wrong);
  if (place.matches(":popover-open")) place.hidePopover();
  place.showPopover();
  if (stays !== Infinity) timer = setTimeout(() => place.hidePopover(), stays);
}

byId("confirm-no").addEventListener("click", () => byId("confirm").close());
byId("answer").addEventListener("click", () => byId("answer").hidePopover());
