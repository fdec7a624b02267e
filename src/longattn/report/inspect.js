"use strict";
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0)).buffer;
  const far = new Uint16Array(bytes(data.far));
  const keys = new (data.wide ? Uint32Array : Uint16Array)(bytes(data.keys));
  const weights = new Float32Array(bytes(data.weights));
  const none = data.wide ? 2 ** 32 - 1 : 2 ** 16 - 1;
  const box = document.getElementById("words");
  const tokens = [...box.querySelectorAll("i")];
  const places = new Map(tokens.map((token, n) => [token, n]));
  const panel = document.getElementById("token");
  const hint = document.getElementById("hint");
  const ribbon = document.querySelector(".along svg");
  const WIDTH = 1000, ARCS = 66, HEIGHT = 110, LATER = 3;
  let shown = null, kept = null, focused = null;
  let seenBy = null;

  document.documentElement.classList.add("scripted");
  hint.hidden = false;
  ribbon.setAttribute("preserveAspectRatio", "none");
  ribbon.querySelector(".arcs").classList.add("all");
  const marks = ribbon.appendChild(drawn("g", {}));
  ribbon.appendChild(ribbon.querySelector("title"));

  const percent = (share) => !share ? "0 %" : `${(100 * share).toFixed(share >= 0.1 ? 1 : share >= 0.001 ? 2 : 3)} %`;
  const times = (ratio) => (ratio < 10 ? Number(ratio.toPrecision(2)) : Math.round(Number(ratio.toPrecision(3)))).toLocaleString("en");
  const count = (number) => number.toLocaleString("en");
  const uniform = (n) => Math.max(0, n - data.distance - data.skip + 1) / (n + 1);

  function drawn(name, attributes) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  }

  function made(name, text, className) {
    const element = document.createElement(name);
    if (text) element.textContent = text;
    if (className) element.className = className;
    return element;
  }

  // what a token looks at, strongest first
  function looksAt(n) {
    const found = [];
    for (let c = 0; c < data.top; c++) {
      const key = keys[n * data.top + c];
      if (key !== none) found.push({ n: key, weight: weights[n * data.top + c], distance: n - key, query: n });
    }
    return found;
  }

  // which later tokens look at this one, strongest first; worked out for all tokens at the first question
  function looksBack(n) {
    if (!seenBy) {
      seenBy = new Map();
      for (let at = 0; at < keys.length; at++) {
        if (keys[at] === none) continue;
        if (!seenBy.has(keys[at])) seenBy.set(keys[at], []);
        seenBy.get(keys[at]).push(at);
      }
    }
    const found = (seenBy.get(n) || []).map((at) => {
      const query = Math.floor(at / data.top);
      return { n: query, weight: weights[at], distance: query - n, query };
    });
    return found.sort((a, b) => b.weight - a.weight);
  }

  function wordsOf(n) {
    return tokens[n].textContent.trim() || tokens[n].textContent.replace(/\n/g, "⏎") || "…";
  }

  // a token with what stands around it on its line
  function quoted(n) {
    const quote = made("q");
    const gather = (from, step, most) => {
      let text = "";
      for (let m = from; m >= 0 && m < tokens.length && text.length < most; m += step) {
        const piece = tokens[m].textContent;
        const cut = step < 0 ? piece.lastIndexOf("\n") : piece.indexOf("\n");
        if (cut >= 0) return step < 0 ? piece.slice(cut + 1) + text : text + piece.slice(0, cut);
        text = step < 0 ? piece + text : text + piece;
      }
      return text;
    };
    const own = tokens[n].textContent;
    const blank = own.length - own.trimStart().length;
    quote.append(gather(n - 1, -1, 24).trimStart() + own.slice(0, blank).replace(/\n/g, " "));
    quote.append(made("mark", own.slice(blank).trimEnd() || "⏎"), gather(n + 1, 1, 24).trimEnd());
    return quote;
  }

  function list(items, className) {
    const whole = made("ol", "", className);
    for (const item of items) {
      const button = made("button");
      button.type = "button";
      button.append(quoted(item.n), made("br"));
      const where = className === "later" ? "later" : "back";
      button.append(made("small", `${percent(item.weight)}, ${times(item.weight * (item.query + 1))}× uniform · ${count(item.distance)} tokens ${where}`));
      const bar = made("span", "", "bar");
      bar.style.width = `${Math.max(2, 100 * item.weight / items[0].weight)}%`;
      button.append(bar);
      button.addEventListener("click", () => keep(item.n, true));
      whole.appendChild(made("li")).append(button);
    }
    return whole;
  }

  // a line with the colour of the arcs that it speaks of
  function titled(text, colour) {
    const whole = made("p");
    whole.append(made("span", text, `key ${colour}`));
    return whole;
  }

  function bow(from, to, weight) {
    const [a, b] = [from, to].map((n) => ((n + 0.5) / tokens.length) * WIDTH);
    const top = ARCS * (1 - 1.25 * Math.sqrt((b - a) / WIDTH));
    const d = `M${a} ${ARCS}C${a} ${top} ${b} ${top} ${b} ${ARCS}`;
    return drawn("path", { d, "stroke-width": Math.min(6, 1.2 + 20 * weight) });
  }

  function clear() {
    for (const token of box.querySelectorAll(".here, .looked, .later")) token.classList.remove("here", "looked", "later");
    marks.replaceChildren();
    ribbon.classList.remove("busy");
  }

  function show(n) {
    if (n === shown) return;
    shown = n;
    clear();
    panel.hidden = n === null;
    if (n === null) return;
    const at = looksAt(n), back = looksBack(n);
    tokens[n].classList.add("here");
    for (const item of at) tokens[item.n].classList.add("looked");
    for (const item of back.slice(0, 50)) tokens[item.n].classList.add("later");
    ribbon.classList.add("busy");
    const later = drawn("g", { class: "arcs active later" }), earlier = drawn("g", { class: "arcs active" });
    later.append(...back.slice(0, 50).map((item) => bow(n, item.n, item.weight)));
    earlier.append(...at.map((item) => bow(item.n, n, item.weight)));
    const x = ((n + 0.5) / tokens.length) * WIDTH;
    marks.append(later, earlier, drawn("line", { x1: x, x2: x, y1: ARCS, y2: HEIGHT, class: "here" }));
    document.getElementById("token-text").textContent = wordsOf(n);
    document.getElementById("token-place").textContent = `token ${count(n)}`;
    const said = document.getElementById("token-said");
    said.replaceChildren(made("p", `${percent(far[n] / 65535)} of its attention is far, ${percent(uniform(n))} if uniform.`));
    if (at.length) said.append(titled("It looks back most at", "cut"), list(at, "earlier"));
    else said.append(made("p", uniform(n) ? "Nothing far stands out." : "Nothing before it is far enough back."));
    if (back.length) {
      const who = back.length === 1 ? "One later token looks" : `${count(back.length)} later tokens look`;
      said.append(titled(`${who} back at it`, "null"), list(back.slice(0, LATER), "later"));
    }
  }

  function focus(n) {
    if (focused !== null) {
      tokens[focused].removeAttribute("tabindex");
      tokens[focused].removeAttribute("role");
      tokens[focused].removeAttribute("aria-describedby");
      tokens[focused].removeAttribute("aria-label");
    }
    focused = n;
    const token = tokens[n];
    token.tabIndex = 0;
    token.setAttribute("role", "button");
    token.setAttribute("aria-describedby", "token-said");
    if (!token.textContent.trim()) token.setAttribute("aria-label", "blank");
    box.tabIndex = -1;
    show(n);
    token.focus({ preventScroll: true });
    reveal(token, false);
  }

  // bring a token into the box, and the box into the window, without moving more than that takes
  function reveal(token, middle) {
    const area = box.getBoundingClientRect(), at = token.getBoundingClientRect();
    const above = at.top < area.top + 24, below = at.bottom > area.bottom - 24;
    if (middle) box.scrollTop += at.top - area.top - box.clientHeight / 2;
    else if (above) box.scrollTop += at.top - area.top - 24;
    else if (below) box.scrollTop += at.bottom - area.bottom + 24;
    const now = token.getBoundingClientRect(), covered = ribbon.parentElement.getBoundingClientRect().bottom;
    if (now.top < covered || now.bottom > innerHeight) scrollBy(0, now.top - Math.max(covered + 40, innerHeight / 2));
  }

  function keep(n, move) {
    kept = n;
    show(n);
    if (n !== null && move) {
      focus(n);
      reveal(tokens[n], true);
    }
  }

  const under = (event) => places.get(event.target.closest("i"));

  box.addEventListener("pointermove", (event) => {
    const n = under(event);
    if (event.pointerType !== "touch" && kept === null && n !== undefined) show(n);
  });
  box.addEventListener("pointerleave", (event) => {
    if (event.pointerType !== "touch" && kept === null && !box.contains(document.activeElement)) show(null);
  });
  box.addEventListener("click", (event) => {
    const n = under(event);
    if (n === undefined || !document.getSelection().isCollapsed) return;
    if (kept === n) keep(null, false);
    else {
      kept = n;
      focus(n);
    }
  });
  box.addEventListener("focus", () => focus(shown ?? 0));

  // the token of the next line up or down that is nearest sideways
  function line(n, step) {
    const from = tokens[n].getClientRects()[0];
    if (!from) return n;
    let best = n, gap = Infinity, level = null;
    for (let m = n + step; m >= 0 && m < tokens.length; m += step) {
      const at = tokens[m].getClientRects()[0];
      if (!at || Math.abs(at.top - from.top) < from.height / 2) continue;
      if (level !== null && Math.abs(at.top - level) > from.height / 2) break;
      level = at.top;
      if (Math.abs(at.left - from.left) < gap) [best, gap] = [m, Math.abs(at.left - from.left)];
    }
    return best;
  }

  function next(n, step) {
    let m = n + step;
    while (m >= 0 && m < tokens.length && !tokens[m].textContent.trim()) m += step;
    return m >= 0 && m < tokens.length ? m : n;
  }

  box.addEventListener("keydown", (event) => {
    if (focused === null || event.altKey || event.ctrlKey || event.metaKey) return;
    const moves = {
      ArrowRight: () => next(focused, 1),
      ArrowLeft: () => next(focused, -1),
      ArrowDown: () => line(focused, 1),
      ArrowUp: () => line(focused, -1),
      Home: () => 0,
      End: () => tokens.length - 1,
    };
    if (moves[event.key]) {
      kept = null;
      focus(moves[event.key]());
    } else if (event.key === "Enter" || event.key === " ") kept = kept === focused ? null : focused;
    else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") keep(null, false);
  });

  // a link to a token shows what it looks at
  for (const link of document.querySelectorAll('a[href^="#t"]')) {
    const token = document.getElementById(link.getAttribute("href").slice(1));
    if (!places.has(token)) continue;
    link.addEventListener("click", (event) => {
      event.preventDefault();
      keep(places.get(token), true);
    });
  }

  ribbon.addEventListener("click", (event) => {
    const area = ribbon.getBoundingClientRect();
    const n = Math.floor(((event.clientX - area.left) / area.width) * tokens.length);
    keep(Math.min(tokens.length - 1, Math.max(0, n)), true);
  });

  const map = document.querySelector(".square svg");
  const cells = map.querySelector(".map");
  const pooled = new Float32Array(bytes(data.pooled)), ratios = new Float32Array(bytes(data.times));
  const block = (position) => data.edges.findLastIndex((edge) => edge <= position);
  map.addEventListener("pointermove", (event) => {
    const corner = map.createSVGPoint();
    [corner.x, corner.y] = [event.clientX, event.clientY];
    const { x, y } = corner.matrixTransform(cells.getScreenCTM().inverse());
    const [row, column] = [y - 34, x - 52].map((place) => block((place / 400) * tokens.length));
    const at = row * (data.edges.length - 1) + column;
    const said = document.getElementById("cell");
    if (row < 0 || column < 0 || !ratios[at]) {
      said.textContent = "";
      return;
    }
    const range = (m) => `${count(data.edges[m])}–${count(data.edges[m + 1])}`;
    const share = pooled[at] / (data.edges[row + 1] - data.edges[row]);
    said.textContent = `Tokens ${range(row)} spend ${percent(share)} on ${range(column)}, ${times(ratios[at])}× the average`;
  });

  // begin with the strongest dependency
  const first = document.querySelector(".dependencies .quote");
  if (first && !location.hash) {
    const token = document.getElementById(first.getAttribute("href").slice(1));
    show(places.get(token));
    box.scrollTop += token.getBoundingClientRect().top - box.getBoundingClientRect().top - box.clientHeight / 3;
  }
}
