/**
 * The classic canvas folds advanced inputs too, as the Vue renderer does by itself. Which inputs
 * are folded and whether a node is open are the host's own `advanced` and `showAdvanced`: the file
 * keeps the latter, and both renderers follow it.
 */
import { app } from "../../scripts/app.js";
import { chain, isLinked, isOurs } from "./panel.js";

const SETTING = "Comfy.Node.AlwaysShowAdvancedWidgets";
const ROW = "pulid_advanced";

function addFold(node) {
  const advanced = node.widgets?.filter((widget) => widget.options?.advanced) ?? [];
  if (!advanced.length || app.extensionManager.setting.get(SETTING)) return;
  const options = { serialize: false, canvasOnly: true };
  const row = node.addWidget("button", ROW, null, () => toggle(node), options);
  row.serialize = false;
  node.showAdvanced ??= false;

  /** Mark what can be folded, which an input that a link feeds cannot, and return it. */
  function mark() {
    row.label = `${node.showAdvanced ? "Hide" : "Show"} advanced inputs`;
    return advanced.filter((widget) => (widget.advanced = !isLinked(node, widget.name)));
  }

  const original = node.getLayoutWidgets;
  node.getLayoutWidgets = function () {
    const folded = mark();
    const all = original.call(this);
    if (this.showAdvanced) return all;
    // The host does not draw what is folded, but leaves its room. Its sockets go behind the button.
    for (const widget of folded) widget.y = row.y;
    return all.filter((widget) => !folded.includes(widget));
  };
  chain(node, "onConfigure", (data) => {
    mark();
    if (data.showAdvanced === undefined) fitOld(node, advanced, data);
  });
  mark();
}

/** Open or fold `node`; what is below moves by as much as it grows. */
function toggle(node) {
  node.graph?.beforeChange?.(node);
  const before = node.computeSize()[1];
  node.showAdvanced = !node.showAdvanced;
  resize(node, node.computeSize()[1] - before);
  node.graph?.afterChange?.(node);
}

/** Take the room of folded inputs from a node of a file that was saved with all of them in sight. */
function fitOld(node, advanced, data) {
  const folded = node.computeSize()[1];
  for (const widget of advanced) widget.advanced = false;
  const saved = node.widgets.filter((widget) => widget.serialize !== false).length;
  // There was no button, and not yet the inputs that came after the file.
  const newer = 1 + Math.max(0, saved - (data.widgets_values?.length ?? saved));
  const before = node.computeSize()[1] - newer * (LiteGraph.NODE_WIDGET_HEIGHT + 4);
  for (const widget of advanced) widget.advanced = !isLinked(node, widget.name);
  if (node.size[1] >= before) resize(node, folded - before);
}

function resize(node, by) {
  node.setSize([node.size[0], Math.max(node.computeSize()[1], node.size[1] + by)]);
  node.setDirtyCanvas(true, true);
}

app.registerExtension({
  name: "PuLIDFlux.Advanced",
  nodeCreated(node) {
    if (isOurs(node)) addFold(node);
  },
});
