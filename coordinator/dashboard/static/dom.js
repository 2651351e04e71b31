// Elements and how values are written. Text from devices only ever becomes text nodes and attributes
// of known names: nothing here parses HTML.

export const byId = (id) => document.getElementById(id);

/** An element: h("p", {class: "note"}, "text", child). */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Set text only where it differs: less work, and a selection survives. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const THIN = "\u202f"; // a narrow space that does not break

const known = (value) => value !== null && value !== undefined;

export const percent = (f, digits = 0) => (known(f) ? `${(100 * f).toFixed(digits)}${THIN}%` : "–");
export const celsius = (value) => (known(value) ? `${value.toFixed(0)}${THIN}°C` : "–");
export const decimal = (value) => (known(value) ? value.toPrecision(3) : "–");

export function bytes(value) {
  if (!known(value)) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) { value /= 1000; unit += 1; }
  return `${value < 10 && unit ? value.toFixed(1) : value.toFixed(0)}${THIN}${units[unit]}`;
}

export function duration(seconds) {
  if (!known(seconds)) return "–";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

/** An age, which may be short: 91 ms, 1.25 s, then as durations. */
export function age(seconds) {
  if (!known(seconds)) return "–";
  if (seconds < 1) return `${(1000 * seconds).toFixed(0)}${THIN}ms`;
  return seconds < 90 ? `${seconds.toPrecision(3)}${THIN}s` : duration(seconds);
}

/** A number of three digits, and no exponent. */
export const short = (value) => (known(value) ? (value < 100 ? value.toPrecision(3) : whole(Math.round(value))) : "–");

export const whole = (n) => (known(n) ? n.toLocaleString("en") : "–");

/** Minutes and seconds of training, such as 1:05, or 2:01:05 with hours. */
export function clock(seconds) {
  const whole = Math.round(seconds);
  const two = (n) => String(n).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

export const plural = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

const STATES = ["training", "fetching", "reporting", "idle", "joining", "paused", "silent", "lost", "offline"];

/** The colour class of a state; devices of another version may have states we do not know. */
export const stateClass = (state) => (STATES.includes(state) ? state : "other");

/** Known states first, in the order in which a person cares. */
export const stateRank = (state) => (STATES.includes(state) ? STATES.indexOf(state) : STATES.length);
