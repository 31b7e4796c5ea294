const SVG = "http://www.w3.org/2000/svg";

function make(parent, tag, className, attributes = {}) {
  const made = document.createElement(tag);
  made.className = className;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return parent.appendChild(made);
}

function render({ model, el }) {
  const labels = make(el, "div", "icm-labels");
  const frame = make(el, "div", "icm-frame");
  const stage = make(frame, "div", "icm-stage");
  const sides = {};
  for (const side of ["before", "after"]) {
    const layer = make(stage, "div", `icm-layer icm-${side}`);
    const img = make(layer, "img", "");
    const svg = layer.appendChild(document.createElementNS(SVG, "svg"));
    sides[side] = { label: make(labels, "span", ""), img, svg };
  }
  const handle = make(stage, "div", "icm-handle", {
    role: "slider", tabindex: 0, "aria-valuemin": 0, "aria-valuemax": 100,
    "data-lm-suppress-shortcuts": "true", // JupyterLab would move to another cell
  });

  let at = 50; // % of the picture's width
  function moveTo(place) {
    at = Math.min(100, Math.max(0, place));
    stage.style.setProperty("--at", `${at}%`);
    handle.setAttribute("aria-valuenow", Math.round(at));
  }

  async function picture(side) {
    const next = new Image();
    next.draggable = false;
    next.alt = model.get(`${side}_label`);
    next.src = URL.createObjectURL(new Blob([model.get(side)], { type: "image/png" }));
    sides[side].next = next;
    await next.decode().catch(() => {}); // until then the old one stays: nothing flickers
    URL.revokeObjectURL(next.src);
    if (sides[side].next !== next) return; // a later one is on its way
    sides[side].img.replaceWith(next);
    sides[side].img = next;
  }

  function label(side) {
    sides[side].label.textContent = model.get(`${side}_label`);
    const [before, after] = [model.get("before_label"), model.get("after_label")];
    handle.setAttribute("aria-label", `divider: ${before} on the left, ${after} on the right`);
  }

  function boxes(side) {
    const { svg } = sides[side];
    const size = 11 / model.get("zoom"); // 11 px of the screen
    svg.setAttribute("viewBox", `0 0 ${model.get("width")} ${model.get("height")}`);
    svg.replaceChildren();
    for (const { box: [x1, y1, x2, y2], text, colour } of model.get(`${side}_boxes`)) {
      const add = (tag, attributes) => {
        const made = svg.appendChild(document.createElementNS(SVG, tag));
        for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
        return made;
      };
      add("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, stroke: colour });
      const y = y1 > 1.2 * size ? y1 - 0.25 * size : y1 + size;
      add("text", { x: x1 + 0.15 * size, y, "font-size": size }).textContent = text;
    }
  }

  function resize() {
    const zoom = model.get("zoom");
    stage.style.width = `${zoom * model.get("width")}px`;
    stage.style.height = `${zoom * model.get("height")}px`;
    stage.classList.toggle("icm-zoomed", zoom > 1);
    frame.scrollLeft = (frame.scrollWidth - frame.clientWidth) / 2; // the middle, with the divider
    frame.scrollTop = (frame.scrollHeight - frame.clientHeight) / 2;
    ["before", "after"].forEach(boxes);
  }

  const drag = (event) => {
    const { left, width } = stage.getBoundingClientRect();
    moveTo((100 * (event.clientX - left)) / width);
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault(); // neither selects nor drags the picture
    stage.setPointerCapture(event.pointerId);
    handle.focus({ preventScroll: true });
    drag(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) drag(event);
  });
  const keys = {
    ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1,
    PageDown: -10, PageUp: 10, Home: -100, End: 100,
  };
  handle.addEventListener("keydown", (event) => {
    if (!(event.key in keys)) return;
    event.preventDefault();
    moveTo(at + keys[event.key]);
  });

  for (const side of ["before", "after"]) {
    model.on(`change:${side}`, () => picture(side));
    model.on(`change:${side}_label`, () => label(side));
    model.on(`change:${side}_boxes`, () => boxes(side));
    picture(side);
    label(side);
  }
  for (const name of ["width", "height", "zoom"]) model.on(`change:${name}`, resize);
  resize();
  moveTo(at);
}

export default { render };
