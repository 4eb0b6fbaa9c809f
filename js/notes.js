/**
 * What a run has to say about a node. While it runs, the host writes that on the node as the
 * text of its progress. A result from the cache comes without: then the lines are shown here.
 */
import { addPanel, fit, make, watchOutputs, widgetOf } from "./panel.js";

const HOSTS_TEXT = "$$node-text-preview";
const panels = new WeakMap();

function addNotes(node) {
  const lines = make("div");
  addPanel(node, "pulid_notes", make("div", { class: "pulid-notes" }, lines), () => lines.offsetHeight);
  return lines;
}

watchOutputs("PuLIDFlux.Notes", (node, { pulid_notes: notes }) => {
  if (!notes) return;
  const theirs = widgetOf(node, HOSTS_TEXT);
  if (theirs) theirs.value = notes.map((note) => note.text).join("\n"); // not of the run before
  const ours = theirs ? [] : notes;
  if (!ours.length && !panels.has(node)) return;
  if (!panels.has(node)) panels.set(node, addNotes(node));
  const line = ({ text, warning }) => make("div", warning ? { class: "pulid-warning" } : {}, text);
  panels.get(node).replaceChildren(...ours.map(line));
  requestAnimationFrame(() => fit(node)); // by then the text has its height
});
