// Files of older PuLID packs: the server exchanges their nodes before the page opens them. Which
// nodes these are, and what takes their place, the server alone knows.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const LIFE = 30_000; // milliseconds that a message about what could not be kept is shown
let oldNodes;

/** Ask the server; an answer that is not fine is an error. */
async function ask(route, options) {
  const answer = await api.fetchApi(`/pulid_flux/${route}`, options);
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  return await answer.json();
}

/** Say whether a file, or a subgraph in it, has a node of one of these types. */
function hasOne(graph, types) {
  const graphs = [graph, ...(graph?.definitions?.subgraphs ?? [])];
  return graphs.some((one) => one?.nodes?.some?.((node) => types.includes(node?.type)));
}

app.registerExtension({
  name: "PuLIDFlux.OldFiles",

  async beforeConfigureGraph(graph) {
    try {
      oldNodes ??= await ask("old_nodes");
      if (!hasOne(graph, oldNodes)) return;
      const headers = { "Content-Type": "application/json" };
      const body = JSON.stringify(graph);
      const { file, message } = await ask("prepare_file", { method: "POST", headers, body });
      Object.assign(graph, file);
      if (!message) return;
      const [summary, ...lost] = message.split("\n");
      const severity = lost.length ? "warn" : "info";
      const life = lost.length ? LIFE : LIFE / 5;
      app.extensionManager.toast.add({ severity, summary, detail: lost.join("\n"), life });
    } catch (error) {
      console.warn("PuLID-Flux Native: a file was opened as it is:", error);
    }
  },
});
