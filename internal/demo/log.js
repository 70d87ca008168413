// slack is by how much two clocks, each at its own pace, may differ at the end of a window.
const slack = 20;

// A Log is what this page can know of one log of the server: its own requests, which it has sent, and those of others, which it
// hears of by the room that they leave. Times are in milliseconds of this page's clock.
class Log {
  max = 0; // unknown until the first answer
  window = 0;
  flights = false; // it limits requests under way, and the window is only what is shown
  entries = []; // {at, from, end, own, rank}: an admitted request, its place above the others in the window when it came
  #answers = []; // to the requests charged or denied here, as long as they matter
  #unsettled = []; // those among them that came while others were under way

  // hear takes what the answer to a request, sent and received when asked says, tells of this log. pending is how many of this
  // page's other requests are under way: the server may have counted them before this one, or not.
  hear({ sent, received }, policy, pending) {
    this.max = policy.max;
    this.window = policy.window;
    const answer = { sent, received, at: (sent + received) / 2, used: policy.max - policy.remaining, charged: policy.charged };
    this.#answers.push(answer);
    this.#unsettled.push(answer);
    this.#settle(answer, pending);
    if (answer.charged) {
      this.entries.push({ at: answer.at, from: answer.at, end: answer.at + this.window, own: true, rank: answer.used });
      // What was about to leave had left before, if the server says that there are fewer.
      const leaving = this.entries.filter((e) => e.at < answer.at && answer.at < e.end && e.end < received + received - sent + slack);
      for (const e of leaving.slice(0, Math.max(0, this.count(answer.at).used - answer.used))) e.end = answer.at;
    }
    if (pending === 0) {
      // Now it is known which of those that were under way together were charged.
      for (const a of this.#unsettled) this.#settle(a, 0);
      this.#unsettled = [];
    }
  }

  // fly is hear for a limit of requests under way. The answer has begun, and the request counts until it has ended.
  fly({ received }, policy, ended) {
    this.max = policy.max;
    this.window = 10_000;
    this.flights = true;
    const used = policy.max - policy.remaining;
    const { own, others } = this.count(received);
    // Nobody tells when those of others end, so they are shown for as long as Retry-After says.
    for (let i = own + others + (policy.charged ? 1 : 0); i < used; i++) {
      this.entries.push({ at: received, from: received, end: received + 1000, own: false, rank: i + 1 });
    }
    if (!policy.charged) return;
    const entry = { at: received, from: received, end: Infinity, own: true, rank: used };
    this.entries.push(entry);
    ended.then(() => (entry.end = performance.now()));
  }

  // settle compares what one answer says is used with this page's own requests: the rest is others'. It is between two numbers,
  // since of requests at about the same time, or about a window apart, the server knows the order and this page does not.
  #settle(answer, pending) {
    let surely = answer.charged ? 1 : 0;
    let perhaps = pending;
    for (const a of this.#answers) {
      if (a === answer || !a.charged) continue;
      if (a.received < answer.sent && answer.received < a.sent + this.window - slack) surely++;
      else if (a.sent <= answer.received && answer.sent <= a.received + this.window + slack) perhaps++;
    }
    const most = Math.max(0, answer.used - surely);
    const least = Math.max(0, most - perhaps);
    const known = this.entries.filter((e) => !e.own && e.at <= answer.at && answer.at < e.end);
    for (let i = known.length; i < least; i++) {
      // Another answer, to a request under way at the same time, may have told of it as of a moment later.
      const heard = this.entries.find((e) => !e.own && e.from < answer.at && answer.at < e.at);
      if (heard) {
        heard.at = answer.at;
        heard.end = answer.at + this.window;
        continue;
      }
      const before = this.#answers.filter((a) => a.received < answer.sent).reduce((last, a) => Math.max(last, a.at), 0);
      const from = Math.max(before, answer.at - this.window); // they came since then
      this.entries.push({ at: answer.at, from, end: answer.at + this.window, own: false, rank: i + 1 });
    }
    for (const e of known.slice(0, Math.max(0, known.length - most))) e.end = answer.at; // they had come earlier than was known
  }

  // count is how many are in the window at a time, of this page and of others, as far as is known.
  count(now) {
    let own = 0;
    let others = 0;
    for (const e of this.entries) if (e.at <= now && now < e.end) e.own ? own++ : others++;
    return { own, others, used: own + others };
  }

  // forget drops what ended before a time, and says whether anything is left.
  forget(before) {
    this.entries = this.entries.filter((e) => e.end > before);
    this.#answers = this.#answers.filter((a) => a.at > before - this.window);
    return this.entries.length > 0;
  }
}
