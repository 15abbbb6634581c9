// Elements and texts. Whatever comes from a tree gets onto the page here, as text and never as markup: nothing in these
// modules writes HTML, and the policy that the page is served with forbids it.

/** An element. properties: of the element, but `class`, `data` (an object) and `aria-*`; children: elements or texts. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key === "data") Object.assign(made.dataset, value);
    else if (key.startsWith("aria-") || key === "role" || key === "scope") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** The element of this id. */
export const byId = (id) => document.getElementById(id);

/** Change a text only if it is another one, so that a selection, and a reader of the screen, are left alone. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const INVISIBLE = /[^\P{C}\n\t]|[\u2028\u2029]/gu;

/** A text from a tree with everything escaped that cannot be seen, or that turns the order of letters around. */
export function shown(text) {
  return String(text ?? "").replace(INVISIBLE, (c) => {
    const code = c.codePointAt(0);
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u{${code.toString(16)}}`;
  });
}

/** Put rows into a parent so that those that were there stay the elements they were: focus and what is open remain.
 * rows: values in order; key: what makes one the same as before; make: its element; update: changes that. */
export function keyed(parent, rows, key, make, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let before = null;
  for (const [n, row] of rows.entries()) {
    const name = key(row, n);
    let child = known.get(name);
    if (child === undefined) {
      child = make(row);
      child.dataset.key = name;
    }
    known.delete(name);
    update(child, row);
    const place = before === null ? parent.firstChild : before.nextSibling;
    if (place !== child) parent.insertBefore(child, place);
    before = child;
  }
  for (const child of known.values()) child.remove();
}

// -- numbers ----------------------------------------------------------------------------------------------------

/** A whole number with its thousands set apart. */
export const whole = (number) => number.toLocaleString("en");

/** Seconds, in words. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return "0 s";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** Bytes, in words. */
export function memory(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let n = 0;
  while (bytes >= 1023.95 && n < units.length - 1) [bytes, n] = [bytes / 1024, n + 1];
  return `${n === 0 ? bytes : bytes.toFixed(1)} ${units[n]}`;
}

/** Targets in a second, or in a minute or an hour where that is a number to read. */
export function pace(rate) {
  if (rate === null || rate === undefined) return "–";
  if (rate === 0) return "0 / s";
  for (const [factor, unit] of [[1, "s"], [60, "min"], [3600, "h"]]) {
    const number = rate * factor;
    if (number >= 1 || unit === "h") return `${number >= 100 ? whole(Math.round(number)) : number.toFixed(1)} / ${unit}`;
  }
  return "";
}

const two = (number) => String(number).padStart(2, "0");

/** The time of a day, in the zone of whoever looks. */
export function timeOfDay(seconds, withSeconds = true) {
  const at = new Date(seconds * 1000);
  return `${two(at.getHours())}:${two(at.getMinutes())}${withSeconds ? `:${two(at.getSeconds())}` : ""}`;
}

/** A day, in that zone. */
export function day(seconds) {
  const at = new Date(seconds * 1000);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}

/** A moment, in that zone, as jobTreeStatus writes it. */
export const moment = (seconds) => `${day(seconds)} ${timeOfDay(seconds)}`;
