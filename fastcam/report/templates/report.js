// The gallery: cards are made when they are scrolled to. Texts go in as text, never as markup.
"use strict";
(() => {
  const STEP = 24; // cards made at once
  const SVG = "http://www.w3.org/2000/svg";
  const get = (id) => document.getElementById(id);
  const { names, cards } = JSON.parse(get("data").textContent);
  const tools = get("tools"), found = get("found"), label = get("label"), area = get("cards"), more = get("more");
  const nearby = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) grow();
  }, { rootMargin: "600px" });
  let list = [], shown = 0;

  const make = (tag, kind = "", text = "") => {
    const element = document.createElement(tag);
    element.className = kind;
    element.textContent = text;
    return element;
  };
  const chosen = (name) => tools.querySelector(`input[name="${name}"]:checked`);
  const percent = (share) => (share === null ? "" : `${(100 * share).toFixed(1)} %`);
  const last = (value) => (value === null ? Infinity : value);
  const first = (card) => (card.rows.length ? card.rows[0] : [null, null, null, null]);

  // What each kind is sorted by; cards that it was not chosen as are left out.
  const keys = {
    best: (card) => last(card.quality === null ? null : -card.quality),
    worst: (card) => last(card.quality),
    uncertain: (card) => last(card.margin),
    wrong: (card) => last(first(card)[1] === null ? null : -first(card)[1]),
  };

  function select() {
    const kind = chosen("kind").value, text = get("search").value.toLowerCase();
    const wants = (element, value) => !element || element.value === "" || Number(element.value) === value;
    list = cards
      .map((card, index) => [card, index])
      .filter(([card]) =>
        (kind === "" || card.kinds.includes(kind)) &&
        wants(found, first(card)[0]) && wants(label, card.label) &&
        card.id.toLowerCase().includes(text));
    if (keys[kind]) list.sort(([a], [b]) => keys[kind](a) - keys[kind](b) || 0);
    const meaning = chosen("kind").dataset.meaning;
    get("status").textContent = `${list.length.toLocaleString("en")} of ${cards.length.toLocaleString("en")} cards: ${meaning}`;
    area.replaceChildren();
    shown = 0;
    grow();
  }

  function grow() {
    area.append(...list.slice(shown, shown + STEP).map(([card, index]) => draw(card, index)));
    shown = Math.min(shown + STEP, list.length);
    more.hidden = shown >= list.length;
    nearby.unobserve(more); // so that it reports anew, if the end is still near
    nearby.observe(more);
  }

  function draw(card, index) {
    const article = make("article");
    if (card.size) article.append(frame(card, index));
    const name = make("p", "text");
    name.append(make("bdi", "id", card.id));
    article.append(name);
    if (card.error) article.append(make("p", "text miss", card.error.filter(Boolean).join(": ")));
    if (card.rows.length) {
      const classes = make("ol", "classes");
      for (const [place, score, rank] of card.rows.filter((row, i, all) => !i || all[i - 1][2] !== row[2])) {
        const line = make("li");
        line.append(make("bdi", "", place === null ? "" : names[place]), make("span", "", percent(score)));
        if (rank !== null) line.title = `rank ${rank}`;
        classes.append(line);
      }
      article.append(classes);
    }
    if (card.label !== null || card.iou !== null) article.append(verdict(card));
    return article;
  }

  function verdict(card) {
    const [place, , rank] = card.rows.find((row) => row[0] === card.label && row[2] === 1) || first(card);
    const line = make("p", "text");
    if (card.label !== null) {
      const right = place === card.label && rank === 1;
      const label = make("span", card.rows.length ? (right ? "hit" : "miss") : "");
      label.append("label: ", make("bdi", "", names[card.label]));
      line.append(label);
      if (place === card.label && !right) line.append(make("span", "soft", ` · rank ${rank}`)); // a class that was asked for
    }
    if (card.iou !== null) line.append(make("span", "soft", `${card.label === null ? "" : " · "}IoU ${card.iou.toFixed(2)}`));
    return line;
  }

  function frame(card, index) {
    const [width, height] = card.size;
    const outer = make("div", "frame"), stage = make("div", `stage ${width > height ? "flat" : "tall"}`);
    stage.style.aspectRatio = `${width} / ${height}`;
    const picture = get(`picture${index}`), map = get(`map${index}`);
    if (picture) stage.append(image(picture, "picture"));
    else if (!map) stage.append(make("span", "none", "picture not in this page"));
    if (map) {
      stage.append(image(map, "map"));
      stage.classList.add("mapped");
    }
    const drawing = document.createElementNS(SVG, "svg");
    drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    drawing.setAttribute("preserveAspectRatio", "none");
    const boxes = [
      ...card.truth.map((box) => [box, "truth"]),
      ...card.rows.filter((row) => row[3] && row[0] === first(card)[0]).map((row) => [row[3], "predicted"]),
    ];
    for (const kinds of ["rim", null]) for (const [box, kind] of boxes) drawing.append(outline(box, kinds || kind));
    stage.append(drawing);
    outer.append(stage);
    return outer;
  }

  function image(source, kind) {
    const element = make("img", kind);
    element.alt = "";
    element.decoding = "async";
    element.src = source.textContent;
    return element;
  }

  function outline([x0, y0, x1, y1], kind) {
    const rect = document.createElementNS(SVG, "rect");
    const values = { x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: kind };
    for (const [name, value] of Object.entries(values)) rect.setAttribute(name, value);
    return rect;
  }

  function look() {
    area.dataset.view = chosen("view") ? chosen("view").value : "picture";
    area.toggleAttribute("data-boxes", get("boxes").checked);
  }

  tools.addEventListener("change", (event) => {
    if (event.target.name === "view" || event.target.id === "boxes") look();
    else if (event.target.id !== "search") select();
  });
  get("search").addEventListener("input", select);
  tools.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", grow);
  document.addEventListener("click", (event) => {
    const cell = event.target.closest("button[data-found]");
    if (!cell) return;
    found.value = cell.dataset.found;
    label.value = cell.dataset.label;
    tools.querySelector('input[name="kind"][value=""]').checked = true;
    get("search").value = "";
    select();
    get("gallery").scrollIntoView();
  });
  look();
  select();
})();
