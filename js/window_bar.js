/**
 * A bar below start_at and end_at that shows when the identity acts: step by step where the sampler
 * behind the node is known, which the server works out as the run will, else as shares of the run.
 */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addPanel, chain, isLinked, make, widgetOf } from "./panel.js";
import { scheduleBehind } from "./schedule.js";

const NODES = /^PuLID(Flux|SDXL)Apply(Identity)?$/;
const WIDGETS = ["weight", "start_at", "end_at", "start_step", "end_step", "weight_curve"];
const HEIGHT = 28;
const TICKS = 10;
const LEAST = 1e-6; // a curve's zeros are rounded

/** Return one end of the window: its share of the sampling if that is known, and words for it. */
function readEnd(node, stepName, shareName) {
  if (isLinked(node, stepName)) return { text: `${stepName} from its input` };
  const step = widgetOf(node, stepName)?.value ?? -1;
  if (step >= 0) return { step, text: `step ${step}` };
  if (isLinked(node, shareName)) return { text: `${shareName} from its input` };
  const share = Math.min(1, Math.max(0, widgetOf(node, shareName)?.value ?? 0));
  return { share, text: `${Number((share * 100).toFixed(1))} %` };
}

/** Say whether the identity does nothing whatever the sampler. */
function isEmpty(node, start, end) {
  if (!isLinked(node, "weight") && widgetOf(node, "weight")?.value === 0) return true;
  if (start.share !== undefined && end.share !== undefined) return start.share >= end.share;
  return end.step === 0 || start.step >= end.step;
}

/** Return what the server has to know to tell the steps; nothing if a part of it is not known. */
function question(node) {
  const [, ...names] = WIDGETS;
  const schedule = scheduleBehind(node);
  if (!schedule || names.some((name) => isLinked(node, name))) return;
  const window = Object.fromEntries(names.map((name) => [name, widgetOf(node, name)?.value]));
  const sdxl = node.comfyClass.includes("SDXL");
  return new URLSearchParams({ ...window, ...schedule, sdxl });
}

/** Ask the server for the weight's factor in each step; nothing if it does not know. */
async function askFactors(asked) {
  try {
    const answer = await api.fetchApi(`/pulid_flux/window?${asked}`);
    return answer.ok ? (await answer.json()).factors : undefined;
  } catch {
    return undefined; // the page says itself that it has lost its server
  }
}

/** Return the words for the steps in which the identity acts. */
function stepsInWords(factors, rising) {
  const acting = factors.flatMap((factor, step) => (factor > LEAST ? [step] : []));
  if (!acting.length) return;
  const [first, last] = [acting[0], acting.at(-1)];
  const which = first === last ? `${first}` : `${first} to ${last}`;
  const backwards = rising ? ", sigmas rise" : "";
  return `identity in ${acting.length} of ${factors.length} steps: ${which}${backwards}`;
}

class WindowBar {
  constructor(node) {
    this.node = node;
    this.fill = make("div", { class: "pulid-fill" });
    this.ticks = Array.from({ length: TICKS - 1 }, (_, i) => {
      const line = make("div", { class: "pulid-tick" });
      line.style.left = `${(100 * (i + 1)) / TICKS}%`;
      return line;
    });
    this.track = make("div", { class: "pulid-track" });
    this.text = make("div", { class: "pulid-text" });
    this.bar = make("div", { class: "pulid-window", role: "img" }, this.track, this.text);
    addPanel(node, "pulid_window", this.bar, () => HEIGHT, "end_at");
    for (const name of WIDGETS) {
      const widget = widgetOf(node, name);
      if (widget) chain(widget, "callback", () => this.refresh());
    }
    chain(node, "onConfigure", () => this.refresh());
    chain(node, "onConnectionsChange", () => this.refresh());
    this.refresh();
  }

  async refresh() {
    const start = readEnd(this.node, "start_step", "start_at");
    const end = readEnd(this.node, "end_step", "end_at");
    const empty = isEmpty(this.node, start, end);
    const parts = empty ? undefined : question(this.node);
    const asked = parts && String(parts);
    if (asked && asked === this.asked) return; // it is shown, or on its way
    this.asked = asked;
    if (!this.factors || !asked) this.showShares(start, end, empty);
    if (!asked) return;
    const factors = await askFactors(asked);
    if (this.asked !== asked) return; // there is a newer question
    if (factors?.length) this.showSteps(factors, parts.get("rising") === "true");
    else this.showShares(start, end, empty);
  }

  /** Show the window where the steps are not known. */
  showShares(start, end, empty) {
    this.factors = undefined;
    // Where an end is a step or comes from elsewhere, its place on the bar is known at sampling.
    const from = start.share ?? 0;
    const to = Math.max(from, end.share ?? 1);
    this.fill.style.left = `${100 * from}%`;
    this.fill.style.width = `${empty ? 0 : 100 * (to - from)}%`;
    this.fill.classList.toggle("pulid-open-start", start.share === undefined);
    this.fill.classList.toggle("pulid-open-end", end.share === undefined);
    this.track.replaceChildren(this.fill, ...this.ticks);
    this.say(empty ? undefined : `identity: ${start.text} to ${end.text}`);
  }

  /** Show each step of the run, as high as the weight is in it. */
  showSteps(factors, rising) {
    this.factors = factors;
    const step = (factor) => {
      const fill = make("div");
      fill.style.height = `${100 * factor}%`;
      return make("div", { class: "pulid-step" }, fill);
    };
    this.track.replaceChildren(...factors.map(step));
    this.say(stepsInWords(factors, rising));
  }

  say(words) {
    this.text.textContent = words ?? "identity never acts";
    this.text.classList.toggle("pulid-warning", !words);
    this.bar.setAttribute("aria-label", this.text.textContent);
    this.bar.title = "When the identity acts, from the first step (left) to the last (right).";
    if (this.factors) this.bar.title += " Steps are counted from 0.";
  }
}

const bars = new WeakMap();

/** What is behind a node decides as well. */
function refreshAll() {
  const graphs = app.rootGraph ? [app.rootGraph, ...(app.rootGraph.subgraphs?.values() ?? [])] : [];
  for (const node of graphs.flatMap((graph) => graph.nodes)) bars.get(node)?.refresh();
}

api.addEventListener("graphChanged", refreshAll);

app.registerExtension({
  name: "PuLIDFlux.WindowBar",
  afterConfigureGraph: refreshAll,
  nodeCreated(node) {
    if (NODES.test(node.comfyClass)) bars.set(node, new WindowBar(node));
  },
});
