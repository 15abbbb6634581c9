// Two charts of the history, drawn by uPlot: targets per second (all, and by host), and how many slots were busy.

import uPlot from "./uplot/uPlot.esm.js";
import { byId, day, shown, timeOfDay, whole } from "./dom.js";

const MOST_POINTS = 1000;
const MOST_HOSTS = 8;
const LEAST_WINDOW = 10; // seconds over which a rate is taken
const HEIGHT = 190;
const WHOLE = [1, 2, 5].flatMap((n) => [n, n * 10, n * 100, n * 1000, n * 10000]).sort((a, b) => a - b);

let points = [];
let drawn = { throughput: null, slots: null };

/** Begin with what the monitor remembers. */
export function begin(history) {
  points = history;
  forget();
  draw();
}

/** One more point; it may be the last one again. */
export function add(point) {
  const last = points.at(-1);
  if (last !== undefined && (point.succeeded < last.succeeded || point.time < last.time)) points = [];
  else if (last !== undefined && point.time === last.time) points.pop();
  points.push(point);
  if (points.length > MOST_POINTS) points = points.filter((_, n) => n % 2 === points.length % 2 || n === points.length - 1);
  draw();
}

function forget() {
  for (const chart of Object.values(drawn)) chart?.plot.destroy();
  drawn = { throughput: null, slots: null };
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  forget();
  draw();
});
// As wide as its place is, which has no width before the page is shown.
const observer = new ResizeObserver(() => {
  for (const [id, chart] of Object.entries(drawn)) {
    if (chart !== null && chart.plot.width !== width(id)) chart.plot.setSize({ width: width(id), height: HEIGHT });
  }
});
for (const id of Object.keys(drawn)) observer.observe(byId(id));

function draw() {
  const hosts = named();
  const times = points.map((point) => point.time);
  const rates = [rate((point) => point.succeeded), ...hosts.map((host) => rate((point) => point.hosts[host] ?? 0))];
  show("throughput", ["all", ...hosts.map(shown)], [times, ...rates], {});
  show("slots", ["busy"], [times, points.map((point) => point.busy)], { incrs: WHOLE });
}

/** The hosts that have done most, if there is more than one. */
function named() {
  const all = Object.entries(points.at(-1)?.hosts ?? {}).sort((a, b) => b[1] - a[1]);
  return all.length > 1 ? all.slice(0, MOST_HOSTS).map(([host]) => host) : [];
}

/** At each point the increase in a second, over the window that ends there. */
function rate(of) {
  const span = points.length > 1 ? points.at(-1).time - points[0].time : 0;
  const window = Math.max(LEAST_WINDOW, span / 60);
  let first = 0;
  return points.map((point, n) => {
    while (first < n - 1 && points[first + 1].time <= point.time - window) first += 1;
    const seconds = point.time - points[first].time;
    return seconds > 0 ? Math.max(0, of(point) - of(points[first])) / seconds : null;
  });
}

const width = (id) => Math.max(200, byId(id).clientWidth);

function show(id, names, data, steps) {
  const label = names.join("\n");
  if (drawn[id]?.label !== label) {
    drawn[id]?.plot.destroy();
    drawn[id] = { label, plot: new uPlot(options(id, names, steps), data, byId(id)) };
  } else {
    drawn[id].plot.setData(data);
  }
  const latest = data[1].at(-1);
  byId(id).setAttribute("role", "img");
  byId(id).setAttribute("aria-label", `A chart over time; now ${latest === null || latest === undefined ? "nothing is known" : number(latest)}`);
}

function number(value) {
  if (value === null || value === undefined) return "–";
  return value >= 100 || Number.isInteger(value) ? whole(Math.round(value)) : value.toPrecision(3);
}

/** What stands below ticks: the time, and below that the day where it is another one than at the tick before. */
function moments(_, ticks) {
  const close = ticks.length > 1 && ticks[1] - ticks[0] < 60;
  return ticks.map((tick, n) => {
    const another = n === 0 || day(tick) !== day(ticks[n - 1]);
    return another ? `${timeOfDay(tick, close)}\n${day(tick)}` : timeOfDay(tick, close);
  });
}

function options(id, names, steps) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = { stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
  return {
    width: width(id),
    height: HEIGHT,
    legend: { show: names.length > 1, live: false, markers: { width: 0, fill: (plot, n) => plot.series[n].stroke(plot, n) } },
    cursor: { drag: { x: false, y: false } },
    scales: { y: { range: (_, least, most) => [0, most > 0 ? most * 1.1 : 1] } },
    axes: [{ ...axis, space: 80, values: moments }, { ...axis, ...steps, size: 60, values: (_, ticks) => ticks.map(number) }],
    series: [
      {},
      ...names.map((name, n) => ({
        label: name,
        stroke: colour(n === 0 ? "--accent" : `--series-${n}`),
        width: n === 0 ? 2 : 1.25,
        fill: n === 0 && names.length === 1 ? colour("--fill") : undefined,
        value: (_, value) => number(value),
        points: { show: false },
      })),
    ],
  };
}
