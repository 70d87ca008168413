// The fields of an answer: draft-ietf-httpapi-ratelimit-headers-11, and Retry-After.

// parseList reads a list of strings with parameters, integers or strings without escapes, which is what both RateLimit fields
// are (RFC 9651): [{name, q, w}].
// What is no such list is no list at all.
function parseList(text) {
  const members = [];
  const member = /\s*"((?:[ !#-\[\]-~]|\\["\\])*)"((?:; *[a-z*][a-z0-9_.*-]*(?:=(?:"[^"\\]*"|[^,;"]*))?)*)\s*(,|$)/y;
  for (let more = text; more; ) {
    const match = member.exec(text);
    if (!match) return [];
    const read = { name: match[1].replace(/\\(["\\])/g, "$1") };
    for (const [, key, number, text] of match[2].matchAll(/; *([a-z0-9_.*-]+)=(?:(\d+)|"([^"]*)")/g)) read[key] = text ?? Number(number);
    members.push(read);
    more = match[3];
  }
  return members;
}

// readAnswer is what the fields say: the policies that the request has met, in their order, and the seconds of Retry-After.
function readAnswer(status, headers) {
  const states = parseList(headers.get("RateLimit") || "");
  const policies = parseList(headers.get("RateLimit-Policy") || "").flatMap(({ name, q, w, qu }) => {
    const state = states.find((s) => s.name === name);
    const flights = qu === "concurrent-requests"; // which has no window
    if (!state || !(q >= 1) || !(flights || w >= 1) || !(state.r >= 0)) return [];
    return [{ name, max: q, flights, window: flights ? 0 : w * 1000, remaining: state.r, wait: state.t || 0 }];
  });
  const denied = status === 429;
  // Middleware runs one after the other and stops at the one that denies: its policy is the last that the answer tells of,
  // and those before it have been charged.
  policies.forEach((p, i) => (p.charged = status < 300 || (denied && i < policies.length - 1)));
  return { denied, policies, retryAfter: Number(headers.get("Retry-After")) || 0 };
}
