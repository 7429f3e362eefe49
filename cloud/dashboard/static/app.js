// What the pages need beside htmx: ages that count on, the live sign, charts, errors.
(() => {
  "use strict";

  // --- ages: "12 s ago", kept true between updates -------------------------------------------
  const age = (seconds) => {
    if (seconds < 1.5) return "just now";
    if (seconds < 90) return `${Math.round(seconds)} s ago`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
    if (seconds < 129600) return `${Math.round(seconds / 3600)} h ago`;
    return `${Math.round(seconds / 86400)} d ago`;
  };
  const tellAges = () => {
    for (const time of document.querySelectorAll("time[data-age]")) {
      const at = Number(time.dataset.age);
      const told = age(Date.now() / 1000 - at);
      if (time.textContent !== told) time.textContent = told;
      if (!time.title) time.title = new Date(at * 1000).toLocaleString();
    }
    for (const time of document.querySelectorAll("time[data-date]")) {
      time.textContent = new Date(Number(time.dataset.date) * 1000).toLocaleDateString();
    }
    for (const time of document.querySelectorAll("time[data-clock]")) {
      const told = new Date(Number(time.dataset.clock) * 1000).toLocaleTimeString([], { hour12: false });
      if (time.textContent !== told) time.textContent = told;
    }
  };
  setInterval(tellAges, 1000);

  // --- the live sign: says so when what is shown may be old -----------------------------------
  const say = (state, text) => {
    const sign = document.getElementById("live");
    if (!sign || sign.dataset.state === state) return;
    sign.dataset.state = state;
    sign.textContent = text;
  };
  document.addEventListener("htmx:sseOpen", () => say("live", "live"));
  const lost = () => say("lost", `not connected; shown as of ${new Date().toLocaleTimeString([], { hour12: false })}`);
  document.addEventListener("htmx:sseError", lost);
  document.addEventListener("htmx:sendError", lost);
  document.addEventListener("htmx:afterRequest", (event) => {
    if (event.detail.xhr?.status === 401) location.assign("/login");
  });

  // --- errors of an action ----------------------------------------------------------------------
  document.addEventListener("htmx:responseError", (event) => {
    const toast = document.getElementById("toast");
    if (!toast || event.detail.xhr.status === 401) return;
    let text = `The server answered ${event.detail.xhr.status}.`;
    try {
      text = JSON.parse(event.detail.xhr.responseText).error.message;
    } catch { /* not one of ours; the status is all there is to say */ }
    const message = document.createElement("div");
    message.className = "message";
    message.setAttribute("role", "alert");
    message.textContent = text;
    toast.replaceChildren(message);
    setTimeout(() => message.remove(), 12000);
  });

  // --- charts ---------------------------------------------------------------------------------
  const charts = new Map();
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const clock = (at, span) => {
    const time = new Date(at * 1000);
    if (span > 172800) return time.toLocaleDateString();
    return time.toLocaleTimeString([], { hour12: false, hour: "2-digit", minute: "2-digit", second: span > 1800 ? undefined : "2-digit" });
  };

  const options = (element, series) => ({
    width: Math.max(element.clientWidth - 12, 200),
    height: 210,
    cursor: { points: { size: 6 } },
    scales: { y: { range: (u, low, high) => [Math.min(0, low), Math.max(high * 1.12, element.dataset.top ? Number(element.dataset.top) : 0.001)] } },
    axes: [
      {
        stroke: colour("--ink-faint"),
        grid: { show: false },
        ticks: { show: false },
        space: 64,
        values: (u, times) => times.map((at) => clock(at, u.scales.x.max - u.scales.x.min)),
      },
      { stroke: colour("--ink-faint"), grid: { stroke: colour("--chart-grid"), width: 1 }, ticks: { show: false }, size: 54 },
    ],
    series: [
      { label: "at", value: (u, v) => (v ? clock(v, 0) : "–") },
      ...series.map((one) => ({
        label: one.label,
        stroke: colour(one.colour),
        width: one.limit ? 1.5 : 2,
        dash: one.limit ? [6, 5] : undefined,
        points: one.limit ? { show: false } : { size: 5, fill: colour(one.colour) },
        value: (u, v) => (v === null || v === undefined ? "–" : `${+v.toFixed(3)}${one.unit ? ` ${one.unit}` : ""}`),
      })),
    ],
  });

  const draw = async (element) => {
    const answer = await fetch(element.dataset.chart, { headers: { Accept: "application/json" } });
    if (!answer.ok) return;
    const { series, data } = await answer.json();
    const known = charts.get(element);
    if (!data[0].length) {
      known?.destroy();
      charts.delete(element);
      const none = document.createElement("div");
      none.className = "none";
      none.textContent = element.dataset.none ?? "No windows yet.";
      element.replaceChildren(none);
    } else if (known) {
      known.setData(data);
    } else {
      element.replaceChildren();
      charts.set(element, new uPlot(options(element, series), data, element));
    }
  };
  const drawAll = () => {
    for (const element of charts.keys()) {
      if (!element.isConnected) {
        charts.get(element).destroy();
        charts.delete(element);
      }
    }
    for (const element of document.querySelectorAll("[data-chart]")) draw(element);
  };
  const redraw = () => {
    for (const chart of charts.values()) chart.destroy();
    charts.clear();
    drawAll();
  };
  document.addEventListener("theme", redraw);
  let resizing;
  addEventListener("resize", () => {
    clearTimeout(resizing);
    resizing = setTimeout(redraw, 150);
  });

  // --- updates keep what the reader did: open details, drawn charts ---------------------------
  Idiomorph.defaults.callbacks.beforeNodeMorphed = (old) =>
    !(old instanceof HTMLElement && old.matches("[data-chart]"));
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, element) =>
    !(name === "open" && element instanceof HTMLDetailsElement);
  document.addEventListener("htmx:afterSettle", () => {
    tellAges();
    drawAll();
  });
  addEventListener("DOMContentLoaded", () => {
    tellAges();
    drawAll();
  });
})();
