// The page: it sends requests, gives what the answers say to the logs, and shows the logs as time goes on.

const byId = (id) => document.getElementById(id);
const show = (id, text) => {
  if (byId(id).textContent !== text) byId(id).textContent = text;
};

const logs = new Map(); // by the limit's name and, where a key is sent, the key
const logOf = (name, route) => {
  const id = route.key && name === route.limit ? name + " of " + route.key : name;
  if (!logs.has(id)) logs.set(id, new Log());
  return logs.get(id);
};

const routes = [...document.querySelectorAll("input[name=route]")].map((input) => ({
  input,
  ...input.dataset, // method, path, limit, key
  denials: [], // when requests were denied
  until: 0, // when Retry-After, or t, is over
  told: 0, // when the answer came that said so
  source: "", // the field that said so
  also: "", // another limit that its requests are charged to
  admitted: 0,
  denied: 0,
}));
const chosen = () => routes.find((r) => r.input.checked);

const burst = 15;
let pending = 0; // requests under way
let streaming = 0; // the timer of the stream

// send sends one request, and takes what its answer says.
async function send(route) {
  const asked = { sent: performance.now(), received: 0 };
  pending++;
  let response, ended;
  try {
    response = await fetch(route.path, {
      method: route.method,
      headers: route.key ? { "X-API-Key": route.key } : {},
      cache: "no-store",
    });
    asked.received = performance.now();
    ended = response.arrayBuffer().catch(() => {}); // so that the connection is free
  } catch {
    response = null;
  }
  pending--;
  if (!response) {
    showAnswer(route, null);
    announce(route, "no answer");
    wake();
    return;
  }
  const answer = readAnswer(response.status, response.headers);
  for (const policy of answer.policies) {
    const log = logOf(policy.name, route);
    if (policy.flights) log.fly(asked, policy, ended);
    else log.hear(asked, policy, pending);
    if (policy.name !== route.limit) route.also = policy.name;
  }
  if (answer.denied) {
    route.denied++;
    route.denials.push((asked.sent + asked.received) / 2);
    route.denials.sort((a, b) => a - b);
  } else if (response.ok) {
    route.admitted++;
  }
  const full = answer.policies.reduce((most, p) => Math.max(most, p.wait), 0);
  if (answer.denied) {
    const by = answer.policies.at(-1)?.name || route.limit; // the last that it has met
    wait(route, asked.received, answer.retryAfter, "Retry-After: " + answer.retryAfter + (by === route.limit ? "" : ", by " + by));
  } else if (asked.sent > route.told) {
    // An admitted request that was under way with denied ones came before them.
    if (full) wait(route, asked.received, full, "RateLimit: t=" + full);
    else route.until = 0;
  }
  showAnswer(route, response);
  announce(route, answer.denied ? "denied" : response.ok ? "admitted" : "status " + response.status);
  wake();
}

// wait notes that there is room in so many seconds.
function wait(route, received, seconds, source) {
  route.told = received;
  route.until = received + seconds * 1000;
  route.source = source;
}

// showAnswer shows an answer as it came.
function showAnswer(route, response) {
  if (route !== chosen()) return;
  const part = (text, name) => Object.assign(document.createElement("span"), { textContent: text, className: name });
  const lines = [];
  if (!response) lines.push(part("No answer: is the server running?", "denied"));
  else {
    const status = response.status === 200 ? "200 OK" : response.status === 429 ? "429 Too Many Requests" : String(response.status);
    lines.push(part(status, response.ok ? "admitted" : "denied"));
    for (const name of ["RateLimit", "RateLimit-Policy", "Retry-After"]) {
      if (response.headers.has(name)) lines.push(part("\n" + name + ": ", "name"), response.headers.get(name));
    }
  }
  byId("answer").replaceChildren(...lines);
}

// What is said to those who do not see the page: what has come of the last requests, together, not more than every few seconds.
const heard = new Map();
let speaking = 0;
let spoken = -Infinity;
function announce(route, outcome) {
  heard.set(outcome, (heard.get(outcome) || 0) + 1);
  if (speaking) return;
  const pause = Math.max(400, spoken + 5000 - performance.now());
  speaking = setTimeout(() => {
    speaking = 0;
    const now = performance.now();
    spoken = now;
    const log = logOf(route.limit, route);
    const parts = [[...heard].map(([outcome, n]) => n + " " + outcome).join(", ") + "."];
    heard.clear();
    if (log.max) parts.push(log.count(now).used + " of " + log.max + " " + held(log) + ".");
    if (route.until > now) parts.push("There is room in " + seconds(route.until - now) + ".");
    byId("said").textContent = parts.join(" ");
  }, pause);
}

// held says where the requests are that a log counts.
function held(log) {
  return log.flights ? "under way" : "in the window";
}

function seconds(ms) {
  const n = Math.ceil(ms / 1000);
  return n + (n === 1 ? " second" : " seconds");
}


// render shows everything as it is now, and says whether it will look different soon.
function render(now) {
  const route = chosen();
  const log = logOf(route.limit, route);
  let moving = log.forget(now - Timeline.span(log));
  route.denials = route.denials.filter((t) => t > now - Timeline.span(log));
  moving ||= route.denials.length > 0;

  show("route", route.method + " " + route.path + (route.key ? "  X-API-Key: " + route.key : ""));
  show("limit", log.max ? plural(log.max, "request") + (log.flights ? " at once" : " in any " + span(log.window)) : "A window that slides");
  show("held", log.flights ? "Under way" : "In the window");
  const { own, others, used } = log.count(now);
  show("used", log.max ? String(used) : "–");
  show("max", log.max ? "of " + log.max : "");
  show("shares", log.max ? (others ? own + " from here, " + others + " elsewhere" : used ? "all from here" : "all free") : "no answer yet");
  show("admitted", String(route.admitted));
  show("denied", String(route.denied));

  const left = route.until - now;
  if (route.until && left <= 0) {
    route.until = 0;
    if (!streaming && !speaking) byId("said").textContent = "There is room again.";
  }
  byId("wait-box").classList.toggle("waiting", left > 0);
  show("wait", left > 0 ? "in " + Math.ceil(left / 1000) + " s" : log.max ? "now" : "–");
  show("source", left > 0 ? route.source : "");
  moving ||= left > 0;
  timeline.draw(log, route.denials, now);
  const seen = log.max ? used + " of " + log.max + " " + held(log) + ", " + plural(route.denials.length, "denial") + " shown" : "nothing sent yet";
  byId("timeline").setAttribute("aria-label", "Timeline: " + seen);

  byId("also").hidden = !route.also;
  if (route.also) {
    const other = logOf(route.also, route);
    moving = other.forget(now - Timeline.span(other)) || moving;
    show("also-name", route.also);
    show("also-limit", plural(other.max, "request") + " in any " + span(other.window) + ", all routes together");
    show("also-used", other.count(now).used + " of " + other.max);
    alsoTimeline.draw(other, [], now);
  }
  return moving;
}

// span is a window in words.
function span(ms) {
  return { 1000: "second", 60000: "minute", 3600000: "hour", 86400000: "day" }[ms] || seconds(ms);
}

function plural(n, noun) {
  return n + " " + noun + (n === 1 ? "" : "s");
}

// wake shows what is new, and goes on showing until nothing moves: with each frame, or once a second for those who want no
// motion. Nothing runs on a page that is at rest.
let frame = 0;
let second = 0;
const timeline = new Timeline(byId("timeline"), false, wake);
const alsoTimeline = new Timeline(byId("also-timeline"), true, wake);
function wake() {
  if (!frame) frame = requestAnimationFrame(tick);
}
function tick() {
  frame = 0;
  clearTimeout(second);
  if (!render(performance.now())) return;
  if (still.matches) second = setTimeout(wake, 1000);
  else wake();
}

// The stream asks twice a second, of whatever route is chosen.
function toggleStream() {
  if (streaming) clearInterval(streaming);
  streaming = streaming ? 0 : setInterval(() => send(chosen()), 500);
  if (streaming) send(chosen());
  show("stream-does", streaming ? "Stop stream" : "Start stream");
  byId("stream").classList.toggle("on", streaming !== 0);
}

show("host", location.host);
document.title += " " + location.host;
byId("one").addEventListener("click", () => send(chosen()));
byId("burst").addEventListener("click", () => {
  const route = chosen();
  for (let i = 0; i < burst; i++) send(route);
});
byId("stream").addEventListener("click", toggleStream);
for (const { input } of routes) input.addEventListener("change", wake);
still.addEventListener("change", wake);
wake();
