// What is not about one camera: models, heat, delivery, the log, and tools.
import { badge, bytes, count, duration, el, listed, meter, moment, ms, number, pairs, put, table } from "./dom.js";
import { lines } from "./charts.js";
import { command, confirmed, message, now, store } from "./page.js";

export function models(root) {
  const box = el("div", { class: "columns" });
  root.append(el("div", { class: "head" }, el("h2", {}, "Models")), box);
  return {
    update() {
      const runtime = message("runtime"), health = message("health"), latency = message("latency");
      const builds = Object.entries(health?.builds ?? {}).map(([name, one]) => el("section", { class: "panel" }, el("div", { class: "title" }, el("h2", {}, name), badge("warn", "building")), el("p", {}, `${one.engine}: ${one.phase}, for ${duration(one.elapsed_s)}`), one.done_ratio === null ? "" : meter(one.done_ratio, { kind: "warn", name: "Done" })));
      const loaded = Object.entries(runtime?.models ?? {}).map(([name, one]) => el("section", { class: "panel" },
        el("div", { class: "title" }, el("h2", {}, name), badge(one.degraded ? "warn" : "good", one.degraded ? "degraded" : "as asked for")),
        pairs([
          ["Package", `${one.name} ${one.version}`], ["Task", one.task], ["Engine", `${one.engine}, ${one.precision}`],
          ["Asked for", `${one.requested_engine}, ${one.requested_precision}`], ["Degraded", one.degraded], ["Device", one.device],
          ["Placement", listed(one.placement)], ["Loaded in", ms(one.load_ms)], ["Pending", one.pending],
          ["Latency", latency?.models[name]?.infer ? `${ms(latency.models[name].infer.p50)} p50, ${ms(latency.models[name].infer.p99)} p99 in the engine, batches of ${number(latency.models[name].batch_mean)}` : null],
          ["Certificate", one.accuracy ? Object.entries(one.accuracy).map(([key, value]) => `${key.replaceAll("_", " ")} ${typeof value === "number" ? Number(value.toPrecision(5)) : value}`).join(", ") : "none: it runs as the model was exported"],
          ["Labels", one.labels.length > 12 ? `${one.labels.slice(0, 12).join(", ")} and ${one.labels.length - 12} more` : one.labels.join(", ")],
          ["SHA-256", one.sha256.slice(0, 16)],
        ]),
        one.rejected.length ? table(["Rejected", "Reason", "Remedy"], one.rejected.map((no) => [no.engine, no.reason, no.remedy])) : ""));
      const changed = store.changes.length ? [el("section", { class: "panel" }, el("h2", {}, "Changes of engines"), table(["Time", "What"], [...store.changes].reverse().map((one) => [moment(one.at), one.changed])))] : [];
      box.replaceChildren(...(builds.length + loaded.length ? [...builds, ...loaded, ...changed] : [el("p", { class: "empty" }, "No model is loaded yet.")]));
    },
  };
}

export function heat(root) {
  const zones = el("div", {}), power = el("div", {}), governor = el("div", {}), day = el("div", {}, el("p", { class: "small" }, "Loading …")), watts = el("div", {});
  root.append(el("div", { class: "head" }, el("h2", {}, "Heat")), el("div", { class: "columns" },
    el("section", { class: "panel" }, el("h2", {}, "Zones"), zones), el("section", { class: "panel" }, el("h2", {}, "Governor"), governor),
    el("section", { class: "panel" }, el("h2", {}, "Power"), power),
    el("section", { class: "panel" }, el("h2", {}, "Hottest zone, last 24 hours"), day), el("section", { class: "panel" }, el("h2", {}, "Rate and power, last 24 hours"), watts)));
  const load = async () => {
    try {
      const minutes = (await (await fetch("api/heat", { cache: "no-store" })).json()).minutes;
      const times = minutes.map((one) => one.at * 1000);
      day.replaceChildren(lines(times, [{ name: "hottest", values: minutes.map((one) => one.celsius) }], "°C", "Hottest zone over the last 24 hours", { bottom: null }));
      watts.replaceChildren(lines(times, [{ name: "rate allowed, %", values: minutes.map((one) => 100 * one.rate_ratio) }, { name: "power, W", values: minutes.map((one) => one.watts) }], "", "Allowed rate and power over the last 24 hours"));
    } catch {
      day.replaceChildren(el("p", { class: "small" }, "The agent does not answer."));
    }
  };
  void load();
  const timer = setInterval(() => { if (!document.hidden) void load(); }, 60000);
  return {
    end() { clearInterval(timer); },
    update() {
      const seen = message("thermal");
      if (!seen) { zones.replaceChildren(el("p", { class: "small" }, "No reading yet.")); return; }
      const rows = Object.entries(seen.zones).map(([name, zone]) => {
        const limit = zone.hard_celsius ?? zone.throttle_celsius ?? zone.passive_celsius;
        const kind = zone.hard_celsius !== null && zone.celsius >= zone.hard_celsius ? "bad" : zone.soft_celsius !== null && zone.celsius >= zone.soft_celsius ? "warn" : "good";
        return [el("span", {}, name, name === seen.hottest ? " (hottest)" : ""), limit ? meter(zone.celsius / (limit + 15), { tick: limit / (limit + 15), kind, name: `${name} ${number(zone.celsius)} degrees` }) : "", `${number(zone.celsius)} °C`, zone.soft_celsius === null ? "–" : `${number(zone.soft_celsius)} °C`, zone.hard_celsius === null ? "–" : `${number(zone.hard_celsius)} °C`];
      });
      zones.replaceChildren(rows.length ? table(["Zone", "", "#Now", "#Soft", "#Hard"], rows) : el("p", { class: "small" }, `No temperature: ${seen.source_detail}`), ...Object.entries(seen.unusable_sensors).map(([name, why]) => el("p", { class: "small" }, `${name}: ${why}`)));
      const kind = { free: "good", off: "idle", reduced: "warn", paused: "bad", blind: "warn" }[seen.governor.state];
      governor.replaceChildren(el("p", {}, badge(kind, seen.governor.state)), pairs([
        ["Why", seen.governor.reason], ["Rate allowed", `${Math.round(100 * seen.governor.rate_ratio)} %`], ["Clocks allowed", `${Math.round(100 * seen.governor.clock_ratio)} %`],
        ["Levers", seen.governor.levers.join(", ") || "none pulled"], ["Zone", seen.governor.zone], ["Predicted", seen.governor.predicted_celsius === null ? null : `${number(seen.governor.predicted_celsius)} °C`],
        ["Since", moment(seen.governor.since)], ["Throttled", seen.throttled === null ? "not known here" : seen.throttled ? Object.values(seen.throttle_causes).join(", ") || "yes" : "no"],
      ]));
      const rails = Object.entries(seen.power.rails).map(([name, value]) => [name, `${number(value)} W`]);
      power.replaceChildren(rails.length || seen.power.total_watts !== null ? table(["Rail", "#Power"], [...rails, ["total", seen.power.total_watts === null ? "–" : `${number(seen.power.total_watts)} W`]]) : el("p", { class: "small" }, "This machine reports no power."), pairs([["Power mode", seen.power_mode], ["GPU load", seen.gpu.load_ratio === null ? null : `${Math.round(100 * seen.gpu.load_ratio)} %`], ["Fans", Object.entries(seen.fans).map(([name, fan]) => `${name} ${fan.rpm === null ? `${Math.round(100 * (fan.speed_ratio ?? 0))} %` : `${Math.round(fan.rpm)} rpm`}`).join(", ")]]));
    },
  };
}

export function delivery(root) {
  const line = el("div", {}), outbox = el("div", {}), trouble = el("div", {}), process = el("div", {});
  root.append(el("div", { class: "head" }, el("h2", {}, "Delivery")), el("div", { class: "columns" },
    el("section", { class: "panel" }, el("h2", {}, "Broker"), line), el("section", { class: "panel" }, el("h2", {}, "Messages"), outbox),
    el("section", { class: "panel" }, el("h2", {}, "Refused and waiting topics"), trouble), el("section", { class: "panel" }, el("h2", {}, "Process"), process)));
  return {
    update() {
      const health = message("health");
      if (!health) { line.replaceChildren(el("p", { class: "small" }, "The first report comes within ten seconds.")); return; }
      const link = health.connection, sent = health.publisher;
      line.replaceChildren(el("p", {}, badge(link.state === "connected" ? "good" : "bad", link.state)), pairs([
        ["Address", link.broker], ["Protocol", link.protocol], ["Why not newer", link.protocol_reason], ["Reason", link.reason], ["Since", link.since ? moment(link.since) : null],
        ["Reconnects", count(link.reconnects)], ["Other addresses", Object.entries(link.others).map(([name, why]) => `${name}${why ? `: ${why}` : ""}`).join("; ")], ["Limits", link.limits.join(" ")],
        ["Line", sent.line.bytes_per_s === null ? `${bytes(sent.line.queued_bytes)} wait` : `${bytes(Math.round(sent.line.bytes_per_s))} a second, ${bytes(sent.line.queued_bytes)} wait`],
      ]));
      outbox.replaceChildren(pairs([
        ["Sent", count(sent.sent)], ["Events in the outbox", count(sent.stored)], ["Oldest event", sent.oldest_event_s === null ? "none waits" : duration(sent.oldest_event_s)],
        ["Queued", count(sent.queued)], ["Dropped", listed(sent.dropped) || "none"], ["Held back by max_hz", sent.rate_limited ? count(sent.rate_limited) : null],
        ["Durability", sent.reason ? `${sent.durability}: ${sent.reason}` : sent.durability], ["Commands", listed(health.commands) || "none"], ["Rejected on arrival", listed(health.inbound.rejected)],
      ]));
      const rows = [
        ...Object.entries(sent.denied).map(([topic, why]) => [topic, "subscription denied", why]), ...Object.entries(sent.rejected).map(([topic, why]) => [topic, "lost for good", why]),
        ...Object.entries(sent.waiting).map(([topic, one]) => [topic, `waits since ${moment(one.since)}`, `${one.reason}, ${one.attempts} tries, next in ${duration(one.next_s)}`]),
        ...Object.entries(sent.refused).map(([why, n]) => [why, "refused and repeated", count(n)]),
      ];
      trouble.replaceChildren(rows.length ? table(["Topic", "What", "Why"], rows) : el("p", { class: "small" }, "None."));
      process.replaceChildren(pairs([["Up", duration(health.uptime_s)], ["CPU", `${number(health.process.cpu_percent, 0)} %`], ["Memory", `${number(health.process.rss_mib, 0)} MiB`], ["Threads", count(health.process.threads)], ["Open files", count(health.process.fds)]]));
    },
  };
}

export function logs(root) {
  const list = el("ol", { class: "log plain" }), title = el("p", {});
  root.append(el("div", { class: "head" }, el("h2", {}, "Log"), title), el("section", { class: "panel" }, list));
  let shown = -1;
  return {
    update() {
      const newest = store.log.at(-1);
      const mark = `${store.log.length} ${newest?.timestamp ?? ""}`;
      if (mark === shown) return;
      shown = mark;
      put(title, store.log.length ? "The last warnings and errors, newest first. docs/troubleshooting.md explains each by its name." : "");
      list.replaceChildren(...(store.log.length ? [...store.log].reverse().map(entry) : [el("li", {}, el("span", {}, "No warning and no error since the agent started."))]));
    },
  };
}

function entry(record) {
  const { timestamp, level, event, component, ...rest } = record;
  const fields = Object.entries(rest).map(([key, value]) => `${key}: ${typeof value === "object" ? JSON.stringify(value) : value}`).join(" · ");
  return el("li", {}, el("time", { datetime: timestamp, title: component }, moment(timestamp)), badge(level === "warning" ? "warn" : "bad", level), el("div", {}, el("code", {}, event), el("p", { class: "small" }, fields)));
}

export function tools(root) {
  const answer = el("div", { class: "answer", role: "status", hidden: true }), list = el("div", {}, el("p", { class: "small" }, "Loading …"));
  const allowed = store.hello.may.commands, said = el("p", { class: "small", role: "status" });
  const all = [
    ["selftest", "Self-test", "Classify the golden images of every package now? Frames wait for a moment."],
    ["benchmark", "Benchmark", "Measure every engine for up to five seconds? It shares the engine with the cameras."],
    ["reload", "Reload the configuration", "Read the configuration file again? What it changes takes effect at once; a fault is shown with its line and changes nothing."],
    ["rebirth", "Send all retained messages again", "Send every retained message again?"],
  ];
  const buttons = all.filter(([verb]) => allowed.includes(verb)).map(([verb, name, text]) => el("button", { type: "button", onclick: (event) => void run(verb, name, text, event.target) }, name));
  async function run(verb, name, text, button) {
    if (!(await confirmed(`${name}?`, text, name))) return;
    button.disabled = true;
    answer.hidden = false;
    answer.textContent = `${name} …`;
    const reply = await command(verb);
    button.disabled = false;
    answer.textContent = `${name}: ${reply.outcome}. ${reply.text}\n${Object.keys(reply.details ?? {}).length ? JSON.stringify(reply.details, null, 2) : ""}`;
  }
  root.append(el("div", { class: "head" }, el("h2", {}, "Tools")), el("div", { class: "columns" },
    el("section", { class: "panel" }, el("h2", {}, "Commands"), buttons.length ? el("div", { class: "controls" }, buttons) : el("p", { class: "small" }, "This page may only look. To allow commands, write serve.control: true and mqtt.commands.enabled: true, and name them in mqtt.commands.allow."), answer),
    el("section", { class: "panel" }, el("h2", {}, "Benchmark reports"), list),
    el("section", { class: "panel" }, el("h2", {}, "Support bundle"), el("p", {}, "What a maintainer needs to see, without passwords: configuration, checks, log, last messages."), el("p", { class: "answer" }, "agent doctor -c /etc/agent/agent.yaml --bundle agent-bundle.tar.gz"),
      store.hello.may.bundle ? el("button", { type: "button", onclick: (event) => void bundle(event.target, said) }, "Make and download one") : "", said),
    el("section", { class: "panel" }, el("h2", {}, "This device"), device())));
  void (async () => {
    try {
      const reports = (await (await fetch("api/reports", { cache: "no-store" })).json()).reports;
      list.replaceChildren(reports.length ? table(["Report", "#Size", "Written"], reports.map((one) => [el("a", { href: `api/reports/${encodeURIComponent(one.name)}`, target: "_blank", rel: "noopener" }, one.name), bytes(one.bytes), moment(one.at * 1000)])) : el("p", { class: "small" }, "None in serve.reports_dir. Make one with: agent benchmark --output report.html"));
    } catch {
      list.replaceChildren(el("p", { class: "small" }, "The agent does not answer."));
    }
  })();
  return {};
}

async function bundle(button, said) {
  button.disabled = true;
  put(said, "Collecting; this takes up to a few minutes …");
  try {
    const answer = await fetch("api/bundle", { method: "POST", headers: { "x-csrf-token": store.hello.csrf } });
    if (answer.ok) {
      const link = el("a", { href: URL.createObjectURL(await answer.blob()), download: `${store.hello.device}-bundle.tar.gz` });
      link.click();
      URL.revokeObjectURL(link.href);
      put(said, "Downloaded.");
    } else put(said, (await answer.json()).error);
  } catch {
    put(said, "The agent does not answer; try again.");
  }
  button.disabled = false;
}

function device() {
  const runtime = message("runtime");
  if (!runtime) return el("p", { class: "small" }, "Not known yet.");
  const board = Object.entries(runtime.board).filter(([, value]) => value !== null).map(([key, value]) => [key.replaceAll("_", " "), String(value)]);
  const changed = Object.entries(runtime.overridden ?? {}).map(([key, value]) => `${key} (file: ${value})`).join(", ");
  return pairs([["Agent", runtime.agent], ...board, ...Object.entries(runtime.libraries), ["Overridden", changed], ["Previous run", runtime.previous_exit]]);
}
