// A Timeline draws a Log. Time runs to the right and ends now; the number of requests in the window runs upwards, to
// Max. An admitted request is a dot at the number in the window with it. A denied one is a cross above Max.
class Timeline {
  static past = 0.22; // the part of the width that shows time before the window

  #canvas;
  #context;
  #small;
  #colors; // by the names of the style's properties
  #family; // of fonts
  #width = 0;
  #height = 0;

  // The constructor takes what to call when the timeline must be drawn again although its log has not changed.
  constructor(canvas, small, changed) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    this.#small = small;
    new ResizeObserver(changed).observe(canvas);
    addEventListener("resize", changed); // also after zooming, and on another screen
    const readStyle = () => {
      const style = getComputedStyle(document.body);
      const names = ["admitted", "denied", "others", "window", "panel", "line", "quiet"];
      this.#colors = Object.fromEntries(names.map((name) => [name, style.getPropertyValue("--" + name)]));
      this.#family = style.fontFamily;
      changed();
    };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", readStyle);
    readStyle();
  }

  // span returns how much time the timeline of a log shows.
  static span(log) {
    return log.window / (1 - Timeline.past);
  }

  // label describes the timeline for screen readers.
  label(text) {
    const label = "Timeline: " + text;
    if (this.#canvas.getAttribute("aria-label") !== label) this.#canvas.setAttribute("aria-label", label);
  }

  // draw draws a log at a time, and crosses at the times of denials. While no response has described the log, its Max
  // is 0, and draw writes the lines of hint.
  draw(log, denials, now, hint) {
    this.#fit();
    const c = this.#context;
    const colors = this.#colors;
    const w = this.#width;
    const h = this.#height;
    const small = this.#small;
    const box = small
      ? { left: 0, right: w - 1, top: 6, bottom: h - 1 }
      : { left: 0, right: w - 22, top: 92, bottom: h - 38 };
    const x0 = box.left + (box.right - box.left) * Timeline.past; // the start of the window
    const x = (t) => box.right - ((now - t) / (log.window || 1)) * (box.right - x0);
    const step = (box.bottom - box.top) / (log.max || 10);
    const y = (n) => box.bottom - n * step;
    c.clearRect(0, 0, w, h);

    c.fillStyle = colors.window;
    c.fillRect(x0, small ? 0 : 1, box.right - x0, box.bottom - (small ? 0 : 1));
    this.#area(log, now, box, x, y);
    c.lineWidth = 1;
    line(c, colors.line, box.left, box.bottom + 0.5, w, box.bottom + 0.5);
    line(c, colors.quiet, x0, small ? 0 : 1, x0, box.bottom + (small ? 0 : 6));
    if (!small) line(c, colors.quiet, box.right, box.bottom, box.right, box.bottom + 6);
    c.setLineDash([3, 4]);
    line(c, colors.quiet, box.left, Math.round(y(log.max || 10)) - 0.5, w, Math.round(y(log.max || 10)) - 0.5);
    c.setLineDash([]);
    if (!small) {
      this.#texts(log, box, x0, y, hint);
      this.#requests(log, box, x0, x, y, step, now);
      this.#denials(denials, box, x0, x, now);
    }
  }

  // fit gives the canvas one pixel for each of the screen's.
  #fit() {
    const ratio = devicePixelRatio;
    const width = Math.round(this.#canvas.clientWidth * ratio);
    const height = Math.round(this.#canvas.clientHeight * ratio);
    if (this.#canvas.width === width && this.#canvas.height === height) return;
    this.#canvas.width = width;
    this.#canvas.height = height;
    this.#context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.#width = width / ratio;
    this.#height = height / ratio;
  }

  // area fills the space below the count, which steps up when a request is admitted and down when it leaves the window.
  #area(log, now, box, x, y) {
    const c = this.#context;
    const steps = [];
    for (const e of log.entries) steps.push([e.at, 1], [e.end, -1]);
    steps.sort((a, b) => a[0] - b[0] || b[1] - a[1]);
    const begin = now - Timeline.span(log);
    let count = 0;
    const outline = new Path2D();
    let started = false;
    for (const [at, change] of steps) {
      if (at > now) break;
      if (at > begin) {
        if (!started) outline.moveTo(box.left, y(count));
        started = true;
        outline.lineTo(x(at), y(count));
        outline.lineTo(x(at), y(count + change));
      }
      count += change;
    }
    if (!started && count === 0) return;
    if (!started) outline.moveTo(box.left, y(count));
    outline.lineTo(box.right, y(count));
    const filled = new Path2D(outline);
    filled.lineTo(box.right, y(0));
    filled.lineTo(box.left, y(0));
    c.globalAlpha = 0.12;
    c.fillStyle = this.#colors.admitted;
    c.fill(filled);
    c.globalAlpha = 0.55;
    c.lineWidth = 1.5;
    c.lineJoin = "round";
    c.strokeStyle = this.#colors.admitted;
    c.stroke(outline);
    c.globalAlpha = 1;
  }

  // requests draws each admitted request. Those that have left the window are faint.
  #requests(log, box, x0, x, y, step, now) {
    const c = this.#context;
    const radius = Math.max(1.5, Math.min(6, step * 0.36));
    for (const e of log.entries) {
      const at = x(e.at);
      if (at < box.left - radius) continue;
      const ended = e.end <= now;
      c.globalAlpha = ended ? 0.28 : 1;
      if (e.own) {
        c.fillStyle = this.#colors.admitted;
        circle(c, at, y(e.rank), radius + (still.matches ? 0 : growth(now - e.at) * radius));
        c.fill();
        continue;
      }
      // A request from elsewhere is a ring at the latest possible time, with a line that begins at the earliest.
      const since = Math.max(x(e.from), box.left, ended ? box.left : x0);
      c.globalAlpha = ended ? 0.12 : 0.4;
      c.lineWidth = 1;
      if (at - radius > since) line(c, this.#colors.others, since, y(e.rank), at - radius, y(e.rank));
      c.globalAlpha = ended ? 0.28 : 1;
      c.fillStyle = this.#colors.panel;
      c.strokeStyle = this.#colors.others;
      c.lineWidth = Math.min(1.75, radius * 0.6);
      circle(c, at, y(e.rank), radius - c.lineWidth / 2);
      c.fill();
      c.stroke();
    }
    c.globalAlpha = 1;
  }

  // denials draws a cross for each denied request. Those at about the same time form a column; a number above it counts
  // those for which the column has no row.
  #denials(denials, box, x0, x, now) {
    const c = this.#context;
    const gap = 13;
    const rows = 4;
    c.save();
    c.strokeStyle = this.#colors.denied;
    c.fillStyle = this.#colors.denied;
    c.font = "600 12px " + this.#family;
    c.textAlign = "center";
    c.lineCap = "round";
    const pixel = x(now) - x(now - 1);
    let first = -Infinity;
    let row = 0;
    const draw = (at, row) => {
      const middle = box.top - 15 - row * gap;
      c.globalAlpha = at < x0 ? 0.28 : 1;
      if (row >= rows) return;
      const r = 4;
      c.lineWidth = 2;
      line(c, null, at - r, middle - r, at + r, middle + r);
      line(c, null, at - r, middle + r, at + r, middle - r);
    };
    const more = []; // numbers above columns; those that would touch are merged
    const endColumn = () => {
      if (row <= rows) return;
      const at = x(first);
      const last = more.at(-1);
      if (last && at - last.to < 30) {
        last.to = at;
        last.count += row - rows;
      } else if (at > box.left) more.push({ from: at, to: at, count: row - rows });
    };
    for (const t of denials) {
      if ((t - first) * pixel >= 11) {
        endColumn();
        first = t;
        row = 0;
      }
      if (x(t) > box.left) draw(x(first), row);
      row++;
    }
    endColumn();
    c.globalAlpha = 1;
    for (const m of more) c.fillText("+" + m.count, (m.from + m.to) / 2, box.top - 13 - rows * gap);
    c.restore();
  }

  // texts names the limit and the times.
  #texts(log, box, x0, y, hint) {
    const c = this.#context;
    const middle = (x0 + box.right) / 2;
    c.font = "12px " + this.#family;
    c.fillStyle = this.#colors.quiet;
    c.textAlign = "left";
    c.fillText(log.max ? "Max " + log.max : "Max", 14, y(log.max || 10) - 8);
    c.textAlign = "center";
    c.fillText(log.window ? log.window / 1000 + " s ago" : "one window ago", x0, box.bottom + 23);
    if (!log.inFlight) c.fillText("the window", middle, box.bottom + 23);
    if (!log.max) {
      c.font = "14px " + this.#family;
      hint.forEach((text, i) => c.fillText(text, middle, (box.top + box.bottom) / 2 - 8 + 20 * i));
      c.font = "12px " + this.#family;
    }
    c.textAlign = "right";
    c.fillText("now", box.right + 8, box.bottom + 23);
  }
}

const still = matchMedia("(prefers-reduced-motion: reduce)");

// growth returns by how much a dot is enlarged, at an age in milliseconds.
function growth(age) {
  return age < 0 || age > 240 ? 0 : (1 - age / 240) ** 2;
}

function line(c, color, x1, y1, x2, y2) {
  if (color) c.strokeStyle = color;
  c.beginPath();
  c.moveTo(x1, y1);
  c.lineTo(x2, y2);
  c.stroke();
}

function circle(c, x, y, radius) {
  c.beginPath();
  c.arc(x, y, Math.max(0.5, radius), 0, 2 * Math.PI);
}
