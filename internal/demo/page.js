// The page sends requests, passes their responses to the logs, and draws the logs as time goes on.

const byId = (id) => document.getElementById(id);
const show = (id, text) => {
  if (byId(id).textContent !== text) byId(id).textContent = text;
};

const logs = new Map(); // by the limit's name, and by the key if the page sends one
const logOf = (name, route) => {
  const id = route.key && name === route.limit ? name + " of " + route.key : name;
  if (!logs.has(id)) logs.set(id, new Log());
  return logs.get(id);
};

const routes = [...document.querySelectorAll("input[name=route]")].map((input) => ({
  input,
  ...input.dataset, // method, path, limit, per, key
  denials: [], // when requests were denied
  until: 0, // when the server admits a request again
  source: "", // the field that until is from
  reported: 0, // when the response with that field arrived
  also: "", // another limit that its requests count toward
  admitted: 0,
  denied: 0,
}));
const chosen = () => routes.find((r) => r.input.checked);

const burst = 15;
let pending = 0; // requests without a response
let streaming = 0; // the stream's timer

// send sends one request, and records what its response reports.
async function send(route) {
  const exchange = { sent: performance.now(), received: 0 };
  pending++;
  let response, ended;
  try {
    response = await fetch(route.path, {
      method: route.method,
      headers: route.key ? { "X-API-Key": route.key } : {},
      cache: "no-store",
    });
    exchange.received = performance.now();
    ended = response.arrayBuffer().catch(() => {}); // reading it all frees the connection
  } catch {
    response = null;
  }
  pending--;
  if (!response) {
    showResponse(route, null);
    announce(route, "without a response");
    wake();
    return;
  }
  const { denied, policies, retryAfter } = readResponse(response.status, response.headers);
  for (const policy of policies) {
    const log = logOf(policy.name, route);
    if (policy.inFlight) log.observeInFlight(exchange, policy, ended);
    else log.observe(exchange, policy, pending);
    if (policy.name !== route.limit) route.also = policy.name;
  }
  if (denied) {
    route.denied++;
    route.denials.push((exchange.sent + exchange.received) / 2);
    route.denials.sort((a, b) => a - b);
  } else if (response.ok) {
    route.admitted++;
  }
  if (denied) {
    const by = policies.at(-1)?.name || route.limit; // the last one denied it
    const name = by === route.limit ? "" : " (" + by + ")";
    setWait(route, exchange.received, retryAfter, "Retry-After: " + retryAfter + name);
  } else if (exchange.sent > route.reported) {
    // Otherwise this request was sent together with denied ones, and the server admitted it before them.
    const full = Math.max(0, ...policies.map((p) => p.wait));
    if (full) setWait(route, exchange.received, full, "RateLimit: t=" + full);
    else route.until = 0;
  }
  showResponse(route, response);
  announce(route, denied ? "denied" : response.ok ? "admitted" : "with status " + response.status);
  wake();
}

// setWait records that a route has no room for some seconds.
function setWait(route, received, seconds, source) {
  route.reported = received;
  route.until = received + seconds * 1000;
  route.source = source;
}

// showResponse shows a response's status and fields as they arrived, or that there is none.
function showResponse(route, response) {
  if (route !== chosen()) return;
  const part = (text, name) => Object.assign(document.createElement("span"), { textContent: text, className: name });
  const lines = [];
  if (!response) lines.push(part("No response. Is the server running?", "denied"));
  else {
    const reason = { 200: " OK", 429: " Too Many Requests" }[response.status] || "";
    lines.push(part(response.status + reason, response.ok ? "admitted" : "denied"));
    for (const name of ["RateLimit", "RateLimit-Policy", "Retry-After"]) {
      if (response.headers.has(name)) lines.push(part("\n" + name + ": ", "name"), response.headers.get(name));
    }
  }
  byId("response").replaceChildren(...lines);
}

// announce tells screen readers the outcome of a request. It collects outcomes, so that a burst is one announcement,
// and makes at most one announcement in five seconds.
const outcomes = new Map(); // the number of each since the last announcement
let announcing = 0; // the timer of the next announcement
let announced = -Infinity; // when the last one was
function announce(route, outcome) {
  outcomes.set(outcome, (outcomes.get(outcome) || 0) + 1);
  if (announcing) return;
  const pause = Math.max(400, announced + 5000 - performance.now());
  announcing = setTimeout(() => {
    announcing = 0;
    const now = performance.now();
    announced = now;
    const log = logOf(route.limit, route);
    const parts = [[...outcomes].map(([outcome, n]) => n + " " + outcome).join(", ") + "."];
    outcomes.clear();
    if (log.max) parts.push(usage(log, now) + ".");
    const left = inSeconds(route.until - now);
    if (left > 0) parts.push("Room for one more in " + plural(left, "second") + ".");
    byId("announcement").textContent = parts.join(" ");
  }, pause);
}

// hints are the lines of text in a timeline whose limit is not known.
const hints = {
  unknown: ["Send a request: the headers of", "the response describe the limit."],
  denied: ["Another limit denied the requests", "before they reached this one."],
};

// render draws the state at a time, and reports whether the page will look different soon.
function render(now) {
  const route = chosen();
  const log = logOf(route.limit, route);
  const { own, others, used } = log.count(now);
  let moving = log.forget(now - Timeline.span(log));
  route.denials = route.denials.filter((t) => t > now - Timeline.span(log));
  moving ||= route.denials.length > 0;

  show("route", route.method + " " + route.path + (route.key ? "  X-API-Key: " + route.key : ""));
  show("limit", log.max ? limitText(log) : "Limit not known yet");
  show("per", "counted per " + route.per);
  show("counted", log.inFlight ? "In flight" : "In the window");
  show("used", log.max ? String(used) : "–");
  show("max", log.max ? "of " + log.max : "");
  show("shares", log.max ? sharesText(own, others) : "not known yet");
  show("admitted", String(route.admitted));
  show("denied", String(route.denied));

  const left = route.until - now;
  const full = log.inFlight && used >= log.max; // Retry-After is then a second, and no response tells when one ends
  if (route.until && left <= 0) {
    route.until = 0;
    if (!streaming && !announcing && !full) byId("announcement").textContent = "Room for one more now.";
  }
  byId("wait-box").classList.toggle("waiting", full || left > 0);
  show("wait", full ? "not yet" : left > 0 ? "in " + inSeconds(left) + " s" : log.max ? "now" : "–");
  show("source", left > 0 ? route.source : full ? "until a request ends" : "");
  moving ||= left > 0;
  const hint = route.denied ? hints.denied : hints.unknown;
  timeline.draw(log, route.denials, now, hint);
  timeline.label(log.max ? usage(log, now) + ", " + plural(route.denials.length, "denial") : hint.join(" "));

  byId("also").hidden = !route.also;
  if (route.also) {
    const other = logOf(route.also, route);
    moving = other.forget(now - Timeline.span(other)) || moving;
    show("also-name", route.also);
    show("also-limit", limitText(other) + " on all routes, including those that " + route.limit + " denies");
    show("also-used", other.count(now).used + " of " + other.max);
    alsoTimeline.draw(other, [], now, []);
    alsoTimeline.label(usage(other, now));
  }
  return moving;
}

// limitText returns what a log allows, in words.
function limitText(log) {
  if (log.inFlight) return plural(log.max, "concurrent request");
  const units = { 1000: "second", 60_000: "minute", 3600_000: "hour", 86400_000: "day" };
  return plural(log.max, "request") + " in any " + (units[log.window] || plural(inSeconds(log.window), "second"));
}

// sharesText returns, in words, how many of the requests in the window were sent by this page, and elsewhere.
function sharesText(own, others) {
  if (others) return own + " from this page, " + others + " elsewhere";
  return own ? "all from this page" : "all available";
}

// usage returns how much of a limit is used, in words.
function usage(log, now) {
  return log.count(now).used + " of " + log.max + (log.inFlight ? " in flight" : " in the window");
}

// inSeconds returns milliseconds as whole seconds, rounded up.
function inSeconds(ms) {
  return Math.ceil(ms / 1000);
}

function plural(n, noun) {
  return n + " " + noun + (n === 1 ? "" : "s");
}

// wake draws the page, and goes on as long as anything moves: in every frame, or once a second if the user prefers
// reduced motion. Nothing runs on a page at rest.
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

// toggleStream starts or stops the stream, which sends two requests per second to the chosen route.
function toggleStream() {
  if (streaming) clearInterval(streaming);
  streaming = streaming ? 0 : setInterval(() => send(chosen()), 500);
  if (streaming) send(chosen());
  show("stream", streaming ? "Stop sending" : "Send 2 per second");
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
