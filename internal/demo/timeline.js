// A Timeline draws a Log: time to the right, up to now; the number in the window upwards, up to Max. A request is where it
// came: admitted, at the count that it made, or denied, above Max.
class Timeline {
  static past = 0.22; // of the width is behind the window's edge

  #canvas;
  #context;
  #small;
  #colors;
  #width = 0;
  #height = 0;

  constructor(canvas, small, changed) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    this.#small = small;
    new ResizeObserver(changed).observe(canvas);
    addEventListener("resize", changed); // zooming, too, and another screen
    const colors = () => {
      const style = getComputedStyle(document.documentElement);
      this.#colors = (name) => style.getPropertyValue("--" + name);
      changed();
    };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", colors);
    colors();
  }

  // fit gives the canvas as many pixels as the screen has where it is.
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

  // span is how much time a log's timeline shows.
  static span(log) {
    return log.window / (1 - Timeline.past);
  }

  // draw shows a log at a time, with when requests were denied; a log of window 0 is one of which nothing is known.
  draw(log, denials, now) {
    this.#fit();
    const c = this.#context;
    const color = this.#colors;
    const w = this.#width;
    const h = this.#height;
    const small = this.#small;
    const box = small ? { left: 0, right: w - 1, top: 6, bottom: h - 1 } : { left: 0, right: w - 22, top: 92, bottom: h - 38 };
    const x0 = box.left + (box.right - box.left) * Timeline.past; // the window's edge
    const x = (t) => box.right - ((now - t) / (log.window || 1)) * (box.right - x0);
    const step = (box.bottom - box.top) / (log.max || 10);
    const y = (n) => box.bottom - n * step;
    c.clearRect(0, 0, w, h);

    c.fillStyle = color("window");
    c.fillRect(x0, small ? 0 : 1, box.right - x0, box.bottom - (small ? 0 : 1));
    this.#area(log, now, box, x, y);
    c.lineWidth = 1;
    line(c, color("line"), box.left, box.bottom + 0.5, w, box.bottom + 0.5);
    line(c, color("quiet"), x0, small ? 0 : 1, x0, box.bottom + (small ? 0 : 6));
    if (!small) line(c, color("quiet"), box.right, box.bottom, box.right, box.bottom + 6);
    c.setLineDash([3, 4]);
    line(c, color("quiet"), box.left, Math.round(y(log.max || 10)) - 0.5, w, Math.round(y(log.max || 10)) - 0.5);
    c.setLineDash([]);
    if (!small) {
      this.#words(log, box, x0, y);
      this.#marks(log, box, x0, x, y, step, now);
      this.#denials(denials, box, x0, x, now);
    }
  }

  // area fills what is below the count, which steps up where a request came and down where one has been in for a window.
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
    c.fillStyle = this.#colors("admitted");
    c.fill(filled);
    c.globalAlpha = 0.55;
    c.lineWidth = 1.5;
    c.lineJoin = "round";
    c.strokeStyle = this.#colors("admitted");
    c.stroke(outline);
    c.globalAlpha = 1;
  }

  // marks draws requests at the count that each made. Behind the edge they fade: they hold no place any more.
  #marks(log, box, x0, x, y, step, now) {
    const c = this.#context;
    const radius = Math.max(1.5, Math.min(6, step * 0.36));
    for (const e of log.entries) {
      const at = x(e.at);
      if (at < box.left - radius) continue;
      const gone = e.end <= now;
      c.globalAlpha = gone ? 0.28 : 1;
      if (e.own) {
        c.fillStyle = this.#colors("admitted");
        circle(c, at, y(e.rank), radius + (still.matches ? 0 : grow(now - e.at) * radius));
        c.fill();
        continue;
      }
      // Somewhere on the thin line, and at the ring at the latest.
      const since = Math.max(x(e.from), box.left, gone ? box.left : x0);
      c.globalAlpha = gone ? 0.12 : 0.4;
      c.lineWidth = 1;
      if (at - radius > since) line(c, this.#colors("others"), since, y(e.rank), at - radius, y(e.rank));
      c.globalAlpha = gone ? 0.28 : 1;
      c.fillStyle = this.#colors("panel");
      c.strokeStyle = this.#colors("others");
      c.lineWidth = Math.min(1.75, radius * 0.6);
      circle(c, at, y(e.rank), radius - c.lineWidth / 2);
      c.fill();
      c.stroke();
    }
    c.globalAlpha = 1;
  }

  // denials draws crosses above Max, those of one moment above each other.
  #denials(denials, box, x0, x, now) {
    const c = this.#context;
    const gap = 13;
    const rows = 4;
    c.save();
    c.strokeStyle = this.#colors("denied");
    c.fillStyle = this.#colors("denied");
    c.font = "600 12px " + getComputedStyle(document.body).fontFamily;
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
    // More than there are rows for are a number, and numbers that would touch are one.
    const more = [];
    const flush = () => {
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
        flush();
        first = t;
        row = 0;
      }
      if (x(t) > box.left) draw(x(first), row);
      row++;
    }
    flush();
    c.globalAlpha = 1;
    for (const m of more) c.fillText("+" + m.count, (m.from + m.to) / 2, box.top - 13 - rows * gap);
    c.restore();
  }

  #words(log, box, x0, y) {
    const c = this.#context;
    const family = getComputedStyle(document.body).fontFamily;
    c.font = "12px " + family;
    c.fillStyle = this.#colors("quiet");
    c.textAlign = "left";
    c.fillText(log.max ? "Max " + log.max : "Max", 14, y(log.max || 10) - 8);
    c.textAlign = "center";
    c.fillText(log.window ? log.window / 1000 + " s ago" : "one window ago", x0, box.bottom + 23);
    c.fillText(log.flights ? "under way" : "the window", (x0 + box.right) / 2, box.bottom + 23);
    if (!log.max) {
      c.font = "14px " + family;
      c.fillText("Send a request: its answer", (x0 + box.right) / 2, (box.top + box.bottom) / 2 - 8);
      c.fillText("tells what the limit is.", (x0 + box.right) / 2, (box.top + box.bottom) / 2 + 12);
      c.font = "12px " + family;
    }
    c.textAlign = "right";
    c.fillText("now", box.right + 8, box.bottom + 23);
  }
}

const still = matchMedia("(prefers-reduced-motion: reduce)");

// grow is by how much a mark is larger than it will be, this long after it came.
function grow(age) {
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
