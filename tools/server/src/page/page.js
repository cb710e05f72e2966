// The page of `skipstone serve`: classifies what is dropped, and draws what /metrics counts.
"use strict";

const $ = (id) => document.getElementById(id);
const SECONDS = 120;
const SVG = "http://www.w3.org/2000/svg";

// ---- classify

async function classify(file) {
  const preview = $("preview");
  URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.alt = file.name || "the pasted photograph";
  preview.hidden = false;
  preview.onerror = () => { preview.hidden = true; $("hint").hidden = false; };
  $("hint").hidden = true;
  const started = performance.now();
  try {
    const model = encodeURIComponent($("model").value);
    const response = await fetch(`v1/classify?topk=5&model=${model}`, { method: "POST", body: file });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    show(answer, performance.now() - started);
  } catch (error) {
    showProblem(error.message);
  }
}

function showProblem(message) {
  $("problem").textContent = message;
  $("problem").hidden = false;
  for (const id of ["nothing", "classes", "split"]) $(id).hidden = true;
}

function show({ classes, timings_ms: timings }, elapsed) {
  const rows = classes.map(({ index, label, score }) => {
    const row = document.createElement("tr");
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = label ?? `class ${index}`;
    const bar = document.createElement("i");
    bar.style.width = `${score * 100}%`;
    name.append(bar);
    const value = document.createElement("td");
    value.textContent = `${(score * 100).toFixed(1)} %`;
    row.append(name, value);
    return row;
  });
  $("classes").tBodies[0].replaceChildren(...rows);
  const { decode, queue, compute } = timings;
  const stages = { decode, queue, compute, rest: Math.max(0, elapsed - decode - queue - compute) };
  $("total").textContent = `${elapsed.toFixed(1)} ms`;
  for (const [stage, ms] of Object.entries(stages)) {
    document.querySelector(`#bar .${stage}`).style.flexGrow = ms;
    document.querySelector(`#stages .${stage}`).nextElementSibling.textContent = `${ms.toFixed(1)} ms`;
  }
  $("problem").hidden = $("nothing").hidden = true;
  $("classes").hidden = $("split").hidden = false;
}

const pick = (files) => { if (files?.length) classify(files[0]); };
$("file").addEventListener("change", (event) => { pick(event.target.files); event.target.value = ""; });
addEventListener("paste", (event) => pick(event.clipboardData.files));
addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
addEventListener("dragleave", () => $("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  pick(event.dataTransfer.files);
});

// ---- live charts

// Sums of one model's samples in Prometheus' text format, and the process's own.
function parse(text, model) {
  const sum = { ok: 0, refused: 0, buckets: new Map(), values: {} };
  for (const line of text.split("\n")) {
    const [, name, labels, value] = /^(\w+)(?:\{(.*)\})? (\S+)/.exec(line) ?? [];
    if (!name || (labels && !labels.includes(`model="${model}"`))) continue;
    const label = (key) => new RegExp(`${key}="([^"]*)"`).exec(labels)?.[1];
    if (name === "skipstone_requests_total") {
      const outcome = label("outcome");
      if (outcome === "ok") sum.ok += +value;
      if (["rejected", "timeout", "error"].includes(outcome)) sum.refused += +value;
    } else if (name === "skipstone_request_duration_seconds_bucket") {
      sum.buckets.set(label("le") === "+Inf" ? Infinity : +label("le"), +value);
    } else {
      sum.values[name] = +value;
    }
  }
  return sum;
}

// Milliseconds below which a share of the requests between two readings stayed.
function quantile(now, before, share) {
  const bounds = [...now.buckets.keys()].sort((a, b) => a - b);
  const count = (bound) => now.buckets.get(bound) - (before.buckets.get(bound) ?? 0);
  const wanted = share * (bounds.length ? count(Infinity) : 0);
  if (!wanted) return null;
  let [lower, below] = [0, 0];
  for (const bound of bounds) {
    if (count(bound) >= wanted) {
      if (bound === Infinity) return lower * 1e3;
      return (lower + (bound - lower) * (wanted - below) / (count(bound) - below)) * 1e3;
    }
    [lower, below] = [bound, count(bound)];
  }
  return null;
}

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// 1, 2 or 5 times a power of ten, at least `value`.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value || 1));
  return [1, 2, 5, 10].map((m) => m * power).find((m) => m >= value) ?? 10 * power;
}

// `series` are values by name, one per second, the last one now; null leaves a gap.
function draw(svg, series) {
  const [width, height, left] = [svg.clientWidth || 480, svg.clientHeight || 160, 40];
  const top = roundUp(Math.max(1, ...Object.values(series).flat().filter((v) => v !== null)));
  const x = (i, n) => left + (width - left) * (SECONDS - n + i) / (SECONDS - 1);
  const y = (value) => height - 18 - (height - 26) * value / top;
  const parts = [0, top / 2, top].flatMap((value) => [
    element("line", { x1: left, x2: width, y1: y(value), y2: y(value) }),
    element("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, +value.toPrecision(3)),
  ]);
  parts.push(element("text", { x: left, y: height - 2 }, "2 minutes ago"));
  parts.push(element("text", { x: width, y: height - 2, "text-anchor": "end" }, "now"));
  for (const [name, values] of Object.entries(series)) {
    let points = [];
    const flush = () => {
      if (points.length === 1) points.push(points[0]);
      if (points.length) parts.push(element("polyline", { class: name, points: points.join(" ") }));
      points = [];
    };
    values.forEach((value, i) => {
      if (value === null) return flush();
      points.push(`${x(i, values.length).toFixed(1)},${y(value).toFixed(1)}`);
    });
    flush();
  }
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(...parts);
}

const history = { ok: [], refused: [], median: [], p99: [] };
let readings = [];

function drawAll() {
  const { ok, refused, median, p99 } = history;
  draw($("throughput"), { ok, refused });
  draw($("latency"), { median, p99 });
}

function record(reading) {
  readings.push(reading);
  readings = readings.slice(-6);
  const before = readings.at(-2);
  if (!before) return;
  const seconds = (reading.time - before.time) / 1e3;
  const add = (name, value) => {
    history[name].push(value);
    if (history[name].length > SECONDS) history[name].shift();
  };
  const rate = (key) => Math.max(0, reading[key] - before[key]) / seconds;
  add("ok", rate("ok"));
  add("refused", rate("refused"));
  add("median", quantile(reading, readings[0], 0.5));
  add("p99", quantile(reading, readings[0], 0.99));
  drawAll();
  const { ok, median, p99 } = history;
  const text = (value, digits) => (value === null ? "–" : value.toFixed(digits));
  $("throughput-now").textContent = text(ok.at(-1), 1);
  $("latency-now").textContent = text(median.at(-1), 1);
  $("p99-now").textContent = text(p99.at(-1), 1);
  const { values } = reading;
  $("answered").textContent = reading.ok;
  $("refused").textContent = reading.refused;
  $("inflight").textContent = `${values.skipstone_inflight_images} of ${values.skipstone_inflight_capacity}`;
  const cpu = (values.process_cpu_seconds_total - before.values.process_cpu_seconds_total) / seconds;
  $("cpu").textContent = `${Math.round(cpu * 100)} %`;
  $("memory").textContent = `${Math.round(values.process_resident_memory_bytes / 2 ** 20)} MiB`;
}

function setStatus(text, kind) {
  if ($("status").textContent !== text) $("status").textContent = text;
  $("status").className = kind;
}

async function listModels() {
  const models = await (await fetch("v2/repository/index")).json();
  const select = $("model");
  const names = models.filter((model) => model.state === "READY").map((model) => model.name);
  if (names.join() !== [...select.options].map((option) => option.value).join()) {
    const chosen = select.value;
    select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
  }
  const refused = models.filter((model) => model.reason);
  $("reload").textContent = refused.map((model) => `${model.name}: ${model.reason}`).join("; ");
}

function forget() {
  readings = [];
  for (const values of Object.values(history)) values.length = 0;
}

async function poll() {
  if (document.hidden) return;
  try {
    const ready = (await fetch("v2/health/ready")).ok;
    setStatus(ready ? "ready" : "not ready", ready ? "ready" : "failing");
    await listModels();
    const text = await (await fetch("metrics")).text();
    record({ time: performance.now(), ...parse(text, $("model").value) });
  } catch {
    setStatus("no answer", "failing");
  }
}

$("model").addEventListener("change", forget);
addEventListener("resize", drawAll);
drawAll();
poll();
setInterval(poll, 1000);
