// Draws the charts of a report, sorts and filters its tables, and links them. Without this script the page shows pictures.
"use strict";
(async () => {
  const $ = (query, root = document) => [...root.querySelectorAll(query)];
  const unpack = async (id) => {
    const text = atob(document.getElementById(id).textContent);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);   // a callback for each takes ten times as long
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  const number = (text) => {
    const found = /^[-+]?[\d,]*\.?\d+(e[-+]?\d+)?/i.exec(text);
    return found && !/^\d+-\D/.test(text) ? Number(found[0].replaceAll(",", "")) : NaN;
  };

  // Tables: click a head to sort, type to filter, download as CSV.
  let brushed = null;   // the trials that a brush has chosen, or null for all
  let filter = null;    // the same of the text in a filter
  const views = new Map();
  const cell = (row, i) => row.cells[i]?.dataset.value ?? row.cells[i]?.textContent ?? "";
  const signals = (view) => Object.entries(view.getState({ signals: () => true, data: () => false }).signals);
  const visible = (trial) => (!brushed || brushed.has(trial)) && (!filter || filter.has(trial));
  const resort = (table) => {
    const head = table.tHead.querySelector("th[aria-sort]");
    if (!head) return;
    const sign = head.getAttribute("aria-sort") === "ascending" ? 1 : -1;
    const keyed = [...table.tBodies[0].rows].map((row) => [row, cell(row, head.cellIndex)]);
    const order = ([, a], [, b]) => {
      if (!a || !b) return !a - !b;   // missing values come last
      const [x, y] = [number(a), number(b)];
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y) || sign * a.localeCompare(b, undefined, { numeric: true });
      return sign * (x - y);
    };
    table.tBodies[0].append(...keyed.sort(order).map(([row]) => row));
  };
  const refilter = (table) => {
    const text = table.search?.value.trim().toLowerCase() ?? "";
    let count = 0;
    for (const row of table.tBodies[0].rows) {
      const trial = row.dataset.trial;
      const shown = (!text || row.textContent.toLowerCase().includes(text)) && (!trial || !brushed || brushed.has(trial));
      row.hidden = !shown;
      count += shown;
    }
    if (table.count) table.count.textContent = `${count} of ${table.tBodies[0].rows.length}`;
  };
  const link = async () => {
    const all = new Set($("tr[data-trial]").map((row) => row.dataset.trial));
    const chosen = brushed || filter ? Object.fromEntries([...(brushed ?? filter ?? all)].filter(visible).map((t) => [t, 1])) : null;
    for (const view of views.values()) {
      if (signals(view).some(([name]) => name === "chosen")) await view.signal("chosen", chosen).runAsync();
    }
    $("table.sorted").forEach(refilter);
  };
  for (const table of $("table.sorted")) {
    for (const head of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.append(...head.childNodes);
      head.append(button);
      button.onclick = () => {
        const next = head.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
        $("th", table).forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", next);
        resort(table);
      };
    }
    const bar = document.createElement("div");
    bar.className = "bar";
    const save = document.createElement("button");
    save.textContent = "Download CSV";
    save.onclick = () => {
      const quote = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
      const rows = [table.tHead.rows[0], ...[...table.tBodies[0].rows].filter((row) => !row.hidden)];
      const lines = rows.map((row) => [...row.cells].map((_, i) => quote(cell(row, i).trim())).join(","));
      const anchor = document.createElement("a");
      anchor.href = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
      anchor.download = `${table.dataset.name}.csv`;
      anchor.click();
    };
    if (table.tBodies[0].rows.length > 5) {
      table.search = document.createElement("input");
      table.search.type = "search";
      table.search.placeholder = "Filter rows";
      table.search.setAttribute("aria-label", "Filter rows");
      table.count = document.createElement("span");
      table.count.className = "note";
      table.count.setAttribute("role", "status");
      table.search.oninput = () => {
        const text = table.search.value.trim().toLowerCase();
        if (table.tBodies[0].rows[0].dataset.trial) {
          const rows = [...table.tBodies[0].rows].filter((row) => row.textContent.toLowerCase().includes(text));
          filter = text ? new Set(rows.map((row) => row.dataset.trial)) : null;
          link();
        }
        refilter(table);
      };
      bar.append(table.search, table.count);
    }
    bar.append(save);
    table.parentElement.before(bar);
    refilter(table);
  }

  // Charts: each is drawn when it comes into view.
  const pictures = () => $(".charts").forEach((group) => {
    const fallback = group.querySelector("noscript");
    if (fallback) group.innerHTML = fallback.textContent;
  });
  if (!document.getElementById("charts")) return pictures();   // without vl-convert
  const plots = new Map($("[data-chart]").map((plot) => [plot.dataset.chart, plot]));
  let page;
  try {
    page = JSON.parse(await unpack("charts"));
    const script = document.createElement("script");
    script.textContent = await unpack("library");
    document.head.append(script);
  } catch (error) {
    return pictures();   // an old browser
  }
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const rows = (data) => {
    const names = Object.keys(data).filter((name) => !["x", "y", "grid"].includes(name) || !data.grid);
    if (data.grid) {
      return data.y.flatMap((y, i) => data.x.map((x, j) => {
        const row = { x, y };
        for (const name of names) row[name] = data[name][i * data.x.length + j];
        return row;
      }));
    }
    return data[names[0]].map((_, i) => Object.fromEntries(names.map((name) => [name, data[name][i]])));
  };
  const scaled = (part, type) => {
    if (Array.isArray(part)) return part.map((entry) => scaled(entry, type));
    if (!part || typeof part !== "object") return part;
    const result = Object.fromEntries(Object.entries(part).map(([k, v]) => [k, k === "data" ? v : scaled(v, type)]));
    const plain = result.y?.scale?.type ? {} : { zero: false };
    if (part.y?.type === "quantitative") result.y.scale = { ...(type === "log" ? { type } : plain), ...result.y.scale };
    return result;
  };
  const draw = async (name) => {
    const [plot, chart] = [plots.get(name), page.charts[name]];
    const values = rows(chart.data);
    let spec = { ...chart.spec, description: chart.description };
    if (spec.marks) spec.data = [{ ...spec.data[0], values }, ...spec.data.slice(1)];
    else spec = scaled({ ...spec, data: { name: "rows", values } }, chart.log ? "log" : "linear");
    const mode = dark.matches ? "dark" : "light";
    const brushes = spec.marks && views.has(name) ? signals(views.get(name)).filter(([n, v]) => /^brush\d+$/.test(n) && v) : [];
    const { view } = await vegaEmbed(plot, spec, {
      mode: spec.marks ? "vega" : "vega-lite",
      config: page.themes[mode],
      actions: false,
      logLevel: 1,   // errors: Vega warns of a chart without the best run
      renderer: values.length > 1500 || chart.data.shares ? "canvas" : "svg",
      tooltip: { theme: mode },
    });
    views.get(name)?.finalize();
    views.set(name, view);
    brushes.forEach(([brush, value]) => view.signal(brush, value));
    if (brushes.length) await view.runAsync();
    plot.view = view;   // for tests and the console
    if (chart.spec.marks) {
      view.addDataListener("inside", (_, inside) => {
        brushed = inside.length < values.length ? new Set(inside.map((row) => row.trial)) : null;
        link();
      });
    }
    view.addEventListener("click", (_, item) => item?.datum && choose(name, item.datum));
    if (brushed || filter) link();
  };
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting || !page.charts[target.dataset.chart]) continue;
      watcher.unobserve(target);
      draw(target.dataset.chart);
    }
  }, { rootMargin: "300px" });
  plots.forEach((plot) => watcher.observe(plot));
  dark.addEventListener("change", () => [...views.keys()].forEach(draw));
  for (const [name, plot] of plots) {
    const chart = page.charts[name];
    if (!chart || chart.log === null || chart.log === undefined) continue;
    const button = document.createElement("button");
    button.textContent = "log";
    button.setAttribute("aria-label", `Logarithmic scale of ${chart.title}`);
    button.setAttribute("aria-pressed", chart.log);
    button.onclick = () => {
      chart.log = !chart.log;
      button.setAttribute("aria-pressed", chart.log);
      draw(name);
    };
    plot.parentElement.querySelector("figcaption").append(button);
  }
  for (const button of $("button[data-clear]")) {
    button.hidden = false;
    button.onclick = () => {
      const view = views.get(button.dataset.clear);
      signals(view).filter(([n]) => /^brush\d+$/.test(n)).forEach(([n]) => view.signal(n, null));
      view.runAsync();
    };
  }

  // The examples behind a cell of a confusion matrix.
  const panel = document.getElementById("examples");
  const choose = (name, datum) => {
    if (!panel || name !== "confusion") return;
    show(`${datum.y}|${datum.x}`, `${datum.y} predicted as ${datum.x}`, datum.value);
  };
  const show = (key, title, count) => {
    const examples = page.examples?.[key] ?? [];
    const more = count > examples.length ? `, the first ${examples.length}` : "";
    panel.innerHTML = `<h3></h3><div class="examples"></div>`;
    panel.firstChild.textContent = `${title}: ${count}${more}`;
    panel.lastChild.className = `examples ${page.layout ?? ""}`;
    panel.lastChild.innerHTML = examples.join("");
  };
  for (const button of $("button[data-examples]")) {
    button.onclick = () => show(button.dataset.examples, button.dataset.title, Number(button.dataset.count));
  }

  // A live page asks for new data every two seconds.
  const source = document.body.dataset.live;
  if (!source) return;
  let key = null;
  const poll = async () => {
    const response = await fetch(source, { cache: "no-cache" }).catch(() => null);
    if (response?.status === 200) {
      const news = await response.json();
      if ((key !== null && news.key !== key) || Object.keys(news.charts).some((name) => !page.charts[name])) {
        return location.reload();   // a metric or a setting that was not there
      }
      key = news.key;
      for (const [name, { data, spec }] of Object.entries(news.charts)) {
        const chart = page.charts[name];
        if (JSON.stringify(chart.data) === JSON.stringify(data)) continue;
        Object.assign(chart, { data, spec: spec ?? chart.spec });
        const view = views.get(name);
        if (view && spec) await draw(name);
        else await view?.data("rows", rows(data)).runAsync();
      }
      for (const [id, html] of Object.entries(news.parts)) {
        const part = document.getElementById(id);
        if (part?.tagName !== "TABLE") {
          if (part) part.innerHTML = html;
          continue;
        }
        const checked = new Set($("input:checked", part).map((box) => box.value));
        part.tBodies[0].innerHTML = html;
        $("input", part).forEach((box) => (box.checked = checked.has(box.value)));
        resort(part);
        refilter(part);
      }
    }
    setTimeout(poll, 2000);
  };
  setTimeout(poll, 1000);
})();
