// Reading the response fields RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-11) and Retry-After.

// parseList parses a list of strings with parameters, which both RateLimit fields are (RFC 9651): [{name, q, w}].
// Parameters are integers or strings without escapes. It returns an empty list if the text is anything else.
function parseList(text) {
  const members = [];
  const member = /\s*"((?:[ !#-\[\]-~]|\\["\\])*)"((?:; *[a-z*][a-z0-9_.*-]*(?:=(?:"[^"\\]*"|[^,;"]*))?)*)\s*(,|$)/y;
  for (let more = text; more; ) {
    const match = member.exec(text);
    if (!match) return [];
    const read = { name: match[1].replace(/\\(["\\])/g, "$1") };
    for (const [, key, number, text] of match[2].matchAll(/; *([a-z0-9_.*-]+)=(?:(\d+)|"([^"]*)")/g)) {
      read[key] = text ?? Number(number);
    }
    members.push(read);
    more = match[3];
  }
  return members;
}

// readResponse returns what the fields report: the policies that the request passed, in their order, and the seconds of
// Retry-After.
function readResponse(status, headers) {
  const states = parseList(headers.get("RateLimit") || "");
  const policies = parseList(headers.get("RateLimit-Policy") || "").flatMap(({ name, q, w, qu }) => {
    const state = states.find((s) => s.name === name);
    const inFlight = qu === "concurrent-requests"; // has no window
    if (!state || !(q >= 1) || !(inFlight || w >= 1) || !(state.r >= 0)) return [];
    return [{ name, max: q, inFlight, window: inFlight ? 0 : w * 1000, remaining: state.r, wait: state.t || 0 }];
  });
  const denied = status === 429;
  // Each middleware runs after the previous one, and the one that denies is the last. Its policy is therefore the last
  // in the response, and the policies before it have been charged.
  policies.forEach((p, i) => (p.charged = status < 300 || (denied && i < policies.length - 1)));
  return { denied, policies, retryAfter: Number(headers.get("Retry-After")) || 0 };
}
