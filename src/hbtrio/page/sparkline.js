// Round trips as a line, as many as were asked for while the page watched.

import { setText, svg } from "./dom.js";

const [WIDTH, HEIGHT] = [240, 48];
const SAMPLES = 120;

/** The line is drawn as wide as if there were this many. */
const LEAST = 20;

export class Sparkline {
  constructor() {
    this._samples = [];
    this._line = svg("polyline", { fill: "none", "vector-effect": "non-scaling-stroke" });
    this._text = svg("title");
    const view = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", class: "sparkline" };
    this.node = svg("svg", view, this._text, this._line);
  }

  /** Adds a round trip in milliseconds and draws. */
  add(value) {
    this._samples = [...this._samples, value].slice(-SAMPLES);
    const most = Math.max(1, ...this._samples);
    const places = Math.max(LEAST, this._samples.length);
    const step = WIDTH / (places - 1);
    const from = places - this._samples.length;
    const points = this._samples.map(
      (one, index) => `${((from + index) * step).toFixed(1)},${(HEIGHT - 3 - (one / most) * (HEIGHT - 6)).toFixed(1)}`,
    );
    // A single point has no line.
    if (points.length === 1) points.push(points[0].replace(/^[^,]+/, String(WIDTH - step)));
    this._line.setAttribute("points", points.join(" "));
    const least = Math.min(...this._samples);
    setText(this._text, `Round trips seen: ${least} to ${Math.max(...this._samples)} ms, last ${value} ms`);
  }
}
