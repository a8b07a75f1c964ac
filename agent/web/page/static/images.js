// The cameras' newest frames: fetched one after the other over few connections, only for what is on the screen.
const CONNECTIONS = 2; // a browser opens six to one server, of which one carries the stream
const PERIOD_MS = 1000;

const shots = new Set();
let running = 0;

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) for (const shot of shots) if (shot.box === entry.target) shot.isVisible = entry.isIntersecting;
  pump();
});

// Shows the newest frame of a camera in img, while box is on the screen: an img that is still hidden has no place there.
// onFrame gets the time of the capture in ms and its size. Returns what ends it.
export function show(camera, img, box, { width, periodMs = PERIOD_MS, onFrame, onNothing }) {
  const shot = { camera, img, box, width, periodMs, onFrame, onNothing, isVisible: false, due: 0, busy: false, tag: null, url: null };
  shots.add(shot);
  watcher.observe(box);
  return () => {
    shots.delete(shot);
    watcher.unobserve(box);
    if (shot.url) URL.revokeObjectURL(shot.url);
  };
}

function pump() {
  if (document.hidden) return;
  const now = performance.now();
  const due = [...shots].filter((one) => one.isVisible && !one.busy && one.due <= now).sort((a, b) => a.due - b.due);
  for (const shot of due.slice(0, CONNECTIONS - running)) void load(shot);
}

async function load(shot) {
  shot.busy = true;
  running += 1;
  try {
    const answer = await fetch(`api/cameras/${encodeURIComponent(shot.camera)}/frame.jpg?width=${shot.width}`, { cache: "no-cache" });
    if (answer.status === 200) await draw(shot, answer);
    else shot.onNothing?.(answer.status);
  } catch {
    // The stream says that the agent cannot be reached.
  }
  shot.due = performance.now() + shot.periodMs;
  shot.busy = false;
  running -= 1;
  pump();
}

async function draw(shot, answer) {
  const tag = answer.headers.get("etag");
  const at = Date.parse(answer.headers.get("x-captured-at"));
  if (tag !== shot.tag) {
    const url = URL.createObjectURL(await answer.blob());
    const old = shot.url;
    shot.url = url;
    shot.tag = tag;
    shot.img.src = url;
    await shot.img.decode().catch(() => undefined);
    if (old) URL.revokeObjectURL(old);
  }
  if (shots.has(shot)) shot.onFrame?.(at, shot.img.naturalWidth, shot.img.naturalHeight);
}

setInterval(pump, 100);
document.addEventListener("visibilitychange", pump);
