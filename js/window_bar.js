/** A bar below start_at and end_at that shows when the identity acts. */
import { app } from "../../scripts/app.js";
import { addPanel, chain, isLinked, make, widgetOf } from "./panel.js";

const NODES = /^PuLID(Flux|SDXL)Apply(Identity)?$/;
const HEIGHT = 28;
const TICKS = 10;

/** Return one end of the window: its share of the sampling if that is known, and words for it. */
function readEnd(node, stepName, shareName) {
  if (isLinked(node, stepName)) return { text: `${stepName} from its input` };
  const step = widgetOf(node, stepName)?.value ?? -1;
  if (step >= 0) return { step, text: `step ${step}` };
  if (isLinked(node, shareName)) return { text: `${shareName} from its input` };
  const share = Math.min(1, Math.max(0, widgetOf(node, shareName)?.value ?? 0));
  return { share, text: `${Number((share * 100).toFixed(1))} %` };
}

/** Say whether the window is empty whatever the sampler. */
function isEmpty(start, end) {
  if (start.share !== undefined && end.share !== undefined) return start.share >= end.share;
  return end.step === 0 || start.step >= end.step;
}

function addBar(node) {
  const fill = make("div", { class: "pulid-fill" });
  const track = make("div", { class: "pulid-track" }, fill);
  for (let tick = 1; tick < TICKS; tick++) {
    const line = make("div", { class: "pulid-tick" });
    line.style.left = `${(100 * tick) / TICKS}%`;
    track.append(line);
  }
  const text = make("div", { class: "pulid-text" });
  const bar = make("div", { class: "pulid-window", role: "img" }, track, text);

  function refresh() {
    const start = readEnd(node, "start_step", "start_at");
    const end = readEnd(node, "end_step", "end_at");
    const empty = isEmpty(start, end);
    // Where an end is a step or comes from elsewhere, its place on the bar is known at sampling.
    const from = start.share ?? 0;
    const to = Math.max(from, end.share ?? 1);
    fill.style.left = `${100 * from}%`;
    fill.style.width = `${empty ? 0 : 100 * (to - from)}%`;
    fill.classList.toggle("pulid-open-start", start.share === undefined);
    fill.classList.toggle("pulid-open-end", end.share === undefined);
    text.textContent = empty ? "identity never acts" : `identity: ${start.text} to ${end.text}`;
    text.classList.toggle("pulid-warning", empty);
    bar.setAttribute("aria-label", text.textContent);
    bar.title = "When the identity acts, from pure noise (left) to the finished image (right)";
  }

  addPanel(node, "pulid_window", bar, () => HEIGHT, "end_at");
  for (const name of ["start_at", "end_at", "start_step", "end_step"]) {
    const widget = widgetOf(node, name);
    if (widget) chain(widget, "callback", refresh);
  }
  chain(node, "onConfigure", refresh);
  chain(node, "onConnectionsChange", refresh);
  refresh();
}

app.registerExtension({
  name: "PuLIDFlux.WindowBar",
  nodeCreated(node) {
    if (NODES.test(node.comfyClass)) addBar(node);
  },
});
