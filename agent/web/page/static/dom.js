// Small helpers: elements, numbers and times in words.
const SVG = "http://www.w3.org/2000/svg";

export function el(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((one) => one !== null && one !== undefined));
  return node;
}

export function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.flat());
  return node;
}

// Sets the text only where it differs, so that a selection and a screen reader's place survive.
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`);
export const number = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: value < 100 && digits ? digits : 0 }));
export const ms = (value) => (value === null || value === undefined ? "–" : `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`);
export const count = (value) => (value ?? 0).toLocaleString("en");
export const bytes = (value) => (value < 1e3 ? `${value} B` : value < 1e6 ? `${(value / 1e3).toFixed(1)} kB` : `${(value / 1e6).toFixed(1)} MB`);

export function duration(seconds) {
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export const clock = (instant) => new Date(instant).toLocaleTimeString("en-GB");
export const moment = (instant) => new Date(instant).toLocaleString("en-GB", { dateStyle: "short", timeStyle: "medium" });
export const sum = (counts) => Object.values(counts ?? {}).reduce((total, one) => total + one, 0);
export const badge = (kind, text) => el("span", { class: "badge", "data-kind": kind }, text);
export const listed = (counts) => Object.entries(counts ?? {}).map(([name, n]) => `${name} ${count(n)}`).join(", ");

export function pairs(entries) {
  const shown = entries.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", { class: "pairs" }, shown.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]).flat());
}

export function table(heads, rows) {
  const head = el("tr", {}, heads.map((one) => el("th", { scope: "col", class: one.startsWith("#") ? "n" : null }, one.replace(/^#/, ""))));
  const body = rows.map((row) => el("tr", {}, row.map((cell, at) => el("td", { class: heads[at].startsWith("#") ? "n" : "w" }, cell))));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": heads.map((one) => one.replace(/^#/, "")).join(", ") }, el("table", {}, el("thead", {}, head), el("tbody", {}, body)));
}

export function meter(share, { tick = null, kind = "good", name = "" } = {}) {
  const fill = el("i", { "data-kind": kind });
  fill.style.width = `${Math.min(100, Math.max(0, 100 * share))}%`;
  const bar = el("div", { class: "meter", role: "meter", "aria-label": name, "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": Math.round(100 * share) }, fill);
  if (tick !== null && tick !== undefined) {
    const mark = el("b", { title: `threshold ${percent(tick)}` });
    mark.style.left = `${100 * tick}%`;
    bar.append(mark);
  }
  return bar;
}
