// Charts as SVG: stacked areas, lines and a timeline. Each has a text for those who do not see it.
import { clock, el, svg } from "./dom.js";

const W = 720, LEFT = 58, RIGHT = 8, TOP = 8, BOTTOM = 22;

function scale(values) {
  const highest = Math.max(...values, 1e-9);
  const step = 10 ** Math.floor(Math.log10(highest));
  return Math.ceil(highest / step / 2) * 2 * step;
}

function frame(height, label, times, top, unit, bottom = 0) {
  const x = (t) => LEFT + ((t - times[0]) / Math.max(1, times[times.length - 1] - times[0])) * (W - LEFT - RIGHT);
  const y = (v) => TOP + (1 - (v - bottom) / (top - bottom)) * (height - TOP - BOTTOM);
  const chart = svg("svg", { class: "chart", viewBox: `0 0 ${W} ${height}`, role: "img", "aria-label": label });
  for (const share of [0, 0.5, 1]) {
    const value = bottom + share * (top - bottom);
    chart.append(svg("line", { class: "axis", x1: LEFT, x2: W - RIGHT, y1: y(value), y2: y(value) }));
    const text = svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" });
    text.textContent = `${Number(value.toPrecision(3))}${share === 1 ? ` ${unit}` : ""}`;
    chart.append(text);
  }
  for (const [at, anchor] of [[times[0], "start"], [times[times.length - 1], "end"]]) {
    const text = svg("text", { x: x(at), y: height - 6, "text-anchor": anchor });
    text.textContent = clock(at);
    chart.append(text);
  }
  return { chart, x, y };
}

// points: [{at, values: [..]}], names of the layers from the bottom up.
export function stacked(points, names, unit, label) {
  if (points.length < 2) return el("p", { class: "small" }, "Not enough figures yet: they come every five seconds.");
  const totals = points.map((one) => one.values.reduce((a, b) => a + b, 0));
  const { chart, x, y } = frame(200, label, points.map((one) => one.at), scale(totals), unit);
  const base = points.map(() => 0);
  names.forEach((_, layer) => {
    const upper = points.map((one, i) => base[i] + one.values[layer]);
    const there = points.map((one, i) => `${x(one.at).toFixed(1)},${y(upper[i]).toFixed(1)}`);
    const back = points.map((one, i) => `${x(one.at).toFixed(1)},${y(base[i]).toFixed(1)}`).reverse();
    chart.append(svg("polygon", { class: `f${layer % 6}`, points: [...there, ...back].join(" ") }));
    upper.forEach((value, i) => { base[i] = value; });
  });
  return el("figure", {}, chart, legend(names));
}

// series: [{name, values: [number|null]}] over the same times.
export function lines(times, series, unit, label, { bottom = 0 } = {}) {
  if (times.length < 2) return el("p", { class: "small" }, "Not enough figures yet: there is one for each minute.");
  const all = series.flatMap((one) => one.values).filter((one) => one !== null);
  if (!all.length) return el("p", { class: "small" }, "No figures: this machine has no such sensor.");
  const low = bottom === null ? Math.floor(Math.min(...all) / 10) * 10 : bottom;
  const { chart, x, y } = frame(200, label, times, Math.max(scale(all), low + 1), unit, low);
  series.forEach((one, at) => {
    let path = "", isOpen = false;
    one.values.forEach((value, i) => {
      if (value === null) { isOpen = false; return; }
      path += `${isOpen ? "L" : "M"}${x(times[i]).toFixed(1)} ${y(value).toFixed(1)}`;
      isOpen = true;
    });
    chart.append(svg("path", { class: `line s${at % 6}`, d: path }));
  });
  return el("figure", {}, chart, series.length > 1 ? legend(series.map((one) => one.name)) : "");
}

// spans: [{from, to, label, color}] between begin and end.
export function timeline(spans, begin, end, label) {
  const height = 58;
  const chart = svg("svg", { class: "chart", viewBox: `0 0 ${W} ${height}`, role: "img", "aria-label": label });
  const x = (t) => LEFT + ((t - begin) / Math.max(1, end - begin)) * (W - LEFT - RIGHT);
  for (const one of spans) {
    const width = Math.max(1, x(one.to) - x(one.from));
    const band = svg("rect", { class: `f${one.color}`, x: x(one.from), y: 8, width, height: 22, rx: 2 });
    const title = svg("title");
    title.textContent = `${one.label}, from ${clock(one.from)}`;
    band.append(title);
    chart.append(band);
  }
  for (const [at, anchor] of [[begin, "start"], [end, "end"]]) {
    const text = svg("text", { x: x(at), y: height - 8, "text-anchor": anchor });
    text.textContent = clock(at);
    chart.append(text);
  }
  const names = [...new Map(spans.map((one) => [one.label, one.color]))];
  return el("figure", {}, chart, el("div", { class: "legend" }, names.map(([name, color]) => el("span", { class: `c${color}` }, name))));
}

const legend = (names) => el("div", { class: "legend" }, names.map((name, at) => el("span", { class: `c${at % 6}` }, name)));
