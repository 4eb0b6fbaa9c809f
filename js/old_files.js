// Files of older PuLID packs whose nodes cannot simply be exchanged: the server makes them ready
// before they are opened, then ComfyUI's own node replacement can upgrade them one by one.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const NEEDS_MORE = [
  "FixPulidFluxPatch",
  "NunchakuFluxPuLIDApplyV2",
  "NunchakuPuLIDLoaderV2",
  "PulidFluxFaceDetector",
  "PulidFluxInsightFaceLoader",
  "PulidFluxOptions",
];

app.registerExtension({
  name: "PuLIDFlux.OldFiles",

  async beforeConfigureGraph(graph) {
    if (!graph?.nodes?.some((node) => NEEDS_MORE.includes(node.type))) return;
    try {
      const answer = await api.fetchApi("/pulid_flux/prepare_file", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(graph),
      });
      if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
      Object.assign(graph, await answer.json());
    } catch (error) {
      console.warn("PuLID-Flux Native: an older file was opened as it is:", error);
    }
  },
});
