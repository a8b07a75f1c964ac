// The cameras: all of them as cards, and one in detail.
import { badge, clock, count, duration, el, listed, meter, ms, number, pairs, percent, put, sum, svg, table } from "./dom.js";
import { lines, stacked, timeline } from "./charts.js";
import { show } from "./images.js";
import { command, confirmed, message, now, say, store } from "./page.js";

const STAGES = ["capture", "queue", "preprocess", "infer", "decide"];
const KINDS = { connected: "good", connecting: "warn", lost: "bad", ended: "idle", disabled: "idle" };

const topicLevel = (name) => name; // names of a configuration are levels of a topic as they are
const runtimeOf = (name) => message("runtime")?.cameras[name] ?? null;
const healthOf = (name) => message(`camera/${topicLevel(name)}/health`);
const of = (camera, classifier, kind) => message(`camera/${topicLevel(camera)}/${topicLevel(classifier)}/${kind}`);

export function cameras(root) {
  const title = el("p", {}), grid = el("div", { class: "grid" }), cards = new Map();
  const wall = el("button", { type: "button", class: "quiet", onclick: () => void fullscreen() }, "Wall view");
  root.append(el("div", { class: "head" }, el("h2", {}, "Cameras"), title, wall), grid);
  grid.addEventListener("keydown", (event) => step(event, grid));
  document.addEventListener("fullscreenchange", leaveWall);
  return {
    update() {
      const names = Object.keys(message("runtime")?.cameras ?? {});
      put(title, names.length ? `${names.length} in all · ${names.filter((one) => healthOf(one)?.state === "connected").length} connected` : "");
      if (!names.length) {
        grid.replaceChildren(el("p", { class: "empty" }, message("runtime") ? "The configuration has no camera." : "The agent is starting: cameras appear once its engines are loaded."));
        return;
      }
      for (const [name, card] of cards) if (!names.includes(name)) { card.end(); card.node.remove(); cards.delete(name); }
      if (!cards.size) grid.replaceChildren();
      for (const name of names) {
        if (!cards.has(name)) { const made = card(name); cards.set(name, made); grid.append(made.node); }
        cards.get(name).update();
      }
    },
    end() {
      cards.forEach((one) => one.end());
      document.removeEventListener("fullscreenchange", leaveWall);
      document.body.classList.remove("wall");
    },
  };
}

async function fullscreen() {
  document.body.classList.add("wall");
  await document.documentElement.requestFullscreen?.().catch(() => undefined);
}

function leaveWall() { if (!document.fullscreenElement) document.body.classList.remove("wall"); }

// Arrow keys move between the cards.
function step(event, grid) {
  const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  if (!(event.key in moves)) return;
  const links = [...grid.querySelectorAll(".title a")];
  const at = links.indexOf(document.activeElement);
  if (at < 0) return;
  event.preventDefault();
  links[Math.min(links.length - 1, Math.max(0, at + moves[event.key]))].focus();
}

function shot(name, { large = false } = {}) {
  const img = el("img", { alt: `Newest frame of ${name}`, hidden: true });
  const age = el("span", { class: "age", hidden: true }), nothing = el("p", {}, "No image yet");
  const marks = svg("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true", hidden: "" });
  const box = el("div", { class: large ? "shot large" : "shot" }, nothing, img, marks, age);
  let seen = null, end = () => undefined;
  if (store.hello.may.images) {
    const widths = store.hello.widths;
    const width = widths.find((one) => one >= (large ? 960 : 480)) ?? widths[widths.length - 1];
    end = show(name, img, box, {
      width,
      periodMs: large ? 250 : 1000,
      onFrame(at, w, h) {
        seen = at;
        img.hidden = false;
        nothing.hidden = true;
        marks.removeAttribute("hidden");
        age.hidden = false;
        if (w && h) box.style.aspectRatio = `${w} / ${h}`;
      },
      onNothing(code) { if (seen === null) put(nothing, code === 404 ? "The camera does not run" : "No frame yet"); },
    });
  } else {
    put(nothing, "Images are switched off (serve.page_images)");
  }
  let drawn = "";
  return {
    node: box,
    end,
    update() {
      if (seen !== null) put(age, `${duration((now() - seen) / 1000)} ago`);
      const rois = Object.values(runtimeOf(name)?.classifiers ?? {}).map((one) => one.roi).filter((roi) => roi.join() !== "0,0,1,1");
      const key = JSON.stringify(rois);
      if (key === drawn) return;
      drawn = key;
      marks.replaceChildren(...rois.flatMap(([x0, y0, x1, y1]) => ["roi-under", "roi"].map((kind) => svg("rect", { class: kind, x: x0, y: y0, width: x1 - x0, height: y1 - y0 }))));
    },
  };
}

function card(name) {
  const picture = shot(name), state = el("span", {}), body = el("div", { class: "decisions body" }), facts = el("div", { class: "facts" }), trouble = el("div", {});
  const node = el("article", { class: "card", "aria-label": `Camera ${name}` }, picture.node,
    el("div", { class: "body" }, el("div", { class: "title" }, el("h3", {}, el("a", { href: `#/camera/${encodeURIComponent(name)}` }, name)), state), body, trouble, facts));
  body.className = "decision";
  let before = null;
  return {
    node,
    end: picture.end,
    update() {
      picture.update();
      const health = healthOf(name), now_ = health?.state ?? "connecting";
      if (now_ !== before) {
        if (before !== null) say(`Camera ${name} is ${now_}`);
        before = now_;
        state.replaceChildren(badge(KINDS[now_] ?? "idle", now_));
        node.dataset.kind = KINDS[now_] === "bad" ? "bad" : health?.image_fault ? "warn" : "";
      }
      trouble.replaceChildren(...troubles(health));
      body.replaceChildren(...Object.keys(runtimeOf(name)?.classifiers ?? {}).map((one) => decision(name, one)));
      facts.replaceChildren(...figures(name, health));
    },
  };
}

function troubles(health) {
  if (!health) return [];
  const said = [];
  if (health.state === "lost") said.push(el("p", { class: "trouble" }, `Lost${health.last_frame_age_s ? `; last frame ${duration(health.last_frame_age_s)} before` : ""}: ${health.error ?? "no reason is known"}`));
  else if (health.error) said.push(el("p", { class: "trouble" }, health.error));
  if (health.image_fault) said.push(el("p", { class: "trouble", "data-kind": "warn" }, `The image is ${health.image_fault}`));
  if (health.starved) said.push(el("p", { class: "trouble", "data-kind": "warn" }, health.starved));
  return said;
}

function figures(name, health) {
  const models = new Set(Object.values(runtimeOf(name)?.classifiers ?? {}).map((one) => one.model));
  const latest = message("latency")?.models ?? {};
  const totals = [...models].map((one) => latest[one]?.total).filter(Boolean);
  const parts = [["", `${number(health?.fps)} fps`]];
  for (const total of totals) parts.push(["p50 ", ms(total.p50)], ["p99 ", ms(total.p99)]);
  if (health && sum(health.dropped)) parts.push(["dropped ", listed(health.dropped)]);
  if (health?.skipped && sum(health.skipped)) parts.push(["skipped ", listed(health.skipped)]);
  return parts.map(([what, value]) => el("span", {}, what, el("b", {}, value)));
}

// What one classifier has decided, and how far its newest result is from another decision.
function decision(camera, classifier) {
  const state = of(camera, classifier, "state"), result = of(camera, classifier, "result"), rules = runtimeOf(camera)?.classifiers[classifier] ?? {};
  const label = state ? state.label ?? (state.labels.join(", ") || "none") : "no result yet";
  const isUnsure = !state || ["unknown", "stale"].includes(state.label);
  const standing = result?.decision, needed = rules.needed;
  const unit = rules.hold_s ? " s" : "";
  const row = el("div", { class: "row" }, el("span", { class: `label${isUnsure ? " unsure" : ""}` }, label), el("span", { class: "small" }, state ? `for ${duration((now() - Date.parse(state.since)) / 1000)}` : ""));
  const newest = result ? `${classifier}: newest ${result.label} ${percent(result.confidence)}` : classifier;
  const votes = standing && needed ? ` · ${unit ? `held for ${number(standing.votes)} s` : `${number(standing.votes, 0)} votes`}${standing.candidate && standing.candidate !== state?.label ? ` for ${standing.candidate}` : ""}, ${number(needed, unit ? 1 : 0)}${unit} needed` : "";
  return el("div", { class: "decision" }, row, meter(result?.confidence ?? 0, { tick: rules.enter, kind: isUnsure ? "warn" : "good", name: `Confidence of ${result?.label ?? "no label"}` }), el("p", { class: "small" }, newest + votes));
}

export function camera(root, name) {
  const picture = shot(name, { large: true }), state = el("span", {}), decisions = el("div", { class: "body" }), findings = el("ul", { class: "plain" });
  const latency = el("div", {}), history = el("div", {}), top = el("div", {}), trails = el("div", {}), facts = el("div", {}), trouble = el("div", {});
  const seen = []; // what the newest results said while this view was open
  root.append(
    el("div", { class: "head" }, el("p", {}, el("a", { href: "#/cameras" }, "← Cameras")), el("h2", {}, name), state),
    el("div", { class: "columns" },
      el("div", {}, picture.node, trouble, el("section", { class: "panel" }, el("h2", {}, "Decisions"), decisions),
        el("section", { class: "panel" }, el("h2", {}, "Why"), findings), controls(name)),
      el("div", {},
        el("section", { class: "panel" }, el("h2", {}, "Labels of the last minutes"), history),
        el("section", { class: "panel" }, el("h2", {}, "Best classes of the newest result"), top),
        el("section", { class: "panel" }, el("h2", {}, "Best classes over time"), trails),
        el("section", { class: "panel" }, el("h2", {}, "Latency by stage, p50"), latency),
        el("section", { class: "panel" }, el("h2", {}, "Figures"), facts))));
  const explain = async () => {
    try {
      const answer = await fetch(`api/cameras/${encodeURIComponent(name)}/explain`, { cache: "no-store" });
      const body = await answer.json();
      findings.replaceChildren(...(body.findings ?? [body.error]).map((one) => el("li", {}, one)), ...Object.entries(body.classifiers ?? {}).filter(([, one]) => one.why).map(([key, one]) => el("li", {}, `${key}: ${one.why}`)));
    } catch {
      findings.replaceChildren(el("li", {}, "The agent does not answer."));
    }
  };
  void explain();
  const timer = setInterval(() => { if (!document.hidden) void explain(); }, 3000);
  return {
    end() { picture.end(); clearInterval(timer); },
    update() {
      picture.update();
      const health = healthOf(name), runtime = runtimeOf(name);
      if (!runtime) { decisions.replaceChildren(el("p", { class: "empty" }, `There is no camera ${name}.`)); return; }
      state.replaceChildren(badge(KINDS[health?.state] ?? "idle", health?.state ?? "connecting"));
      trouble.replaceChildren(...troubles(health));
      decisions.replaceChildren(...Object.keys(runtime.classifiers).map((one) => decision(name, one)));
      remember(seen, name, Object.keys(runtime.classifiers));
      history.replaceChildren(...Object.keys(runtime.classifiers).map((one) => labels(name, one, seen)));
      top.replaceChildren(...Object.keys(runtime.classifiers).map((one) => best(name, one)));
      trails.replaceChildren(...Object.keys(runtime.classifiers).map((one) => trail(name, one)));
      latency.replaceChildren(...[...new Set(Object.values(runtime.classifiers).map((one) => one.model))].map((one) => stages(one)));
      facts.replaceChildren(pairs([
        ["Source", `${runtime.source}: ${runtime.description}`],
        ["Rate", `${number(health?.fps)} fps${runtime.rate_hz ? `, at most ${number(runtime.rate_hz)} Hz classified` : ""}`],
        ["Captured", count(health?.captured)], ["Classified", count(health?.classified)],
        ["Dropped", listed(health?.dropped) || "none"], ["Skipped", listed(health?.skipped) || "none"],
        ["Reconnects", count(health?.reconnects)], ["Image", health?.image_fault ?? "no fault"],
      ]));
    },
  };
}

function remember(seen, camera, classifiers) {
  for (const classifier of classifiers) {
    const state = of(camera, classifier, "state");
    const label = state ? state.label ?? (state.labels.join(", ") || "none") : null;
    const last = seen.findLast((one) => one.classifier === classifier);
    if (label !== null && last?.label !== label) seen.push({ classifier, label, at: last ? now() : Date.parse(state.since) });
  }
}

function labels(camera, classifier, seen) {
  const end = now(), begin = end - 5 * 60e3;
  const changes = store.events.filter((one) => one.camera === camera && one.classifier === classifier).map((one) => ({ at: Date.parse(one.at), label: one.to_label ?? (one.labels.join(", ") || "none") }));
  const first = seen.find((one) => one.classifier === classifier);
  const points = changes.length ? changes : first ? [{ at: first.at, label: first.label }] : [];
  const names = [...new Set(points.map((one) => one.label))].sort();
  const spans = points.map((one, at) => ({ from: Math.max(begin, one.at), to: points[at + 1]?.at ?? end, label: one.label, color: ["unknown", "stale"].includes(one.label) ? 5 : names.indexOf(one.label) % 5 })).filter((one) => one.to > begin);
  const newest = changes.slice(-6).reverse().map((one) => [clock(one.at), one.label]);
  return el("div", {}, spans.length ? timeline(spans, begin, end, `Labels of ${classifier} in the last five minutes`) : el("p", { class: "small" }, "No label yet"), newest.length ? table(["Time", "Label"], newest) : "");
}

function best(camera, classifier) {
  const result = of(camera, classifier, "result"), enter = runtimeOf(camera)?.classifiers[classifier]?.enter;
  if (!result) return el("p", { class: "small" }, "No result yet");
  const more = result.top_k ? "" : el("p", { class: "small" }, "Results are compact: with mqtt.results.detail: full the page shows the next best classes too.");
  const classes = result.top_k ?? [{ label: result.label, confidence: result.confidence }, ...(result.next_best ? [result.next_best] : [])];
  return el("div", { class: "body" }, classes.map((one) => el("div", { class: "decision" }, el("div", { class: "row" }, el("span", {}, one.label), el("span", { class: "small" }, percent(one.confidence))), meter(one.confidence, { tick: enter, name: one.label }))), more);
}

// The classes that were ever best, or nearly: five lines at most.
function trail(camera, classifier) {
  const points = store.trails.get(`camera/${topicLevel(camera)}/${topicLevel(classifier)}/result`) ?? [], best = new Map();
  for (const { top } of points) for (const one of top) best.set(one.label, Math.max(best.get(one.label) ?? 0, one.confidence));
  const names = [...best].sort((a, b) => b[1] - a[1]).slice(0, 5).map(([label]) => label);
  if (points.length < 2) return el("p", { class: "small" }, "Not enough results yet: one a second is kept while this page is open.");
  // Compact results name the best class alone.
  const isCompact = points.every(({ top }) => top.length === 1);
  const series = isCompact ? [{ name: "best class", values: points.map(({ top }) => 100 * top[0].confidence) }] : names.map((label) => ({ name: label, values: points.map(({ top }) => 100 * (top.find((one) => one.label === label)?.confidence ?? 0)) }));
  return lines(points.map((one) => one.at), series, "%", `Confidence of the best classes of ${classifier} since this page was opened`);
}

function stages(model) {
  const points = store.latencies.filter((one) => one.models[model]?.total).map((one) => ({ at: Date.parse(one.at), values: STAGES.map((stage) => one.models[model][stage]?.p50 ?? 0) }));
  return stacked(points, STAGES, "ms", `Latency of model ${model} by stage over the last ${Math.round(points.length * 5 / 60)} minutes`);
}

function controls(name) {
  const allowed = store.hello.may.commands, runtime = runtimeOf(name), answer = el("p", { class: "answer", role: "status", hidden: true });
  const tell = (reply) => { answer.hidden = false; put(answer, `${reply.outcome}: ${reply.text}`); };
  const change = async (title, text, fields) => { if (await confirmed(title, text, "Change it")) tell(await command("set", { camera: name, ...fields })); };
  const parts = [];
  if (store.hello.may.images) {
    const wide = Math.max(...store.hello.widths);
    parts.push(el("button", { type: "button", class: "quiet", onclick: () => void download(name, wide) }, "Save the newest frame"));
  }
  if (allowed.includes("set") && runtime) {
    const keys = Object.keys(runtime.classifiers);
    const choice = el("select", {}, keys.map((one) => el("option", {}, one)));
    const enter = el("input", { type: "number", min: "0", max: "1", step: "0.01", value: runtime.classifiers[keys[0]]?.enter ?? "" });
    const exit = el("input", { type: "number", min: "0", max: "1", step: "0.01", value: runtime.classifiers[keys[0]]?.exit ?? "" });
    const rate = el("input", { type: "number", min: "0.1", max: "1000", step: "any", value: runtime.rate_hz ?? "" });
    const toggle = el("button", { type: "button", class: "quiet", onclick: () => { const enabled = runtimeOf(name)?.enabled === false; void change(enabled ? `Enable ${name}?` : `Disable ${name}?`, enabled ? "The camera is opened and classified again." : "The camera is closed; nothing of it is classified until it is enabled again or the agent restarts.", { enabled }); } }, "Enable or disable");
    parts.push(el("label", {}, "Classifier", choice), el("label", {}, "Enter", enter), el("label", {}, "Exit", exit),
      el("button", { type: "button", onclick: () => void change(`Change the thresholds of ${choice.value}?`, `enter ${enter.value}, exit ${exit.value}, until the agent restarts.`, { classifier: choice.value, enter: Number(enter.value), exit: Number(exit.value) }) }, "Set thresholds"),
      el("label", {}, "Rate, Hz", rate),
      el("button", { type: "button", onclick: () => void change(`Change the rate of ${name}?`, `At most ${rate.value} frames a second are classified, until the agent restarts.`, { rate_hz: Number(rate.value) }) }, "Set rate"), toggle);
  }
  if (!parts.length) return el("section", { class: "panel" }, el("h2", {}, "Controls"), el("p", { class: "small" }, "This page may only look: serve.control is false, or mqtt.commands allows nothing."));
  return el("section", { class: "panel" }, el("h2", {}, "Controls"), el("div", { class: "controls" }, parts), answer);
}

async function download(name, width) {
  const answer = await fetch(`api/cameras/${encodeURIComponent(name)}/frame.jpg?width=${width}`, { cache: "no-store" });
  if (answer.status !== 200) return;
  const link = el("a", { href: URL.createObjectURL(await answer.blob()), download: `${name}-${answer.headers.get("x-captured-at")}.jpg` });
  link.click();
  URL.revokeObjectURL(link.href);
}
