/**
 * The found faces on the node that encoded them; a click on a face sets face_index. Where none was
 * found, five clicks set face_points.
 */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { FacePoints } from "./face_points.js";
import { MARGIN, addPanel, chain, fit, isLinked, make, nodeOfRun } from "./panel.js";
import { setWidget, watchOutputs, widgetOf } from "./panel.js";

const PHOTO_HEIGHT = 300;
const CAPTION_HEIGHT = 26;
const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

class FacePicker {
  constructor(node) {
    this.node = node;
    this.photos = [];
    this.shown = 0;
    this.shape = 1; // width / height
    this.image = make("img", { draggable: "false" });
    this.faces = make("div", { class: "pulid-faces", role: "radiogroup" });
    this.faces.addEventListener("keydown", (event) => this.onKey(event));
    this.points = new FacePoints(node, () => this.mark());
    this.stage = make("div", { class: "pulid-stage" }, this.image, this.faces, this.points.layer);
    this.back = this.turner("‹", "Previous photo", -1);
    this.text = make("span", { class: "pulid-text", "aria-live": "polite" });
    this.forth = this.turner("›", "Next photo", 1);
    this.caption = make("div", { class: "pulid-caption" });
    this.caption.append(this.back, this.text, this.points.button, this.forth);
    this.image.addEventListener("load", () => this.onLoad());
    const root = make("div", { class: "pulid-picker" }, this.stage, this.caption);
    addPanel(node, "pulid_faces", root, () => this.photoHeight() + CAPTION_HEIGHT);
    for (const name of ["face", "face_index"]) {
      const widget = widgetOf(node, name);
      if (widget) chain(widget, "callback", () => this.mark());
    }
    chain(node, "onConnectionsChange", () => this.mark());
  }

  turner(sign, label, by) {
    const button = make("button", { type: "button", class: "pulid-turn", "aria-label": label }, sign);
    button.addEventListener("click", () => this.turn(this.shown + by));
    return button;
  }

  /** Show the photos of a run: pictures with the boxes of their faces. */
  show(photos) {
    this.photos = photos;
    this.turn(0);
  }

  turn(to) {
    this.shown = (to + this.photos.length) % this.photos.length;
    const { picture, boxes, scores, by_hand: byHand } = this.photos[this.shown];
    this.points.start(!boxes.length || byHand);
    this.image.src = api.apiURL(`/view?${new URLSearchParams(picture)}`);
    this.image.alt = `Photo with ${boxes.length} face(s)`;
    this.faces.replaceChildren(...boxes.map((box, index) => this.face(box, scores[index], index)));
    for (const button of [this.back, this.forth]) button.hidden = this.photos.length < 2;
    this.mark();
  }

  /** Return the button over one face; `box` is x1, y1, x2, y2 as shares of the photo. */
  face([x1, y1, x2, y2], score, index) {
    const label = `Face ${index}`;
    const number = make("span", {}, String(index));
    const button = make("button", { type: "button", role: "radio", "aria-label": label }, number);
    button.title = `${label} (score ${score.toFixed(2)})`;
    const place = { left: x1, top: y1, width: x2 - x1, height: y2 - y1 };
    for (const [side, share] of Object.entries(place)) button.style[side] = `${100 * share}%`;
    button.addEventListener("click", () => this.choose(index));
    return button;
  }

  choose(index) {
    const widget = widgetOf(this.node, "face_index");
    if (!widget || this.obstacle()) return;
    setWidget(this.node, widget, index);
  }

  /** Return why a click cannot choose a face now, or nothing. */
  obstacle() {
    if (isLinked(this.node, "face_index")) return "face_index comes from its input";
    if (isLinked(this.node, "face")) return "the order of faces comes from its input";
    const order = widgetOf(this.node, "face")?.value;
    const { order: counted } = this.photos[this.shown];
    if (counted && order !== counted) return `run again to count the faces: ${order} first`;
    return "";
  }

  /** Mark the face that face_index names now. */
  mark() {
    if (!this.photos.length) return;
    const obstacle = this.obstacle();
    const { boxes, chosen } = this.photos[this.shown];
    const index = obstacle ? chosen : widgetOf(this.node, "face_index")?.value;
    for (const [i, button] of [...this.faces.children].entries()) {
      button.setAttribute("aria-checked", String(i === index));
      button.tabIndex = i === (boxes[index] ? index : 0) ? 0 : -1;
      button.toggleAttribute("aria-disabled", Boolean(obstacle));
    }
    const many = this.photos.length > 1;
    const photo = many ? `photo ${this.shown + 1} of ${this.photos.length}: ` : "";
    const range = boxes.length > 1 ? `0 to ${boxes.length - 1}` : "only 0";
    const face = `face_index ${index} (${boxes[index] ? range : `not here: ${range}`})`;
    const points = this.points.draw();
    this.text.textContent = points ? photo + points : obstacle || photo + face;
    const every = many ? ` ${points ? "The points apply" : "face_index applies"} to every photo.` : "";
    this.text.title = (points ? this.text.textContent : "Click a face to choose it.") + every;
    this.faces.setAttribute("aria-label", `Faces, ${this.text.textContent}`);
  }

  onKey(event) {
    const buttons = [...this.faces.children];
    const step = STEPS[event.key];
    if (step && buttons.length) {
      const next = (buttons.indexOf(event.target) + step + buttons.length) % buttons.length;
      buttons[next].focus();
      buttons[next].click();
    } else if (event.key !== "Enter" && event.key !== " ") {
      return;
    }
    if (step) event.preventDefault();
    event.stopPropagation(); // these keys move and run things on the canvas
  }

  onLoad() {
    this.shape = this.image.naturalWidth / this.image.naturalHeight;
    this.stage.style.aspectRatio = String(this.shape);
    this.stage.style.width = `min(100%, ${PHOTO_HEIGHT * this.shape}px)`;
    fit(this.node);
  }

  photoHeight() {
    return Math.min(PHOTO_HEIGHT, (this.node.size[0] - 2 * MARGIN) / this.shape);
  }
}

const pickers = new WeakMap();

function showFaces(node, photos) {
  if (!photos?.length) return; // the panel is only there once there is something to see
  if (!pickers.has(node)) pickers.set(node, new FacePicker(node));
  pickers.get(node).show(photos);
}

watchOutputs("PuLIDFlux.FacePicker", (node, { pulid_faces: photos }) => showFaces(node, photos));

// from a node that fails since it found no face
api.addEventListener("pulid_flux.faces", ({ detail }) => {
  const node = nodeOfRun(detail.node);
  if (node) showFaces(node, detail.faces);
});
