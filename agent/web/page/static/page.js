// The page: its stream of messages, its views, logins and commands. The messages are those of MQTT: docs/mqtt.md.
import { el, put } from "./dom.js";
import { camera, cameras } from "./cameras.js";
import { delivery, heat, logs, models, tools } from "./views.js";

const QUIET_MS = 4000;
const TRAIL_MS = 15 * 60e3; // of the best classes, one point a second

export const store = { hello: null, messages: {}, trails: new Map(), events: [], latencies: [], log: [], changes: [], offset: 0, heardAt: 0, isConnected: false, reason: null, unread: 0 };
// The time of the agent's clock, so that ages are right on a phone whose clock is wrong.
export const now = () => Date.now() + store.offset;
export const message = (topic) => store.messages[topic] ?? null;

const main = document.getElementById("main");
const VIEWS = { cameras, camera, models, heat, delivery, log: logs, tools };
let view = null, source = null, isDrawn = false;

function connect() {
  source?.close();
  source = new EventSource("api/events");
  source.addEventListener("hello", (event) => {
    Object.assign(store, { hello: JSON.parse(event.data), messages: {}, events: [], latencies: [], log: [], changes: [], isConnected: true, reason: null, heardAt: Date.now() });
    document.title = `${store.hello.device} · edge inference agent`;
    put(document.getElementById("device"), store.hello.device);
    document.getElementById("leave").hidden = !hasSession();
  });
  source.addEventListener("part", (event) => take(JSON.parse(event.data)));
  source.addEventListener("end", (event) => { store.reason = `The configuration was reloaded and changed serve: ${JSON.parse(event.data).text}.`; });
  source.onerror = () => {
    store.isConnected = false;
    status();
    if (source.readyState === EventSource.CLOSED) void retry();
  };
}

// The browser does not repeat a stream that was refused: find out why.
async function retry() {
  let wait = 1500;
  try {
    const question = new AbortController();
    const answer = await fetch("api/events", { cache: "no-store", signal: question.signal });
    if (answer.ok) question.abort(); // it is there again; the stream of this question ends before the next one begins
    else {
      const reason = await answer.json().then((body) => body.error, () => `Something before the agent answers with ${answer.status}; the page tries again.`);
      if (answer.status === 401) { login(reason); return; }
      store.reason = reason;
      status();
      if (answer.status === 403) return;
      wait = Math.max(wait, 1000 * Number(answer.headers.get("retry-after") ?? 0));
    }
  } catch {
    // not there yet
  }
  setTimeout(connect, wait);
}

function take(part) {
  store.offset = part.now - Date.now();
  store.heardAt = Date.now();
  store.isConnected = true;
  const isFirst = !Object.keys(store.messages).length;
  for (const [topic, value] of Object.entries(part.messages)) {
    if (value === null) delete store.messages[topic];
    else store.messages[topic] = value;
    if (value !== null && topic.endsWith("/result")) follow(topic, value);
  }
  keep(store.events, part.events, 500);
  keep(store.latencies, part.latencies, 180);
  keep(store.log, part.log, 200);
  keep(store.changes, part.changes, 50);
  if (part.log.length && !isFirst && route().name !== "log") store.unread += part.log.length;
  if (!view) go();
  draw();
}

// The best classes of the results while this page is open: subscribers get no history either.
function follow(topic, result) {
  const trail = store.trails.get(topic) ?? [], at = Date.parse(result.captured_at);
  if (trail.at(-1)?.at === at) return;
  trail.push({ at, top: result.top_k ?? [{ label: result.label, confidence: result.confidence }] });
  while (trail[0].at < at - TRAIL_MS) trail.shift();
  store.trails.set(topic, trail);
}

function keep(list, more, most) {
  list.push(...more);
  list.splice(0, Math.max(0, list.length - most));
}

function draw() {
  if (isDrawn) return;
  isDrawn = true;
  requestAnimationFrame(() => { isDrawn = false; status(); view?.update?.(); });
}

function route() {
  const [name, ...rest] = location.hash.replace(/^#\//, "").split("/");
  return name in VIEWS ? { name, argument: decodeURIComponent(rest.join("/")) } : { name: "cameras", argument: "" };
}

function go() {
  view?.end?.();
  const { name, argument } = route();
  for (const link of document.querySelectorAll("nav a")) {
    const isHere = link.hash === `#/${name === "camera" ? "cameras" : name}`;
    if (isHere) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  if (name === "log") store.unread = 0;
  main.replaceChildren();
  view = VIEWS[name](main, argument);
  draw();
}

function status() {
  const line = document.getElementById("state"), text = line.querySelector(".text");
  const isLate = Date.now() - store.heardAt > QUIET_MS && !store.isConnected;
  const lost = store.heardAt ? `Disconnected since ${new Date(store.heardAt).toLocaleTimeString("en-GB")}` : store.reason ? "Not connected" : "Not reachable";
  const [kind, words] = document.getElementById("token") ? ["idle", "Not logged in"] : isLate ? ["bad", lost] : condition();
  line.dataset.kind = kind;
  put(text, words);
  const counter = document.getElementById("log-count");
  counter.hidden = !store.unread;
  put(counter, String(store.unread));
  const silent = store.hello && isLate ? "The agent does not answer. What you see is its last state; the page tries again." : null;
  fail(store.isConnected ? null : store.reason ?? silent);
}

// One line on the whole agent: the worst that is true of it.
function condition() {
  const health = message("health"), runtime = message("runtime");
  if (!runtime) return ["idle", store.hello ? "Starting" : "Connecting …"];
  const lost = Object.keys(runtime.cameras).filter((name) => isLost(message(`camera/${name}/health`)));
  const governor = message("thermal")?.governor;
  if (message("status")?.state === "stopped") return ["bad", "Stopped"];
  if (lost.length) return ["bad", lost.length === 1 ? `Camera ${lost[0]} is lost` : `${lost.length} cameras are lost`];
  if (governor?.state === "paused") return ["bad", "Paused by heat"];
  if (Object.keys(health?.builds ?? {}).length) return ["warn", "Building an engine"];
  const degraded = Object.entries(runtime.models).find(([, one]) => one.degraded);
  if (degraded) return ["warn", `Model ${degraded[0]} runs degraded`];
  if (governor?.state === "reduced") return ["warn", "Slowed down by heat"];
  if (health && health.connection.state !== "connected") return ["warn", "Running; no broker"];
  return ["good", "Running"];
}

// Lost, or never reached: it tries again and again, and says why it fails.
const isLost = (health) => health?.state === "lost" || (health?.state === "connecting" && Boolean(health.error));

function fail(text) {
  const banner = document.getElementById("banner");
  banner.hidden = !text;
  if (text) put(banner, text);
}

function hasSession() { return sessionStorage.getItem("session") === "1"; }

function login(reason) {
  view?.end?.();
  view = null;
  const input = el("input", { type: "password", id: "token", autocomplete: "current-password", required: true });
  const said = el("p", { class: "trouble", role: "alert" });
  const form = el("form", { class: "panel login" }, el("h2", {}, "Log in"), el("p", { class: "small" }, reason),
    el("label", { for: "token" }, "Token"), input, said, el("button", {}, "Log in"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void (async () => {
      try {
        const answer = await fetch("api/login", { method: "POST", body: JSON.stringify({ token: input.value }) });
        if (!answer.ok) { put(said, (await answer.json()).error); return; }
        sessionStorage.setItem("session", "1");
        main.replaceChildren(el("p", { class: "empty" }, "Connecting to the agent …"));
        connect();
      } catch {
        put(said, "The agent does not answer; try again.");
      }
    })();
  });
  main.replaceChildren(form);
  status();
  input.focus();
}

// Sends a command as MQTT would, and returns its reply; {outcome: "refused", text} if there is none.
export async function command(verb, fields = {}) {
  try {
    const headers = { "content-type": "application/json", "x-csrf-token": store.hello.csrf };
    const answer = await fetch("api/command", { method: "POST", headers, body: JSON.stringify({ verb, ...fields }) });
    const body = await answer.json();
    return answer.ok ? body : { outcome: "refused", text: body.error, details: {} };
  } catch {
    return { outcome: "failed", text: "the agent does not answer; try again", details: {} };
  }
}

// Asks before something changes; true if the answer is yes.
export function confirmed(title, text, yes) {
  const dialog = document.getElementById("question");
  put(document.getElementById("question-title"), title);
  document.getElementById("question-text").replaceChildren(el("p", {}, text));
  put(document.getElementById("question-yes"), yes);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

export function say(text) { put(document.getElementById("spoken"), text); }

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  put(document.getElementById("theme"), { auto: "Auto", light: "Light", dark: "Dark" }[theme]);
  localStorage.setItem("theme", theme);
}

document.getElementById("theme").addEventListener("click", () => {
  const order = ["auto", "light", "dark"];
  setTheme(order[(order.indexOf(localStorage.getItem("theme") ?? "auto") + 1) % 3]);
});
document.getElementById("leave").addEventListener("click", () => {
  void fetch("api/logout", { method: "POST", headers: { "x-csrf-token": store.hello.csrf } }).then(() => {
    sessionStorage.removeItem("session");
    location.reload();
  });
});
addEventListener("hashchange", () => { if (store.hello) { go(); main.focus({ preventScroll: true }); scrollTo(0, 0); } });
setTheme(localStorage.getItem("theme") ?? "auto");
setInterval(draw, 1000);
connect();
