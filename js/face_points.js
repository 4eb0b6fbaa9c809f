/** Five points of a face that no detector finds, clicked in its photo; they set face_points. */
import { chain, isLinked, make, setWidget, widgetOf } from "./panel.js";

const WIDGET = "face_points";
const NAMES = [
  "the eye on the left",
  "the eye on the right",
  "the tip of the nose",
  "the left corner of the mouth",
  "the right corner of the mouth",
];

/** Return the points [x, y] in percent that a text gives, none if it does not give five. */
function read(text) {
  const numbers = String(text ?? "").match(/-?\d+(\.\d+)?/g)?.map(Number) ?? [];
  if (numbers.length !== 2 * NAMES.length) return [];
  return NAMES.map((_, i) => numbers.slice(2 * i, 2 * i + 2));
}

function write(points) {
  return points.map(([x, y]) => `${x.toFixed(1)}, ${y.toFixed(1)}`).join("; ");
}

export class FacePoints {
  /** `changed` is called when there is something else to say. */
  constructor(node, changed) {
    this.node = node;
    this.changed = changed;
    this.asked = false; // a face is to be given by clicks
    this.clicked = []; // so far
    this.layer = make("div", { class: "pulid-points" });
    this.layer.addEventListener("click", (event) => this.add(event));
    this.button = make("button", { type: "button", class: "pulid-turn" });
    this.button.addEventListener("click", () => this.toggle());
    const widget = this.widget();
    if (widget) chain(widget, "callback", () => this.changed());
  }

  widget() {
    return widgetOf(this.node, WIDGET);
  }

  /** Begin with a photo; `asked` says whether its face has to be given by clicks. */
  start(asked) {
    this.asked = asked;
    this.clicked = [];
  }

  /** Ask for points, or take those away that are there. */
  toggle() {
    const set = this.widget().value !== "";
    this.asked = set || this.clicked.length > 0 || !this.asked;
    this.clicked = [];
    if (set) setWidget(this.node, this.widget(), "");
    this.changed();
  }

  add(event) {
    const { left, top, width, height } = this.layer.getBoundingClientRect();
    const x = (100 * (event.clientX - left)) / width;
    const y = (100 * (event.clientY - top)) / height;
    this.clicked.push([x, y]);
    if (this.clicked.length === NAMES.length) {
      const text = write(this.clicked);
      this.clicked = [];
      setWidget(this.node, this.widget(), text);
    }
    this.changed();
  }

  /** Draw the points and return what is to be said of them, "" where faces are chosen instead. */
  draw() {
    const value = this.widget()?.value ?? "";
    const linked = isLinked(this.node, WIDGET);
    const set = !linked && value !== "";
    const open = Boolean(this.widget()) && !linked && !set && this.asked;
    this.layer.classList.toggle("pulid-asked", open);
    const points = set ? read(value) : this.clicked;
    this.layer.replaceChildren(...points.map((point) => this.dot(point)));
    this.button.hidden = !this.widget() || linked;
    const label = set || this.clicked.length ? "Clear the points" : "Give five points by hand";
    this.button.setAttribute("aria-label", label);
    this.button.setAttribute("aria-pressed", String(open || set));
    this.button.title = label;
    this.button.textContent = set || this.clicked.length ? "✕" : "⌖";
    if (linked) return this.asked ? `${WIDGET} comes from its input` : "";
    if (set) return `${WIDGET} is set by hand`;
    const [next, of] = [this.clicked.length, NAMES.length];
    return open ? `click ${NAMES[next]} (${next + 1} of ${of})` : "";
  }

  dot([x, y]) {
    const dot = make("div", { class: "pulid-point" });
    dot.style.left = `${x}%`;
    dot.style.top = `${y}%`;
    return dot;
  }
}
