// One device as a card and as a table row. Both are made once and then patched.

import { h, setText, percent, celsius, decimal, bytes, duration, plural, whole, stateClass } from "./dom.js";
import { sparkline } from "./charts.js";

/** A vessel for each width group, filled to the share of channels that is kept. */
function vessels(compact = false) {
  const element = h("div", { class: compact ? "nets vessels compact" : "nets vessels", role: "img" });
  return {
    element,
    update(vector, groups) {
      while (element.childElementCount > groups.length) element.lastChild.remove();
      while (element.childElementCount < groups.length) element.append(h("span", { class: "vessel" }, h("span")));
      element.classList.toggle("dense", groups.length > 24);
      const words = groups.map((group, i) => {
        const kept = vector ? vector[i] : 0;
        const vessel = element.children[i];
        vessel.firstChild.style.height = `${(100 * kept) / group.num_channels}%`;
        vessel.title = vector ? `${group.name}: ${kept} of ${group.num_channels} channels` : group.name;
        return `${kept} of ${group.num_channels}`;
      });
      element.setAttribute("aria-label", vector ? `Channels kept: ${words.join(", ")}` : "No sub-network yet");
    },
  };
}

/** CPU: what others use, what training may take, and what is left. */
function cpuBar() {
  const others = h("span", { class: "others" });
  const ours = h("span", { class: "ours" });
  const element = h("div", { class: "cpu", role: "img" }, others, ours);
  return {
    element,
    update(d) {
      const used = d.cpu_others_fraction ?? 0;
      const granted = Math.min(d.cpu_share_fraction ?? 0, 1 - used);
      others.style.width = `${100 * used}%`;
      ours.style.width = `${100 * granted}%`;
      const text = `training may take ${percent(d.cpu_share_fraction)}, others use ${percent(d.cpu_others_fraction)}`;
      element.setAttribute("aria-label", `CPU: ${text}`);
      element.title = text;
    },
  };
}

function battery(d) {
  if (d.battery_fraction === null) return d.charging === null ? null : d.charging ? "mains" : "battery";
  return percent(d.battery_fraction);
}

const memory = (d) => (d.memory_own_bytes === null ? null : bytes(d.memory_own_bytes));

/** Mini-batches, or samples of a stream, whose end nobody may know. */
function steps(d) {
  if (d.steps_planned) return `${d.steps_done} / ${d.steps_planned}`;
  return d.flows && d.steps_done ? whole(d.steps_done) : null;
}

/** What the large figure says: the share of compute, or of right predictions. */
function share(d) {
  if (d.flows) return percent(d.accuracy);
  return percent(d.state === "paused" ? 0 : d.macs_fraction);
}

function loss(d) {
  if (d.flows) return d.stream?.f1 == null ? null : percent(d.stream.f1, 1);
  return d.loss === null ? null : decimal(d.loss);
}

/** A reading: its label, its value, and whether the value is alarming. */
const READINGS = [
  [() => "Heat", (d) => (d.temperature_celsius === null ? null : celsius(d.temperature_celsius)), (d) => d.throttled === true],
  [(d) => (d.battery_fraction !== null && d.charging ? "Charging" : "Battery"), battery, (d) => d.battery_fraction !== null && d.battery_fraction < 0.2 && !d.charging],
  [() => "Memory", memory, () => false],
  [(d) => (d.flows ? "Samples" : "Steps"), steps, () => false],
  [(d) => (d.flows ? "F1" : "Loss"), loss, () => false],
  [(d) => (d.flows ? "Reports" : "Updates"), (d) => String(d.num_updates ?? 0), () => false],
];

function describe(d) {
  if (!d.hello) return "has not introduced itself";
  const { profile, engine, num_cores, num_samples } = d.hello;
  // Of a stream it is not yet known how many there are; its learner needs no engine.
  if (d.flows) return [profile, plural(num_cores, "core")].filter(Boolean).join(" · ");
  return [profile, engine, plural(num_cores, "core"), plural(num_samples, "sample")].filter(Boolean).join(" · ");
}

export function makeCard() {
  const name = h("h3");
  const state = h("span", { class: "state" });
  const what = h("p", { class: "what" });
  const reason = h("p", { class: "reason" });
  const figure = h("p", { class: "share" });
  const figureNote = h("p", { class: "note" });
  const done = h("div", { class: "progress flows", "aria-hidden": "true" }, h("span"));
  const kept = vessels();
  const spark = sparkline();
  const cpu = cpuBar();
  const cpuText = h("span", { class: "note" });
  const readings = READINGS.map(() => {
    const [label, value] = [h("dt"), h("dd")];
    return { pair: h("div", {}, label, value), label, value };
  });
  const element = h(
    "article",
    { class: "card" },
    h("header", {}, name, state),
    what,
    reason,
    h("div", { class: "now" }, h("div", {}, figure, figureNote), kept.element, done),
    spark.element,
    h("div", { class: "labelled" }, h("span", { class: "label" }, "CPU"), cpu.element, cpuText),
    h("dl", { class: "readings" }, ...readings.map((r) => r.pair)),
  );
  return {
    element,
    update(d, groups) {
      element.dataset.state = stateClass(d.state);
      setText(name, d.device);
      setText(state, d.state);
      setText(what, describe(d));
      what.title = d.hello ? `${describe(d)}, agent ${d.hello.version}, started ${d.boot_epoch} times` : "";
      setText(reason, d.reason || "");
      reason.hidden = !d.reason;
      setText(figure, share(d));
      setText(figureNote, d.flows ? "of the latest predictions right" : "of full compute");
      done.style.visibility = d.steps_planned ? "visible" : "hidden";
      done.firstChild.style.width = `${d.steps_planned ? Math.min(100, (100 * d.steps_done) / d.steps_planned) : 0}%`;
      kept.update(d.state === "paused" ? null : d.vector, groups);
      spark.update(d.macs_series);
      cpu.update(d);
      setText(cpuText, `${percent(d.cpu_share_fraction)} ours, ${percent(d.cpu_others_fraction)} others`);
      READINGS.forEach(([label, text, alarm], i) => {
        const value = text(d);
        readings[i].pair.classList.toggle("absent", value === null);
        readings[i].pair.classList.toggle("alarm", alarm(d));
        setText(readings[i].label, label(d));
        setText(readings[i].value, value ?? "–");
      });
    },
  };
}

export function makeRow() {
  const cells = Array.from({ length: 12 }, (_, i) =>
    h(i === 0 ? "th" : "td", i === 0 ? { scope: "row" } : { class: [3, 5, 6, 7, 8, 9, 10, 11].includes(i) ? "number" : "" }));
  const state = h("span", { class: "state" });
  const kept = vessels(true);
  const cpu = cpuBar();
  cells[1].append(state);
  cells[2].append(kept.element);
  cells[2].className = "nets";
  cells[4].append(cpu.element);
  const element = h("tr", {}, ...cells);
  return {
    element,
    update(d, groups) {
      element.dataset.state = stateClass(d.state);
      setText(cells[0], d.device);
      cells[0].title = describe(d);
      setText(state, d.state);
      state.title = d.reason || "";
      kept.update(d.state === "paused" ? null : d.vector, groups);
      setText(cells[3], share(d));
      cpu.update(d);
      setText(cells[5], celsius(d.temperature_celsius));
      setText(cells[6], battery(d) ?? "–");
      setText(cells[7], memory(d) ?? "–");
      setText(cells[8], steps(d) ?? "–");
      setText(cells[9], loss(d) ?? "–");
      setText(cells[10], String(d.num_updates ?? 0));
      setText(cells[11], `${duration(d.last_seen_ago_s)} ago`);
    },
  };
}

/** A keyed list: elements follow their device, whatever the order, and are patched in place. */
export function keyedList(parent, make) {
  const made = new Map();
  return (devices, groups) => {
    const wanted = new Set(devices.map((d) => d.device));
    for (const [id, item] of made) {
      if (!wanted.has(id)) { item.element.remove(); made.delete(id); }
    }
    devices.forEach((d, i) => {
      if (!made.has(d.device)) made.set(d.device, make());
      const item = made.get(d.device);
      if (parent.children[i] !== item.element) parent.insertBefore(item.element, parent.children[i] ?? null);
      item.update(d, groups);
    });
  };
}
