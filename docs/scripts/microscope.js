// The microscope of a loss's page: bars of lost digits over one number, by torch and by losskit in each dtype, with zoom.
// Its data are in microscope/NAME.js. Nothing else is loaded; a pointer, a finger or the keyboard moves it.
for (const place of document.querySelectorAll(".microscope[data-name]")) {
  const data = window.losskitMicroscope?.[place.dataset.name];
  if (data && !place.childElementCount) magnify(place, data);
}

function magnify(place, data) {
  const WHO = ["torch", "losskit"];
  const ROW = 22, GAP = 10, LABEL = 128, FOOT = 26, CLOSEST = 0.004;
  const rows = data.films.flatMap((film) => WHO.map((who) => ({ film, who })));
  const state = { what: data.start?.what ?? "gradient", view: [0, 1], row: 0, point: 0, drag: null };

  const make = (tag, attributes = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), attributes);
    node.append(...children);
    return node;
  };
  const button = (text, title, action) => make("button", { type: "button", textContent: text, title, onclick: action });

  // What stands around the bars.
  const choices = ["gradient", "value"].map((what) => button(what, `Show the ${what}`, () => { state.what = what; show(); }));
  const plot = make("div", { className: "microscope-plot", tabIndex: 0 });
  plot.setAttribute("role", "application");
  plot.setAttribute("aria-label", `Lost digits over ${data.variable}. Arrow keys move the point and the row, plus and ` +
    "minus zoom, 0 shows everything, w goes to the worst point.");
  const canvas = make("canvas");
  plot.append(canvas);
  const tools = [
    button("−", "Zoom out", () => zoom(2)),
    button("+", "Zoom in", () => zoom(0.5)),
    button("all", "Show everything", () => look(0, 1)),
    button("worst", "Go to the worst point", () => { worst(); show(); }),
  ];
  const legend = make("p", { className: "microscope-legend" });
  for (const [colour, meaning] of Object.values(data.kinds)) {
    const box = make("i");
    box.style.background = colour;
    legend.append(make("span", {}, box, meaning));
  }
  const told = make("div", { className: "microscope-told" });
  told.setAttribute("aria-live", "polite");
  place.append(
    make("div", { className: "microscope-bar" }, make("span", {}, ...choices), make("span", {}, ...tools)),
    plot, legend, told,
  );

  // Where things are, in pixels of the page.
  const narrow = () => plot.clientWidth < 520;
  const left = () => (narrow() ? 0 : LABEL);
  const top = (i) => Math.floor(i / 2) * (2 * ROW + GAP + (narrow() ? 14 : 0)) + (i % 2) * ROW + (narrow() ? 14 : 0);
  const height = () => top(rows.length - 1) + ROW + FOOT;
  const width = () => plot.clientWidth - left();
  const across = (u) => left() + ((u - state.view[0]) / (state.view[1] - state.view[0])) * width();
  const back = (x) => state.view[0] + ((x - left()) / width()) * (state.view[1] - state.view[0]);
  const at = (film, i) => film.u[i] / 1e4;

  function draw() {
    const scale = window.devicePixelRatio || 1;
    canvas.width = plot.clientWidth * scale;
    canvas.height = height() * scale;
    canvas.style.height = `${height()}px`;
    const paper = canvas.getContext("2d");
    paper.scale(scale, scale);
    const style = getComputedStyle(plot);
    const [ink, quiet, panel] = [style.color, style.getPropertyValue("--quiet"), style.getPropertyValue("--panel")];
    const small = `11px ${style.fontFamily}`, bold = `600 11px ${style.fontFamily}`;
    paper.textBaseline = "middle";
    rows.forEach(({ film, who }, i) => {
      const y = top(i), high = ROW - 3;
      paper.fillStyle = panel;
      paper.fillRect(left(), y, width(), high);
      if (i % 2 === 0) {
        paper.fillStyle = ink;
        paper.font = bold;
        paper.textAlign = "left";
        if (narrow()) paper.fillText(`${film.dtype}: ${data.titles.torch}, losskit below`, 0, y - 7);
        else paper.fillText(film.dtype, 0, y + high / 2);
      }
      if (!narrow()) {
        paper.fillStyle = ink;
        paper.font = small;
        paper.textAlign = "right";
        paper.fillText(data.titles[who].replace("torch by hand", "by hand"), LABEL - 8, y + high / 2);
      }
      bars(paper, film, who, y, high, quiet, small, bold);
    });
    ticks(paper, quiet, small);
    cursor(paper, ink);
    if (state.drag) {
      const [a, b] = state.drag.map(across);
      paper.fillStyle = ink;
      paper.globalAlpha = 0.15;
      paper.fillRect(Math.min(a, b), 0, Math.abs(b - a), height() - FOOT);
      paper.globalAlpha = 1;
    }
  }

  function bars(paper, film, who, y, high, quiet, small, bold) {
    const shots = film.shots[who]?.[state.what];
    if (!shots) {
      paper.fillStyle = quiet;
      paper.font = small;
      paper.textAlign = "left";
      paper.fillText(`refused: ${film.refused[who]}`, left() + 6, y + high / 2, width() - 12);
      return;
    }
    const last = film.u.length - 1;
    let run = null;
    const sign = () => {
      const text = run && data.kinds[run.kind]?.[2];
      const [a, b] = run ? [Math.max(run.from, left()), Math.min(run.to, left() + width())] : [0, 0];
      paper.font = bold;
      if (!text || b - a < paper.measureText(text).width + 4) return;
      paper.fillStyle = "#fff";
      paper.textAlign = "center";
      paper.fillText(text, (a + b) / 2, y + high / 2 + 1);
    };
    for (let i = 0; i <= last; i++) {
      const from = across(i ? (at(film, i - 1) + at(film, i)) / 2 : at(film, i));
      const to = across(i < last ? (at(film, i) + at(film, i + 1)) / 2 : at(film, i));
      const kind = shots.kinds[i];
      if (run?.kind === kind) run.to = to;
      else { sign(); run = { kind, from, to }; }
      if (kind === " " || to < left() || from > left() + width()) continue;
      const tall = Math.max(parseInt(shots.heights[i], 36) / 35, 0.08) * high;
      paper.fillStyle = data.kinds[kind][0];
      const scale = window.devicePixelRatio || 1, whole = (x) => Math.round(x * scale) / scale; // no seams between bars
      const start = whole(Math.max(from, left())), end = whole(Math.min(to, left() + width()));
      paper.fillRect(start, y + high - tall, Math.max(end - start, 1 / scale), tall);
    }
    sign();
  }

  function ticks(paper, quiet, small) {
    const [a, b] = state.view;
    let found = data.ticks.filter(([u]) => u >= a && u <= b);
    if (found.length < 4) { // too close for round numbers: those of the points
      const { film } = rows[state.row];
      found = film.x.map((x, i) => [at(film, i), String(x)]).filter(([u]) => u >= a && u <= b);
    }
    paper.font = small;
    paper.textAlign = "center";
    paper.fillStyle = quiet;
    let end = -Infinity;
    for (const [u, text] of found) {
      const half = paper.measureText(text).width / 2;
      const x = Math.min(Math.max(across(u), left() + half), left() + width() - half);
      if (x - half < end + 8) continue;
      paper.fillRect(across(u), height() - FOOT + 2, 1, 4);
      paper.fillText(text, x, height() - FOOT + 15);
      end = x + half;
    }
  }

  function cursor(paper, ink) {
    const { film } = rows[state.row];
    const x = across(at(film, state.point)), y = top(state.row);
    if (x < left() - 1 || x > left() + width() + 1) return;
    paper.strokeStyle = ink;
    paper.lineWidth = 1;
    paper.strokeRect(left() + 0.5, y - 0.5, width() - 1, ROW - 2);
    paper.beginPath();
    paper.moveTo(x, 0);
    paper.lineTo(x, height() - FOOT + 2);
    paper.stroke();
    paper.fillStyle = ink;
    paper.beginPath();
    paper.arc(x, y + (ROW - 3) / 2, 3.5, 0, 7);
    paper.fill();
  }

  // The point in words, and the lines that compute it again.
  function tell() {
    const { film, who } = rows[state.row], i = state.point;
    const cell = (by, what) => {
      const shots = film.shots[by]?.[what];
      if (!shots) return make("td", { textContent: "refused" });
      const kind = shots.kinds[i];
      const result = shots.results[i] || film.shots.losskit?.[what].results[i]; // what both have is told once
      const node = make("td", {}, make("b", { textContent: result || "–" }));
      if (kind === " ") return node;
      const off = shots.errors[i] && kind === "l" ? `, off by ${shots.errors[i]} ULP` : "";
      node.append(make("span", { textContent: ` ${data.kinds[kind][1]}${off}` }));
      return node;
    };
    const line = (name, ...cells) => make("tr", {}, make("th", { textContent: name, scope: "row" }), ...cells);
    const truth = (what) => make("td", {}, make("b", { textContent: film.truth[what][i] || "none" }));
    const table = make("table", { className: "microscope-table" },
      make("caption", { textContent: `${film.dtype}, ${data.variable} = ${film.x[i]}` }),
      make("thead", {}, make("tr", {}, make("td"), make("th", { textContent: "value" }), make("th", { textContent: "gradient" }))),
      make("tbody", {}, line("truth", truth("value"), truth("gradient")),
        ...WHO.map((by) => line(data.titles[by], cell(by, "value"), cell(by, "gradient")))));
    told.replaceChildren(table, ...[who, ...WHO.filter((by) => by !== who)].map((by) => code(film, by, i)));
  }

  function code(film, who, i) {
    const fill = (text) => text.replaceAll("{x}", String(film.x[i]))
      .replaceAll("{value}", film.truth.value[i] || "none").replaceAll("{gradient}", film.truth.gradient[i] || "none");
    const text = data.lines[film.dtype][who].map(fill).join("\n");
    const copy = button("copy", `Copy the two lines for ${data.titles[who]}`, async () => {
      await navigator.clipboard.writeText(text);
      copy.textContent = "copied";
    });
    return make("div", { className: "microscope-code" }, make("p", {}, data.titles[who], copy),
      make("pre", {}, make("code", { textContent: text })));
  }

  // What moves it.
  function show() {
    choices.forEach((choice) => choice.setAttribute("aria-pressed", String(choice.textContent === state.what)));
    draw();
    tell();
  }

  function look(a, b) {
    const span = Math.min(1, Math.max(CLOSEST, b - a));
    const start = Math.min(Math.max(0, (a + b - span) / 2), 1 - span);
    state.view = [start, start + span];
    draw();
  }

  function zoom(factor) {
    const middle = at(rows[state.row].film, state.point), [a, b] = state.view;
    const around = middle >= a && middle <= b ? middle : (a + b) / 2;
    look(around - (around - a) * factor, around + (b - around) * factor);
  }

  function nearest(film, u) {
    let best = 0;
    film.u.forEach((_, i) => { if (Math.abs(at(film, i) - u) < Math.abs(at(film, best) - u)) best = i; });
    return best;
  }

  function select(row, u) {
    state.row = row;
    state.point = nearest(rows[row].film, u);
    const here = at(rows[row].film, state.point), [a, b] = state.view;
    if (here < a || here > b) look(here - (b - a) / 2, here + (b - a) / 2);
  }

  function worst() {
    if (!data.start) return;
    const row = rows.findIndex(({ film }) => film.dtype === data.start.dtype);
    const { film } = rows[row];
    const near = film.x.reduce((best, x, i) => (Math.abs(x - data.start.x) < Math.abs(film.x[best] - data.start.x) ? i : best), 0);
    state.what = data.start.what;
    const bad = film.shots.torch?.[state.what].kinds ?? "";
    const point = [near, near + 1, near - 1].find((i) => bad[i] && bad[i] !== "r") ?? near;
    select(row, at(film, point));
  }

  function under(event) {
    const box = canvas.getBoundingClientRect();
    const y = event.clientY - box.top;
    const found = rows.findLastIndex((_, i) => y >= top(i) - (i % 2 ? 0 : GAP / 2));
    return { row: Math.max(0, found), u: back(event.clientX - box.left) };
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    const { u } = under(event);
    state.drag = [u, u];
  });
  canvas.addEventListener("pointermove", (event) => {
    const { row, u } = under(event);
    if (state.drag) state.drag[1] = u;
    else if (event.pointerType === "mouse" && !state.pinned) { select(row, Math.min(Math.max(u, state.view[0]), state.view[1])); tell(); }
    draw();
  });
  canvas.addEventListener("pointerup", (event) => {
    const { row, u } = under(event);
    const [a, b] = state.drag ?? [u, u];
    state.drag = null;
    if (Math.abs(across(a) - across(b)) > 6) return look(Math.min(a, b), Math.max(a, b));
    select(row, Math.min(Math.max(u, state.view[0]), state.view[1]));
    state.pinned = true; // until the pointer comes back: so that the lines can be copied
    show();
  });
  canvas.addEventListener("pointercancel", () => { state.drag = null; draw(); });
  canvas.addEventListener("pointerenter", () => { state.pinned = false; });
  canvas.addEventListener("dblclick", () => look(0, 1));
  plot.addEventListener("keydown", (event) => {
    const { film } = rows[state.row], step = event.shiftKey ? 10 : 1;
    const move = (i) => select(state.row, at(film, Math.min(Math.max(i, 0), film.u.length - 1)));
    const keys = {
      ArrowLeft: () => move(state.point - step), ArrowRight: () => move(state.point + step),
      ArrowUp: () => select(Math.max(0, state.row - 1), at(film, state.point)),
      ArrowDown: () => select(Math.min(rows.length - 1, state.row + 1), at(film, state.point)),
      Home: () => move(0), End: () => move(film.u.length - 1),
      "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: () => look(0, 1), w: worst,
    };
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
    show();
  });
  new ResizeObserver(draw).observe(plot);
  new MutationObserver(draw).observe(document.body, { attributeFilter: ["data-md-color-scheme"] });
  state.row = Math.max(0, rows.findIndex(({ film }) => film.dtype === "float32"));
  state.point = nearest(rows[state.row].film, 0.5);
  worst();
  show();
}
