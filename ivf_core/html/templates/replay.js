"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const data = read("page-data");
  const images = read("page-images");
  const find = (selector, root = document) => root.querySelector(selector);
  const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];

  const count = data.index.length;
  for (const [name, { rows, values }] of Object.entries(data.columns)) {
    if (!rows) continue; // the column is complete
    data.columns[name] = new Array(count).fill(null);
    rows.forEach((row, place) => (data.columns[name][row] = values[place]));
  }
  const rowOf = new Map(data.index.map((pair, row) => [pair, row]));
  const pairsWithImages = Object.keys(images).map(Number).filter((pair) => rowOf.has(pair));
  let current = 0; // the row on display

  // ---------------------------------------------------------------- numbers

  function number(value, unit = "") {
    if (value === null || value === undefined) return "–";
    if (unit === "%") return `${Number((100 * value).toPrecision(3))} %`;
    const short = Math.abs(value) < 1e4 ? value.toPrecision(4) : value.toFixed(1);
    return `${Number(short)} ${unit}`.trim();
  }

  function clock(seconds) {
    const sign = seconds < 0 ? "−" : "";
    const whole = Math.abs(seconds);
    const rest = (whole % 60).toFixed(2).padStart(5, "0");
    return `${sign}${Math.floor(whole / 60)}:${rest}`;
  }

  /** Return the index of the value nearest to `wanted` in an ascending array. */
  function nearest(values, wanted) {
    let low = 0;
    let high = values.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (values[middle] <= wanted) low = middle;
      else high = middle;
    }
    return wanted - values[low] <= values[high] - wanted ? low : high;
  }

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // ----------------------------------------------------------------- viewer

  function buildViewer() {
    const strip = find(".strip");
    const shown = Object.keys(data.kinds).filter((kind) => pairsWithImages.some((pair) => images[pair][kind]));
    for (const kind of shown) {
      const figure = document.createElement("figure");
      figure.dataset.kind = kind;
      figure.append(document.createElement("img"), document.createElement("figcaption"));
      find("figcaption", figure).textContent = data.kinds[kind];
      const image = find("img", figure);
      image.tabIndex = 0;
      image.title = "Enlarge";
      image.addEventListener("click", () => enlarge(kind));
      image.addEventListener("keydown", (event) => event.key === "Enter" && enlarge(kind));
      strip.append(figure);
    }
    const values = find("#values");
    for (const { column, label, title, unit } of data.quantities) {
      const item = document.createElement("div");
      const term = document.createElement("dt");
      const figure = document.createElement("dd");
      term.textContent = label;
      term.title = title;
      figure.dataset.column = column;
      figure.dataset.unit = unit;
      item.append(term, figure);
      values.append(item);
    }
    const ticks = find(".ticks");
    for (const pair of Object.keys(data.notable)) {
      if (!rowOf.has(Number(pair))) continue;
      const tick = document.createElement("i");
      tick.style.left = `${(100 * rowOf.get(Number(pair))) / Math.max(1, count - 1)}%`;
      ticks.append(tick);
    }
  }

  /** Show the image of a kind as large as the window; it follows the current pair. */
  function enlarge(kind) {
    const dialog = find("#large");
    dialog.dataset.kind = kind;
    updateLarge();
    dialog.showModal();
  }

  function updateLarge() {
    const dialog = find("#large");
    const source = dialog.dataset.kind && find(`.strip figure[data-kind="${dialog.dataset.kind}"] img`);
    if (!source) return;
    find("img", dialog).src = source.src;
    find("img", dialog).alt = source.alt;
    find("p", dialog).textContent = source.alt;
  }

  function show(row) {
    current = Math.max(0, Math.min(count - 1, row));
    const pair = data.index[current];
    const seconds = data.seconds[current];
    const text = `Pair ${pair}, ${current + 1} of ${count}, at ${clock(seconds)}`;
    const slider = find("#slider");
    slider.value = current;
    slider.setAttribute("aria-valuetext", text);
    showImages(pair, text);
    for (const field of findAll("#values dd")) {
      field.textContent = number(data.columns[field.dataset.column][current], field.dataset.unit);
    }
    find("#reasons").replaceChildren(
      ...(data.notable[pair] ?? []).map((reason) => {
        const item = document.createElement("li");
        item.textContent = reason;
        return item;
      }),
    );
    for (const chart of charts) {
      placeCursor(chart);
      readOut(chart, null);
    }
  }

  function showImages(pair, text) {
    if (!pairsWithImages.length) {
      find("#which").textContent = `${text}; no images`;
      return;
    }
    const from = pairsWithImages[nearest(pairsWithImages, pair)];
    for (const figure of findAll(".strip figure")) {
      const source = images[from][figure.dataset.kind];
      const image = find("img", figure);
      figure.hidden = !source;
      if (!source) continue;
      if (image.src !== source) image.src = source;
      image.alt = `${data.kinds[figure.dataset.kind]} image of pair ${from}`;
    }
    const apart = data.seconds[rowOf.get(from)] - data.seconds[rowOf.get(pair)];
    const note = from === pair ? "" : `; images of pair ${from}, ${number(Math.abs(apart), "s")} ${apart < 0 ? "earlier" : "later"}`;
    find("#which").textContent = text + note;
    updateLarge();
  }

  /** Return the row of the next pair with images, before (-1) or after (1) the current one. */
  function stepToImages(direction) {
    const rows = pairsWithImages.map((pair) => rowOf.get(pair));
    const next = direction > 0 ? rows.find((row) => row > current) : rows.findLast((row) => row < current);
    return next ?? current;
  }

  function listen() {
    find("#slider").addEventListener("input", (event) => show(Number(event.target.value)));
    find("#large").addEventListener("click", () => find("#large").close());
    document.addEventListener("keydown", (event) => {
      const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!direction || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault(); // also prevents the slider's own step
      show(event.shiftKey ? stepToImages(direction) : current + direction);
    });
    for (const button of findAll("[data-pair]")) {
      button.addEventListener("click", () => {
        const row = rowOf.get(Number(button.dataset.pair));
        if (row === undefined) return;
        show(row);
        find(".viewer").scrollIntoView({ block: "nearest" });
      });
    }
    let timer = null;
    const play = find("#play");
    play.addEventListener("click", () => {
      clearInterval(timer);
      const start = play.getAttribute("aria-pressed") === "false";
      play.setAttribute("aria-pressed", String(start));
      play.textContent = start ? "❚❚" : "▶";
      if (!start) return;
      if (stepToImages(1) === current) show(0);
      timer = setInterval(() => {
        const next = stepToImages(1);
        if (next === current) play.click();
        else show(next);
      }, 200);
    });
  }

  // ----------------------------------------------------------------- charts

  const charts = []; // {spec, figure, plot, xs, values (of each series), timed}
  const whole = count ? [data.seconds[0], data.seconds[count - 1]] : [0, 1];
  if (whole[0] === whole[1]) whole[1] = whole[0] + 1;

  const lineColor = (series, place) => series.color ?? color(`--line-${(place % 6) + 1}`);

  /** Return the rows in which a chart has values, with rows of null at gaps, where its lines break. */
  function rowsOf(spec) {
    if (spec.x) return { xs: spec.x, values: spec.series.map((series) => series.values) };
    const columns = spec.series.map((series) => data.columns[series.column] ?? []);
    const xs = [];
    const values = columns.map(() => []);
    let gap = 0;
    for (let row = 0; row < count; row++) {
      if (columns.every((column) => column[row] === null || column[row] === undefined)) continue;
      const seconds = data.seconds[row];
      while (gap < data.gaps.length && data.gaps[gap][1] <= seconds + 1e-3) {
        const middle = (data.gaps[gap][0] + data.gaps[gap][1]) / 2;
        if (xs.length && middle > xs[xs.length - 1]) {
          xs.push(middle);
          values.forEach((list) => list.push(null));
        }
        gap++;
      }
      xs.push(seconds);
      columns.forEach((column, place) => values[place].push(column[row] ?? null));
    }
    return { xs, values };
  }

  /** Return cumulative sums of the series: the last one is drawn first, the first one on top. */
  function stacked(values) {
    const sums = [];
    values.forEach((list, place) => {
      sums.push(list.map((value, row) => (value === null ? null : value + (place ? sums[place - 1][row] ?? 0 : 0))));
    });
    return sums;
  }

  function build(figure) {
    const spec = data.charts.find((one) => one.id === figure.dataset.chart);
    const { xs, values } = rowsOf(spec);
    const chart = { spec, figure, xs, values, timed: spec.kind !== "bars" };
    const order = spec.series.map((_, place) => place);
    if (spec.kind === "stack") order.reverse();
    const drawn = spec.kind === "stack" ? stacked(values) : values;
    chart.plot = new uPlot(options(chart, order), [xs, ...order.map((place) => drawn[place])], find(".plot", figure));
    if (chart.timed) {
      chart.plot.setScale("x", { min: whole[0], max: whole[1] });
      chart.cursor = document.createElement("div");
      chart.cursor.className = "now";
      chart.plot.over.append(chart.cursor);
      chart.plot.over.addEventListener("click", (event) => {
        const left = event.clientX - chart.plot.over.getBoundingClientRect().left;
        show(nearest(data.seconds, chart.plot.posToVal(left, "x")));
      });
    }
    findAll("[data-swatch]", figure).forEach((swatch, place) => {
      const series = spec.series[place];
      swatch.style.background = series.color ?? `var(--line-${(place % 6) + 1})`;
    });
    return chart;
  }

  function options(chart, order) {
    const { spec } = chart;
    const axis = { stroke: () => color("--muted"), grid: { stroke: () => color("--grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const percent = spec.unit === "%";
    const series = order.map((place) => {
      const stroke = () => lineColor(spec.series[place], place);
      const filled = spec.kind !== "line";
      return {
        stroke: filled ? undefined : stroke,
        fill: filled ? stroke : undefined,
        width: filled ? 0 : 1.4,
        spanGaps: false,
        points: filled ? { show: false } : { size: 4 },
        paths: spec.kind === "bars" ? uPlot.paths.bars({ size: [0.9, 60] }) : undefined,
      };
    });
    return {
      ...size(chart),
      legend: { show: false },
      cursor: {
        y: false,
        points: { show: spec.kind === "line", size: 6 },
        drag: { x: chart.timed, y: false },
        sync: chart.timed ? { key: "time", scales: ["x", null] } : undefined,
        bind: chart.timed ? { dblclick: () => () => zoom(whole[0], whole[1]) } : {},
      },
      scales: {
        x: { time: false, range: chart.timed ? undefined : histogramRange },
        y: { range: (_, low, high) => heightRange(spec, low, high) },
      },
      axes: [
        { ...axis, size: 24, values: (_, splits) => splits.map(chart.timed ? axisTime : String), space: 60 },
        { ...axis, size: labelWidth, space: 20, values: (_, splits) => splits.map((value) => (percent ? `${Number((100 * value).toPrecision(4))} %` : String(Number(value.toPrecision(9))))) },
      ],
      series: [{}, ...series],
      hooks: {
        drawAxes: [(plot) => drawBand(plot, spec.band)],
        draw: [(plot) => drawMarks(plot, spec.marks)],
        setCursor: [(plot) => readOut(chart, plot.cursor.idx)],
        setScale: [(plot, key) => key === "x" && chart.timed && zoom(plot.scales.x.min, plot.scales.x.max)],
      },
    };
  }

  /** Return the width of the longest label of an axis, so that none is clipped. */
  function labelWidth(plot, labels) {
    const { ctx } = plot;
    ctx.save();
    ctx.font = "11px system-ui, sans-serif";
    const widths = (labels ?? []).map((label) => ctx.measureText(label ?? "").width);
    ctx.restore();
    return Math.ceil(Math.max(36, ...widths) + 12);
  }

  function size(chart) {
    const width = Math.max(160, Math.floor(find(".plot", chart.figure).clientWidth));
    return { width, height: chart.spec.section === "metrics" ? 130 : 160 };
  }

  function axisTime(seconds) {
    if (whole[1] < 120) return `${Number(seconds.toPrecision(6))} s`;
    return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
  }

  function histogramRange(plot, low, high) {
    const xs = plot.data[0];
    const half = xs.length > 1 ? (xs[1] - xs[0]) / 2 : 0.5;
    return [low - half, high + half];
  }

  function heightRange(spec, low, high) {
    if (low === null || low === undefined || (low === 0 && high === 0)) return [0, 1];
    if (spec.band) {
      low = Math.min(low, spec.band.p5);
      high = Math.max(high, spec.band.p95);
    }
    const fromZero = spec.kind !== "line" || ["%", "ms", "Hz", "px"].includes(spec.unit);
    if (fromZero && low >= 0) low = 0;
    const margin = 0.06 * (high - low) || Math.abs(high) * 0.05 || 0.5;
    return [fromZero && low === 0 ? 0 : low - margin, high + margin];
  }

  function drawBand(plot, band) {
    if (!band) return;
    const { ctx, bbox } = plot;
    const place = (value) => plot.valToPos(value, "y", true);
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.fillStyle = color("--band");
    for (const [low, high] of [["p5", "p95"], ["p25", "p75"]]) {
      ctx.fillRect(bbox.left, place(band[high]), bbox.width, place(band[low]) - place(band[high]));
    }
    ctx.strokeStyle = color("--band-line");
    ctx.setLineDash([4, 4]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, place(band.median));
    ctx.lineTo(bbox.left + bbox.width, place(band.median));
    ctx.stroke();
    ctx.restore();
  }

  function drawMarks(plot, marks) {
    const { ctx, bbox } = plot;
    for (const { x, label } of marks) {
      const left = plot.valToPos(x, "x", true);
      if (left < bbox.left || left > bbox.left + bbox.width) continue;
      ctx.save();
      ctx.strokeStyle = ctx.fillStyle = color("--accent");
      ctx.lineWidth = 1.5 * devicePixelRatio;
      ctx.beginPath();
      ctx.moveTo(left, bbox.top);
      ctx.lineTo(left, bbox.top + bbox.height);
      ctx.stroke();
      ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
      const text = ` ${label} `;
      const width = ctx.measureText(text).width;
      // To the side with more room, and inside the plot where neither side has enough.
      const wanted = left > bbox.left + bbox.width / 2 ? left - width : left;
      const place = Math.max(bbox.left, Math.min(wanted, bbox.left + bbox.width - width));
      ctx.textAlign = "left";
      ctx.fillText(text, place, bbox.top + 11 * devicePixelRatio);
      ctx.restore();
    }
  }

  /** Write the values at an index of the chart into its legend; null stands for the current pair. */
  function readOut(chart, place) {
    const { spec, figure, xs, values } = chart;
    if (place === null || place === undefined) {
      if (!chart.timed || !count) place = -1;
      else {
        place = nearest(xs, data.seconds[current]);
        if (!spec.x && xs[place] !== data.seconds[current]) place = -1; // no value for this pair
      }
    }
    findAll("[data-series]", figure).forEach((field, series) => {
      const text = place < 0 ? "" : number(values[series][place], spec.unit);
      field.textContent = spec.kind === "bars" && text ? `${text} at ${number(xs[place], spec.note)}` : text;
    });
  }

  function placeCursor(chart) {
    if (!chart.timed) return;
    const left = chart.plot.valToPos(data.seconds[current], "x");
    chart.cursor.hidden = !(left >= 0 && left <= chart.plot.over.clientWidth);
    chart.cursor.style.transform = `translateX(${left}px)`;
  }

  /** Show the same range of time in all charts. */
  function zoom(min, max) {
    for (const { plot, timed } of charts) {
      if (timed && (plot.scales.x.min !== min || plot.scales.x.max !== max)) plot.setScale("x", { min, max });
    }
    charts.forEach(placeCursor);
  }

  const redraw = () => charts.forEach(({ plot }) => plot.redraw(false));
  function resize() {
    for (const chart of charts) {
      const wanted = size(chart);
      if (wanted.width !== chart.plot.width) chart.plot.setSize(wanted);
      placeCursor(chart);
    }
  }

  // ------------------------------------------------------------------ start

  for (const image of findAll("[data-thumb]")) {
    const found = images[image.dataset.thumb];
    const kinds = (image.dataset.kinds ?? "overlay fused rgb").split(" ");
    const source = found && found[kinds.find((kind) => found[kind])];
    if (source) image.src = source;
    else image.remove();
  }
  for (const figure of findAll("[data-chart]")) charts.push(build(figure));
  if (count) {
    buildViewer();
    listen();
    show(0);
  }
  new ResizeObserver(resize).observe(document.body);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  // Print in light colours, with charts as wide as the columns of the page.
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.print = "";
    resize();
    redraw();
  });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.print;
    resize();
    redraw();
  });
})();
