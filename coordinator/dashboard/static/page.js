// The page: listens to the stream and shows what it says.

import { byId, h, setText, percent, short, whole, stateClass, stateRank } from "./dom.js";
import { drawAccuracy, drawTide } from "./charts.js";
import { keyedList, makeCard, makeRow } from "./devices.js";
import { learnsFromStreams, showAges, showStreams } from "./streams.js";

const MAX_SHOWN = 400;
const TABLE_FROM = 25;

let fleet = null;
let curve = [];
let flows = false; // the fleet learns from streams
let filter = null;
let layout = null; // chosen by hand, or null for the one that suits the number of devices

const showCards = keyedList(byId("cards"), makeCard);
const showRows = keyedList(byId("table").tBodies[0], makeRow);

function show() {
  if (!fleet) return;
  flows = learnsFromStreams(fleet);
  document.body.classList.toggle("of-streams", flows);
  showFacts();
  showTiles();
  showDevices();
  showEvents();
  showCharts();
}

function showCharts() {
  drawAccuracy(byId("accuracy-chart"), curve, flows ? fleet.streams ?? { windows: [] } : null);
  if (!fleet) return;
  if (!flows) { drawTide(byId("tide-chart"), fleet.devices); return; }
  showStreams(fleet.streams, fleet.devices);
  showAges(fleet.streams);
}

function showFacts() {
  const { about, run } = fleet;
  const facts = { ...(run && { run: run.run, strategy: run.strategy }), ...about, ...(flows && { engine: null }) };
  const text = JSON.stringify(facts);
  const list = byId("facts");
  if (list.dataset.shown === text) return;
  list.dataset.shown = text;
  list.replaceChildren(
    ...Object.entries(facts).filter(([, value]) => value).map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, String(value)))),
  );
}

function showTiles() {
  const accuracy = flows ? showStreamTiles() : showNetworkTiles();
  const { run, devices } = fleet;
  const done = run && run.num_rounds ? Math.min(1, run.round / run.num_rounds) : 0;
  setText(byId("round"), run ? `${run.round} / ${run.num_rounds}` : "–");
  setText(byId("round-note"), run ? `${run.state}, model version ${run.model_version}` : "no run yet");
  byId("progress").firstChild.style.width = `${100 * done}%`;
  byId("progress").setAttribute("aria-valuenow", String(Math.round(100 * done)));
  document.title = run ? `${percent(accuracy, 1)} · ${flows ? "window" : "round"} ${run.round}/${run.num_rounds} · edgetide` : "edgetide";

  const counts = countStates(devices);
  setText(byId("online"), `${devices.filter((d) => d.online).length} / ${devices.length}`);
  setText(byId("online-note"), counts.map(([state, n]) => `${n} ${state}`).join(", ") || "nobody has joined");
  byId("states").replaceChildren(...counts.map(([state, n]) => {
    const part = h("span", { "data-state": stateClass(state) });
    part.style.flexGrow = n;
    return part;
  }));
}

/** Returns the accuracy. */
function showNetworkTiles() {
  const { run, devices } = fleet;
  const measured = curve.filter((p) => p.accuracy !== null);
  const accuracy = measured.length ? measured.at(-1).accuracy : run?.accuracy ?? null;
  setText(byId("accuracy"), percent(accuracy, 1));
  const best = Math.max(...measured.map((p) => p.accuracy));
  const gained = measured.length > 1 ? accuracy - measured.at(-2).accuracy : null;
  setText(byId("accuracy-note"), gained === null
    ? (accuracy === null ? "not measured yet" : "at the start")
    : `${gained < 0 ? "−" : "+"}${Math.abs(100 * gained).toFixed(1)} points in the last round${best > accuracy ? `, best ${percent(best, 1)}` : ""}`);
  // From the versions, which survive a restart of the coordinator.
  const updates = curve.reduce((sum, p) => sum + (p.num_updates ?? 0), 0) || devices.reduce((sum, d) => sum + d.num_updates, 0);
  setText(byId("updates"), String(updates));
  const samples = devices.reduce((sum, d) => sum + (d.hello?.num_samples ?? 0), 0);
  setText(byId("updates-note"), samples ? `from ${samples.toLocaleString("en")} samples that stay on the devices` : "");
  return accuracy;
}

/** Returns the accuracy so far. */
function showStreamTiles() {
  const { accuracy = null, f1 = null, samples = 0, sent_bytes_per_sample: sent = null, received_bytes_per_sample: received = null } = fleet.streams ?? {};
  setText(byId("accuracy"), percent(accuracy, 1));
  setText(byId("accuracy-note"), accuracy === null ? "nothing reported yet" : `so far, of ${whole(samples)} samples; F1 ${percent(f1, 1)}`);
  setText(byId("updates"), sent === null ? "–" : `${short(sent)} / ${short(received)}`);
  setText(byId("updates-note"), "sent / received by a device, without topics and headers");
  return accuracy;
}

function countStates(devices) {
  const counts = new Map();
  for (const { state } of devices) counts.set(state, (counts.get(state) ?? 0) + 1);
  return [...counts].sort(([a], [b]) => stateRank(a) - stateRank(b) || (a < b ? -1 : 1));
}

function showDevices() {
  const { devices, groups } = fleet;
  const counts = countStates(devices);
  if (filter && !counts.some(([state]) => state === filter)) filter = null;
  showChips(counts);
  const wanted = byId("search").value.trim().toLowerCase();
  const matching = devices
    .filter((d) => (!filter || d.state === filter) && (!wanted || d.device.includes(wanted) || (d.hello?.profile ?? "").toLowerCase().includes(wanted)))
    .sort((a, b) => a.device.localeCompare(b.device, "en", { numeric: true }));
  const shown = matching.slice(0, MAX_SHOWN);
  const table = (layout ?? (devices.length >= TABLE_FROM ? "table" : "cards")) === "table";
  byId("cards").hidden = table;
  byId("table-box").hidden = !table || !shown.length;
  byId("as-cards").setAttribute("aria-pressed", String(!table));
  byId("as-table").setAttribute("aria-pressed", String(table));
  const reported = new Map((fleet.streams?.devices ?? []).map((one) => [one.device, one]));
  (table ? showRows : showCards)(shown.map((d) => ({ ...d, flows, stream: reported.get(d.device) ?? null })), groups);
  byId("empty").hidden = shown.length > 0;
  setText(byId("empty"), devices.length ? "No device matches." : "Waiting for the first device.");
  byId("more").hidden = matching.length <= shown.length;
  setText(byId("more"), `${matching.length - shown.length} more: search, or pick a state.`);
}

function showChips(counts) {
  const box = byId("chips");
  const text = JSON.stringify([counts, filter]);
  if (box.dataset.shown === text) return;
  box.dataset.shown = text;
  const focused = box.contains(document.activeElement) ? document.activeElement.dataset.name : null;
  box.replaceChildren(...(counts.length > 1 ? counts : []).map(([state, n]) => {
    const chip = h("button", { type: "button", class: "chip", "data-state": stateClass(state), "data-name": state, "aria-pressed": String(filter === state) }, `${state} ${n}`);
    chip.addEventListener("click", () => { filter = filter === state ? null : state; showDevices(); });
    return chip;
  }));
  if (focused !== null) [...box.children].find((chip) => chip.dataset.name === focused)?.focus();
}

/** How an event is coloured, by words of its phrase. */
const TONES = [[/refused|lost|failed|corrupt|damaged/, "bad"], [/paus|expired|late|silent|declin|duplicate|drift/, "warn"], [/applied|finished|resumed|joined|accuracy/, "good"]];

function showEvents() {
  const list = byId("events");
  const key = JSON.stringify(fleet.events.map(({ ago_s, ...rest }) => rest));
  if (list.dataset.shown === key) return;
  list.dataset.shown = key;
  byId("no-events").hidden = fleet.events.length > 0;
  list.hidden = fleet.events.length === 0;
  list.replaceChildren(...fleet.events.map((e) => {
    const when = new Date(Date.now() - 1000 * e.ago_s);
    const tone = TONES.find(([words]) => words.test(e.event))?.[1] ?? "plain";
    const details = Object.entries(e.details).filter(([, value]) => value !== "").map(([name, value]) =>
      h("span", { class: "detail" }, h("span", {}, name.replaceAll("_", " ")), ` ${typeof value === "string" ? value : JSON.stringify(value)}`));
    return h("li", { "data-tone": tone }, h("time", { datetime: when.toISOString() }, when.toLocaleTimeString("en-GB")),
      h("span", { class: "event" }, e.event), ...(e.device ? [h("code", {}, e.device)] : []), ...details);
  }));
}

function showLink(state, text) {
  byId("link").dataset.link = state;
  setText(byId("link-text"), text);
  document.body.classList.toggle("stale", state === "broken");
}

function listen() {
  const stream = new EventSource("/api/v1/stream");
  stream.addEventListener("open", () => showLink("open", "live"));
  stream.addEventListener("fleet", (message) => { fleet = JSON.parse(message.data); show(); });
  stream.addEventListener("curve", (message) => {
    curve = JSON.parse(message.data);
    showCharts();
    if (fleet) showTiles();
  });
  stream.addEventListener("error", () => {
    showLink("broken", "connection lost, trying again");
    // After an answer other than 200 the browser gives up: begin anew.
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
  });
}

byId("search").addEventListener("input", () => fleet && showDevices());
byId("as-cards").addEventListener("click", () => { layout = "cards"; if (fleet) showDevices(); });
byId("as-table").addEventListener("click", () => { layout = "table"; if (fleet) showDevices(); });
new ResizeObserver(showCharts).observe(byId("accuracy-chart"));

listen();
