// slack is how far two clocks, each running at its own rate, may drift apart in one window.
const slack = 20;

// A Log is this page's view of one log of the server. It contains the requests that the page sent, and those sent
// elsewhere, which the page infers from the remaining room in its responses. Times are in milliseconds of the page's
// clock.
class Log {
  max = 0; // unknown before the first response
  window = 0;
  inFlight = false; // it limits concurrent requests, and window is only the time that the timeline shows

  // Each entry is an admitted request {at, from, end, own, rank}. The page knows the time of its own requests. Requests
  // from elsewhere were sent between from and at. rank is the number of requests in the window with this one.
  entries = [];

  #responses = []; // to requests that were charged or denied here, for as long as they matter
  #unsettled = []; // responses that arrived while other requests were pending

  // observe updates the log from the response to a request. pending is the number of the page's other requests that
  // have no response yet: the server may have counted them before this one or not.
  observe({ sent, received }, policy, pending) {
    this.max = policy.max;
    this.window = policy.window;
    const used = policy.max - policy.remaining;
    const response = { sent, received, at: (sent + received) / 2, used, charged: policy.charged };
    this.#responses.push(response);
    this.#unsettled.push(response);
    this.#settle(response, pending);
    if (response.charged) {
      const { at } = response;
      this.entries.push({ at, from: at, end: at + this.window, own: true, rank: used });
      // If the server reports fewer, the entries that were about to expire had expired.
      const latest = received + received - sent + slack;
      const expiring = this.entries.filter((e) => e.at < at && at < e.end && e.end < latest);
      for (const e of expiring.slice(0, Math.max(0, this.count(at).used - used))) e.end = at;
    }
    if (pending === 0) {
      // The responses to all concurrent requests are known now, and with them which requests were charged.
      for (const r of this.#unsettled) this.#settle(r, 0);
      this.#unsettled = [];
    }
  }

  // observeInFlight is observe for a limit on concurrent requests. The response has begun, and the request counts until
  // the promise ended resolves.
  observeInFlight({ received }, policy, ended) {
    this.max = policy.max;
    this.window = 10_000;
    this.inFlight = true;
    const used = policy.max - policy.remaining;
    const { own, others } = this.count(received);
    // No response reports when requests from elsewhere end, so they are shown for the second that Retry-After names.
    for (let i = own + others + (policy.charged ? 1 : 0); i < used; i++) {
      this.entries.push({ at: received, from: received, end: received + 1000, own: false, rank: i + 1 });
    }
    if (!policy.charged) return;
    const entry = { at: received, from: received, end: Infinity, own: true, rank: used };
    this.entries.push(entry);
    ended.then(() => (entry.end = performance.now()));
  }

  // settle compares the count in a response with the page's own requests. The rest was sent elsewhere. It is known only
  // within bounds: the page does not know in which order the server saw requests that were sent at about the same time,
  // or about one window apart.
  #settle(response, pending) {
    let certain = response.charged ? 1 : 0;
    let possible = pending;
    for (const r of this.#responses) {
      if (r === response || !r.charged) continue;
      if (r.received < response.sent && response.received < r.sent + this.window - slack) certain++;
      else if (r.sent <= response.received && response.sent <= r.received + this.window + slack) possible++;
    }
    const most = Math.max(0, response.used - certain);
    const least = Math.max(0, most - possible);
    const known = this.entries.filter((e) => !e.own && e.at <= response.at && response.at < e.end);
    for (let i = known.length; i < least; i++) {
      // The response to a concurrent request may have revealed this entry with a slightly later time.
      const later = this.entries.find((e) => !e.own && e.from < response.at && response.at < e.at);
      if (later) {
        later.at = response.at;
        later.end = response.at + this.window;
        continue;
      }
      const earlier = this.#responses.filter((r) => r.received < response.sent);
      const last = earlier.reduce((last, r) => Math.max(last, r.at), 0);
      const from = Math.max(last, response.at - this.window); // it was sent after the last response that lacks it
      this.entries.push({ at: response.at, from, end: response.at + this.window, own: false, rank: i + 1 });
    }
    // Entries that the server no longer counts were sent earlier than the page had assumed.
    for (const e of known.slice(0, Math.max(0, known.length - most))) e.end = response.at;
  }

  // count returns the number of requests in the window at a time: from this page, from elsewhere, and both.
  count(now) {
    let own = 0;
    let others = 0;
    for (const e of this.entries) if (e.at <= now && now < e.end) e.own ? own++ : others++;
    return { own, others, used: own + others };
  }

  // forget drops the entries that ended before a time, and reports whether any are left.
  forget(before) {
    this.entries = this.entries.filter((e) => e.end > before);
    this.#responses = this.#responses.filter((r) => r.at > before - this.window);
    return this.entries.length > 0;
  }
}
