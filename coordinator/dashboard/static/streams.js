// Fleets that learn from streams: what each device reported, and how old what neighbours told is.

import { byId, h, setText, percent, short, whole, age } from "./dom.js";

const MAX_ROWS = 400;

/** Whether the fleet learns from streams; before the first report its devices tell so themselves. */
export function learnsFromStreams({ streams, groups, devices }) {
  return streams !== null || (!groups.length && devices.some((d) => d.accuracy !== null));
}

/** Fill a table anew, where what it shows has changed. */
function fillTable(name, rows, cellsOf, what) {
  const body = byId(name).tBodies[0];
  const key = JSON.stringify(rows);
  if (body.dataset.shown === key) return;
  body.dataset.shown = key;
  byId(`${name}-box`).hidden = !rows.length;
  byId(`no-${name}`).hidden = rows.length > 0;
  const left = rows.length - MAX_ROWS;
  byId(`more-${name}`).hidden = left <= 0;
  setText(byId(`more-${name}`), `${whole(left)} more ${what}: see the data.`);
  body.replaceChildren(...rows.slice(0, MAX_ROWS).map((row) => h("tr", {}, ...cellsOf(row))));
}

const head = (text) => h("th", { scope: "row" }, text);
const number = (text) => h("td", { class: "number" }, text);

const perSample = (bytes, samples) => (samples ? `${short(bytes / samples)}\u202fB` : "–");

function driftText(drifts) {
  if (!drifts.length) return "–";
  const [sample, before, after] = drifts.at(-1);
  return `errors ${percent(before)} → ${percent(after)} at sample ${whole(sample)}`;
}

/** A row a device: what it reported, of how many samples. */
export function showStreams(streams, devices) {
  const planned = new Map(devices.map((d) => [d.device, d.steps_planned]));
  const rows = (streams?.devices ?? []).map((one) => ({ ...one, planned: planned.get(one.device) || null }));
  rows.sort((a, b) => a.device.localeCompare(b.device, "en", { numeric: true }));
  fillTable("streams", rows, (one) => [
    head(one.device),
    number(`${whole(one.seen)}${one.planned ? ` / ${whole(one.planned)}` : ""}${one.is_over ? ", over" : ""}`),
    number(percent(one.accuracy, 1)),
    number(percent(one.f1, 1)),
    number(percent(one.recent_accuracy, 1)),
    ...[one.told, one.heard, one.repeats, one.missed].map((n) => number(whole(n))),
    number(perSample(one.bytes_sent, one.labelled)),
    number(perSample(one.bytes_received, one.labelled)),
    h("td", {}, driftText(one.drifts)),
  ], "devices");
}

/** Two ages on one scale: a bar for what was measured, a mark for what the formula says. */
function gauge(measured, expected, most) {
  const share = (value) => `${most > 0 ? Math.min(100, (100 * (value ?? 0)) / most) : 0}%`;
  const bar = h("span", { class: "fill" });
  bar.style.width = share(measured);
  const element = h("div", { class: "gauge", "aria-hidden": "true" }, bar);
  if (expected === null) return element;
  const mark = h("span", { class: "mark" });
  mark.style.left = share(expected);
  element.append(mark);
  return element;
}

/** A row a pair: who holds, of whom, and how old it was. */
export function showAges(streams) {
  const rows = streams?.ages ?? [];
  const most = rows.reduce((high, [, , , , peak, expected]) => Math.max(high, peak ?? 0, expected ?? 0), 0);
  fillTable("ages", rows, ([device, other, updates, mean, peak, expected]) => [
    head(device),
    h("td", {}, other),
    number(whole(updates)),
    ...[mean, peak, expected].map((seconds) => number(age(seconds))),
    h("td", {}, gauge(peak, expected, most)),
  ], "pairs");
}
