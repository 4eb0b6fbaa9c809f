import { app } from "../../scripts/app.js";

const sheet = document.createElement("link");
sheet.rel = "stylesheet";
sheet.href = new URL("./panel.css", import.meta.url).href;
document.head.append(sheet);

/** Pixels between a panel and the border of its node. */
export const MARGIN = 6;

/** Make an element with attributes, and children or text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Call `after` behind the method that is there already, and keep what that returned. */
export function chain(object, method, after) {
  const before = object[method];
  object[method] = function (...values) {
    const result = before?.apply(this, values);
    after.apply(this, values);
    return result;
  };
}

/** Return the widget of `node` that is called `name`. */
export function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
}

/** Set a widget as a person does: with its callback, and a step that can be undone. */
export function setWidget(node, widget, value) {
  node.graph?.beforeChange?.(node);
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
  node.graph?.afterChange?.(node);
  node.setDirtyCanvas(true, true);
}

/** Say whether the value of this widget comes through a link. */
export function isLinked(node, name) {
  return node.inputs?.some((input) => input.widget?.name === name && input.link != null) ?? false;
}

/**
 * Add to `node` an element that is shown in both renderers and is no setting: neither the workflow
 * file nor the prompt holds it. `height` returns the pixels that the element needs; `above` is the
 * name of the widget over it, without one it comes last.
 */
export function addPanel(node, name, element, height, above) {
  element.classList.add("pulid-panel");
  element.addEventListener("wheel", (event) => {
    // Over the classic canvas the element would swallow the wheel that zooms.
    if (element.closest(".dom-widget")) app.canvas.processMouseWheel(event);
  });
  let added = Boolean(node.graph);
  chain(node, "onAdded", () => (added = true));
  const widget = node.addDOMWidget(name, name, element, {
    serialize: false,
    hideInPanel: true,
    margin: MARGIN,
    // Node replacement puts a node in place without this call, on which the host shows elements.
    onDraw: () => added || node.onAdded(node.graph),
  });
  widget.serialize = false;
  // A height of its own, instead of a share of the node's free space.
  widget.computeSize = () => [0, height() + 2 * MARGIN];
  widget.computeLayoutSize = undefined;
  if (!above) return;
  const at = node.widgets.findIndex((other) => other.name === above);
  node.widgets.splice(at + 1, 0, node.widgets.pop());
  // Some hosts store values by position and leave a hole for this widget, but read without one.
  chain(node, "onSerialize", (data) => {
    data.widgets_values = data.widgets_values?.filter(() => true);
  });
}

/** Enlarge `node` where its widgets need more room than it has. */
export function fit(node) {
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
  node.setDirtyCanvas(true, true);
}

/** Return the node that a key of the host's output list names: an id, in a subgraph `graph:id`. */
function locate(key) {
  const [id, subgraph] = String(key).split(":").reverse();
  const graph = subgraph ? app.rootGraph.subgraphs?.get(subgraph) : app.rootGraph;
  return graph?.getNodeById(id);
}

/** Return the node that a run names: an id, behind those of the subgraphs that it is in. */
export function nodeOfRun(id) {
  let [graph, node] = [app.rootGraph];
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part);
    graph = node?.subgraph;
  }
  return node;
}

/** Say whether `node` is of this pack. */
export function isOurs(node) {
  return /^PuLID(Flux|SDXL|Measure)/.test(node?.comfyClass ?? "");
}

/** Call `show` with each of our nodes that a run, or the host's memory of one, tells about. */
export function watchOutputs(name, show) {
  app.registerExtension({
    name,
    nodeCreated(node) {
      if (isOurs(node)) chain(node, "onExecuted", (output) => show(node, output ?? {}));
    },
    // The host hands old results back when a workflow is opened again.
    onNodeOutputsUpdated(outputs) {
      for (const [key, output] of Object.entries(outputs)) {
        const node = output && locate(key);
        if (isOurs(node)) show(node, output);
      }
    },
  });
}
