// What the browser tests ask of ComfyUI's page, as window.tests.
window.tests = {
  events: [],

  async listen() {
    const { api } = await import("/scripts/api.js");
    const kinds = ["executed", "execution_cached"];
    kinds.push("execution_success", "execution_error", "execution_interrupted");
    for (const kind of kinds) {
      api.addEventListener(kind, ({ detail }) => this.events.push({ kind, ...detail }));
    }
  },

  // Every node, those inside subgraphs too.
  nodes() {
    const graphs = [app.rootGraph, ...(app.rootGraph.subgraphs?.values() ?? [])];
    return graphs.flatMap((graph) => graph.nodes);
  },

  find(type) {
    const found = this.nodes().filter((node) => node.type === type);
    if (found.length !== 1) throw new Error(`${found.length} nodes are ${type}`);
    return found[0];
  },

  widget(type, name) {
    return this.find(type).widgets.find((widget) => widget.name === name);
  },

  // Set a widget as a person does: with its callback.
  set(type, name, value) {
    const widget = this.widget(type, name);
    widget.value = value;
    widget.callback?.(value, app.canvas, this.find(type));
  },

  missing() {
    const unknown = this.nodes().filter((node) => !(node.type in LiteGraph.registered_node_types));
    return unknown.map((node) => node.last_serialization?.type ?? node.type);
  },

  // Combos that hold what is not there: [node type, widget, value].
  absent() {
    return this.nodes().flatMap((node) =>
      (node.widgets ?? [])
        .filter((w) => Array.isArray(w.options?.values) && w.options.values.length)
        .filter((w) => !w.options.values.includes(w.value))
        .map((w) => [node.type, w.name, w.value]),
    );
  },

  takeWhatIsThere() {
    for (const node of this.nodes()) {
      for (const widget of node.widgets ?? []) {
        const values = widget.options?.values;
        if (Array.isArray(values) && values.length && !values.includes(widget.value)) {
          const sdxl = node.type === "PuLIDSDXLLoadModel";
          const wanted = sdxl ? /^pulid_v1/ : /^(flux1-dev\.|pulid_flux_v)/;
          const usual = values.find((value) => wanted.test(value));
          widget.value = usual ?? values[0];
        }
      }
    }
  },

  // Put photos with faces into the nodes of these titles.
  givePhotos(photos) {
    for (const node of this.nodes().filter(({ title }) => title in photos)) {
      node.widgets.find(({ name }) => name === "image").value = photos[node.title];
    }
  },

  // Leave out what cannot be small: T5-XXL by itself, and the step that makes a megapixel.
  makeSmall(chromaPulid) {
    for (const node of this.nodes()) {
      if (node.type === "FluxKontextImageScale") node.mode = 4;
      if (node.type !== "CLIPLoader") continue;
      const small = this.add("DualCLIPLoader", node.pos, { type: "flux" });
      for (const id of [...node.outputs[0].links]) {
        const link = node.graph.links.get(id);
        small.connect(0, node.graph.getNodeById(link.target_id), link.target_slot);
      }
      node.graph.remove(node);
      this.widget("PuLIDFluxLoadModel", "model_name").value = chromaPulid;
    }
  },

  // So many steps, a small picture, and this noise.
  makeQuick(steps, noise) {
    const quick = { steps, seed: noise, noise_seed: noise };
    const sdxl = this.nodes().some(({ type }) => type.includes("SDXL")); // all its layers: slow
    const small = { width: sdxl ? 128 : 192, height: sdxl ? 64 : 128, batch_size: 1 };
    const titled = { Steps: { value: steps }, Seed: { value: noise } };
    for (const node of this.nodes()) {
      const own = node.type === "PrimitiveInt" ? titled[node.title] : {};
      const values = { ...quick, ...(node.type.includes("Latent") ? small : {}), ...own };
      if (/^(Width|Height)$/.test(node.title)) values.value = small[node.title.toLowerCase()];
      for (const widget of node.widgets ?? []) {
        if (widget.name in values) widget.value = values[widget.name];
      }
    }
  },

  // Add a node and link inputs: {input: [node, output]}.
  add(type, pos, values = {}, links = {}) {
    const node = LiteGraph.createNode(type);
    node.pos = pos;
    app.graph.add(node);
    for (const [name, value] of Object.entries(values)) {
      node.widgets.find((widget) => widget.name === name).value = value;
    }
    for (const [name, [source, output]] of Object.entries(links)) {
      source.connect(output, node, node.findInputSlot(name));
    }
    return node;
  },

  // Bring a node into view in its true size, its top left at a place that no menu covers.
  lookAt(node) {
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [140 - node.pos[0], 130 - node.pos[1]];
    app.canvas.setDirty(true, true);
  },

  // The rectangle of a node on the screen, title and all.
  place(node) {
    const { left, top } = app.canvas.canvas.getBoundingClientRect();
    const { scale, offset } = app.canvas.ds;
    const [x, y, width, height] = node.boundingRect;
    const [h, v] = [left + (x + offset[0]) * scale, top + (y + offset[1]) * scale];
    return { x: h - 12, y: v - 30, width: width * scale + 24, height: height * scale + 42 };
  },

  // Say whether the node shows a loaded picture of this file.
  shows(node, filename) {
    const element = document.querySelector(`[data-node-id="${node.id}"]`);
    const images = LiteGraph.vueNodesMode ? [...element.querySelectorAll("img")] : (node.imgs ?? []);
    return images.some((img) => img.src.includes(filename) && img.naturalWidth > 0);
  },

  // The settings that the node shows now, in order.
  settings(node) {
    const laidOut = node.getLayoutWidgets();
    // the newest page draws no widget, but a row, for one that is fed by a link
    const hasRow = (w) => node.isWidgetRowVisible?.(w) ?? node.isWidgetVisible(w);
    const shown = node.widgets.filter((w) => laidOut.includes(w) && hasRow(w));
    return shown.filter((w) => w.serialize !== false).map((w) => w.name);
  },

  // Where a widget of the classic canvas is on the screen.
  placeOf(node, name) {
    const { left, top } = app.canvas.canvas.getBoundingClientRect();
    const { scale, offset } = app.canvas.ds;
    const y = node.pos[1] + node.widgets.find((widget) => widget.name === name).y + 10;
    const x = node.pos[0] + node.size[0] / 2;
    return [left + (x + offset[0]) * scale, top + (y + offset[1]) * scale];
  },

  // Red, green, blue and alpha of a colour in any notation, each 0 to 1.
  colour(text) {
    const context = new OffscreenCanvas(1, 1).getContext("2d");
    context.fillStyle = text;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data].map((value) => value / 255);
  },

  // The texts of the note on the page and their contrast to what is behind them, as WCAG counts.
  contrasts(note) {
    const light = (rgb) => {
      const [r, g, b] = rgb.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    };
    const behind = (element) => {
      for (let one = element; one; one = one.parentElement) {
        const [r, g, b, alpha] = this.colour(getComputedStyle(one).backgroundColor);
        if (alpha > 0.9) return [r, g, b];
        if (one.matches(".dom-widget, [data-node-id]")) break;
      }
      return this.colour(note.bgcolor).slice(0, 3);
    };
    const [heading] = note.widgets[0].value.match(/(?<=### ).*/);
    const top = [...document.querySelectorAll("h3")].find((h) => h.textContent.trim() === heading);
    const kinds = "h3, p, li, th, td, a, strong, code";
    return [...top.parentElement.querySelectorAll(kinds)].map((element) => {
      const [r, g, b, alpha] = this.colour(getComputedStyle(element).color);
      const back = behind(element);
      const front = [r, g, b].map((value, i) => value * alpha + back[i] * (1 - alpha));
      const [low, high] = [light(front), light(back)].sort((x, y) => x - y);
      return [element.textContent, high / low];
    });
  },
};
