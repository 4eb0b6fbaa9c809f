/**
 * What a run has to say about a node, below its settings. The host writes the same on the node as
 * the text of its progress, but not for a result from the cache, and its newest page takes it away
 * with the end of the run: so it stands here, and its copy goes.
 */
import { addPanel, fit, make, watchOutputs, widgetOf } from "./panel.js";

const PANEL = "pulid_notes";
const HOSTS_TEXT = "$$node-text-preview";

function addNotes(node) {
  const lines = make("div");
  addPanel(node, PANEL, make("div", { class: "pulid-notes" }, lines), () => lines.offsetHeight);
  return widgetOf(node, PANEL);
}

function remove(node, name) {
  const widget = widgetOf(node, name);
  if (widget) node.removeWidget(widget);
}

watchOutputs("PuLIDFlux.Notes", (node, { pulid_notes: notes }) => {
  if (!notes) return;
  remove(node, HOSTS_TEXT);
  if (!notes.length) return remove(node, PANEL);
  const panel = widgetOf(node, PANEL) ?? addNotes(node);
  const line = ({ text, warning }) => make("div", warning ? { class: "pulid-warning" } : {}, text);
  panel.element.firstChild.replaceChildren(...notes.map(line));
  requestAnimationFrame(() => fit(node)); // by then the text has its height
});
