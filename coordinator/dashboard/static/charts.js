// The accuracy curve, the tide, and a device's sparkline: inline SVG in pixels of their box.

import { h, s, percent, clock, decimal } from "./dom.js";

const MARGIN = { left: 46, right: 14, top: 12, bottom: 26 };
export const WINDOW_S = 300;
const STALE_S = 12;
const MAX_DOTS = 80;

/** Steps of 1, 2 or 5 that cover the span with about `wanted` ticks. */
function ticks(low, high, wanted) {
  const raw = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= raw * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => (first + i) * step);
}

const TIME_STEPS_S = [1, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200];

/** Times from 0 to the end at steps a clock has, at most `most` of them (then one a day or more). */
function timeTicks(end, most) {
  const step = TIME_STEPS_S.find((seconds) => end / seconds <= most) ?? 86400 * Math.ceil(end / most / 86400);
  return Array.from({ length: Math.floor(end / step) + 1 }, (_, i) => i * step);
}

function frame(box, label, [x0, x1], [y0, y1], xTicks, xText) {
  const width = Math.max(220, box.clientWidth);
  const height = Math.max(140, box.clientHeight);
  const x = (v) => MARGIN.left + ((v - x0) / (x1 - x0 || 1)) * (width - MARGIN.left - MARGIN.right);
  const y = (v) => height - MARGIN.bottom - ((v - y0) / (y1 - y0 || 1)) * (height - MARGIN.top - MARGIN.bottom);
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const value of ticks(y0, y1, 4)) {
    svg.append(
      s("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }),
      s("text", { class: "tick", x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, percent(value)),
    );
  }
  xTicks.forEach((value, i) => {
    const anchor = i === xTicks.length - 1 && x(value) > width - 40 ? "end" : "middle";
    svg.append(s("text", { class: "tick", x: x(value), y: height - 8, "text-anchor": anchor }, xText(value)));
  });
  return { svg, x, y, floor: height - MARGIN.bottom, width };
}

const line = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
const area = (points, floor) =>
  points.length ? `${line(points)}L${points.at(-1)[0].toFixed(1)} ${floor}L${points[0][0].toFixed(1)} ${floor}Z` : "";

/** Of each window of the curve its F1, and the accuracy up to it where all windows before it are there. */
function windowLines(curve, windows) {
  const ends = new Map(curve.map((p) => [p.round, p.wall_s]));
  const [f1, soFar] = [[], []];
  let [right, samples] = [0, 0];
  for (const one of windows) {
    right += (one.accuracy ?? 0) * one.samples;
    samples += one.samples;
    const end = ends.get(one.window);
    if (end === undefined || one.accuracy === null) continue;
    f1.push([end, one.f1]);
    if (windows[0].window === 1) soFar.push([end, right / samples]);
  }
  return { f1, soFar };
}

/** Accuracy by seconds of training; each point says its round on hover or focus. Streams have windows. */
export function drawAccuracy(box, curve, streams = null) {
  const measured = curve.filter((p) => p.accuracy !== null);
  if (!measured.length) {
    box.replaceChildren(h("p", { class: "empty" }, streams ? "The curve begins with the first window." : "The curve begins with the first measured round."));
    return;
  }
  const { f1, soFar } = windowLines(measured, streams?.windows ?? []);
  const f1ByEnd = new Map(f1);
  const accuracies = measured.map((p) => p.accuracy);
  const values = [...accuracies, ...f1.map(([, v]) => v)];
  const low = Math.floor(Math.min(...values) * 10) / 10;
  const high = Math.min(1, Math.max(low + 0.2, Math.ceil(Math.max(...values) * 10 + 0.2) / 10));
  const end = Math.max(measured.at(-1).wall_s, 1);
  const latest = measured.at(-1);
  const label = streams
    ? `Accuracy of ${measured.length} windows: ${percent(latest.accuracy, 1)} in the last one`
    : `Accuracy rose from ${percent(accuracies[0], 1)} to ${percent(latest.accuracy, 1)} in ${clock(end)}`;
  const { svg, x, y, floor, width } = frame(box, label, [0, end], [low, high], timeTicks(end, box.clientWidth < 420 ? 3 : 6), clock);
  const points = measured.map((p) => [x(p.wall_s), y(p.accuracy)]);
  const at = (line_) => line_.map(([t, v]) => [x(t), y(v)]);
  svg.append(
    s("path", { class: "water", d: area(points, floor) }),
    s("path", { class: "so-far", d: line(at(soFar)) }),
    s("path", { class: "dashed", d: line(at(f1)) }),
    s("path", { class: "curve", d: line(points) }),
  );
  const tip = s("text", { class: "tip", "text-anchor": "middle" });
  measured.forEach((p, i) => {
    const [px, py] = points[i];
    const score = f1ByEnd.get(p.wall_s);
    const text = `${streams ? "window" : "round"} ${p.round}: ${percent(p.accuracy, 1)}${score === undefined ? "" : `, F1 ${percent(score, 1)}`}`;
    const more = p.loss === null || streams ? "" : `, loss ${decimal(p.loss)}`;
    const isLast = i === measured.length - 1;
    const target = s("circle", { class: "target", cx: px, cy: py, r: 12 }, s("title", {}, `${text}${more}`));
    const show = () => {
      tip.setAttribute("x", Math.min(width - 4 * text.length, Math.max(MARGIN.left + 3 * text.length, px)));
      tip.setAttribute("y", py < 40 ? py + 26 : py - 13);
      tip.textContent = text;
    };
    target.addEventListener("pointerenter", show);
    target.addEventListener("pointerleave", () => { tip.textContent = ""; });
    if (isLast || measured.length <= MAX_DOTS) svg.append(s("circle", { class: "point", cx: px, cy: py, r: isLast ? 5 : 3.5 }));
    svg.append(target);
  });
  svg.append(tip);
  box.replaceChildren(svg);
}

/** The last known value of each device at regular times, and their mean. */
export function tideOf(devices, step_s = 2) {
  const times = Array.from({ length: WINDOW_S / step_s + 1 }, (_, i) => WINDOW_S - i * step_s);
  const each = devices.map((d) => {
    let next = 0;
    let last = null;
    return times.map((ago) => {
      while (next < d.macs_series.length && d.macs_series[next][0] >= ago - step_s / 2) last = d.macs_series[next++];
      return last !== null && last[0] - ago <= STALE_S ? last[1] : null;
    });
  });
  const mean = times.map((_, i) => {
    const present = each.map((values) => values[i]).filter((v) => v !== null);
    return present.length ? present.reduce((a, b) => a + b, 0) / present.length : null;
  });
  return { times, each, mean };
}

/** Runs of present values as points. */
function runs(times, values, x, y) {
  const found = [[]];
  values.forEach((value, i) => {
    if (value === null) { if (found.at(-1).length) found.push([]); } else found.at(-1).push([x(-times[i]), y(value)]);
  });
  return found.filter((run) => run.length);
}

/** How much the fleet trains now: thin lines for devices, water for the mean. */
export function drawTide(box, devices) {
  const { times, each, mean } = tideOf(devices);
  if (!mean.some((v) => v !== null)) {
    box.replaceChildren(h("p", { class: "empty" }, "The tide shows once a device trains."));
    return;
  }
  const now = mean.at(-1);
  const label = now === null ? "Nobody trains now" : `The fleet trains with ${percent(now)} of the full network’s compute now`;
  const xTicks = box.clientWidth < 420 ? [-240, -120, 0] : [-300, -240, -180, -120, -60, 0];
  const text = (v) => (v ? `−${-v / 60} min` : "now");
  const { svg, x, y, floor } = frame(box, label, [-WINDOW_S, 0], [0, 1], xTicks, text);
  for (const run of runs(times, mean, x, y)) svg.append(s("path", { class: "water", d: area(run, floor) }));
  if (each.length <= 60) {
    for (const values of each) {
      for (const run of runs(times, values, x, y)) svg.append(s("path", { class: "each", d: line(run) }));
    }
  }
  for (const run of runs(times, mean, x, y)) svg.append(s("path", { class: "curve", d: line(run) }));
  if (now !== null) {
    svg.append(
      s("circle", { class: "point", cx: x(0), cy: y(now), r: 5 }),
      s("text", { class: "tip", x: x(0) - 10, y: y(now) + (now > 0.85 ? 22 : -12), "text-anchor": "end" }, percent(now)),
    );
  }
  box.replaceChildren(svg);
}

/** A device's series without axes; stretches to its box. */
export function sparkline() {
  const water = s("path", { class: "water" });
  const curve = s("path", { class: "curve", "vector-effect": "non-scaling-stroke" });
  const svg = s("svg", { class: "spark nets", viewBox: "0 0 300 40", preserveAspectRatio: "none", role: "img" }, water, curve);
  return {
    element: svg,
    update(series) {
      const points = series.filter(([ago]) => ago <= WINDOW_S).map(([ago, v]) => [WINDOW_S - ago, 38 - 36 * v]);
      if (points.length && points.at(-1)[0] > WINDOW_S - STALE_S) points.push([WINDOW_S, points.at(-1)[1]]);
      water.setAttribute("d", area(points, 40));
      curve.setAttribute("d", line(points));
      const last = series.at(-1);
      svg.setAttribute("aria-label", last ? `Compute over five minutes, lately ${percent(last[1])}` : "No compute yet");
    },
  };
}
