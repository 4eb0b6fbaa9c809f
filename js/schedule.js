/** The steps that the sampler behind a node will make, as far as the graph tells. */
import { isLinked, widgetOf } from "./panel.js";

const MUTED = 2;
const BYPASSED = 4;
const PASSES_ON = ["MODEL", "GUIDER", "*"];
/** The names that the server gives to these widgets; what a node does not have keeps its default. */
const WIDGETS = {
  steps: "steps",
  scheduler: "scheduler",
  denoise: "denoise",
  first: "start_at_step",
  last: "end_at_step",
};
const DEFAULTS = { denoise: 1, first: 0, last: 10_000 };

/** Return the nodes that an output of `node` leads to. */
function* targets(node, output) {
  for (const id of output.links ?? []) {
    const link = node.graph?.getLink?.(id) ?? node.graph?.links?.get?.(id);
    const target = link && node.graph.getNodeById(link.target_id);
    if (target && target.mode !== MUTED) yield target;
  }
}

/** Read the schedule that a node makes by its own widgets; nothing if it makes none. */
function ownSchedule(node, rising = false) {
  const names = Object.values(WIDGETS);
  if (!widgetOf(node, "steps") || !widgetOf(node, "scheduler")) return;
  if (names.some((name) => isLinked(node, name))) return;
  const found = Object.entries(WIDGETS).map(([key, name]) => [key, widgetOf(node, name)?.value]);
  const known = found.filter(([, value]) => value !== undefined);
  return { ...DEFAULTS, ...Object.fromEntries(known), rising };
}

/** Follow sigmas back to the scheduler that makes them. */
function scheduleOfSigmas(node, slot) {
  let rising = false;
  for (let seen = 0; seen < 100; seen++) {
    node = node.getInputNode(slot);
    if (!node || node.mode === MUTED) return;
    const own = node.mode === BYPASSED ? undefined : ownSchedule(node, rising);
    if (own) return own;
    if (node.type === "FlipSigmas") rising = rising !== (node.mode !== BYPASSED);
    else if (node.type !== "Reroute") return; // it may do anything to them
    slot = 0;
  }
}

/** Return the schedule of the sampler that comes first behind `node`; nothing if it is unknown. */
export function scheduleBehind(node) {
  const waiting = [node];
  const seen = new Set(waiting);
  while (waiting.length) {
    const here = waiting.shift();
    for (const output of here.outputs ?? []) {
      if (!PASSES_ON.includes(output.type)) continue;
      for (const target of targets(here, output)) {
        if (seen.has(target)) continue;
        seen.add(target);
        const runs = target.mode !== BYPASSED;
        if (runs && widgetOf(target, "sampler_name")) return ownSchedule(target);
        const slot = target.findInputSlot?.("sigmas") ?? -1;
        if (runs && slot >= 0) return scheduleOfSigmas(target, slot);
        waiting.push(target);
      }
    }
  }
}
