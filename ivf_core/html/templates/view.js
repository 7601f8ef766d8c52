"use strict";
(() => {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const find = (selector, root = document) => root.querySelector(selector);
  const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];
  const live = page.live;
  const body = document.body;

  const seconds = []; // of the frames that are known, of a recording
  let status = { timeline: null, counters: [], duration: 0, note: "" };
  let first = 0; // frames from here on are there
  let count = 0; // number of frames known
  let current = -1; // the frame on display
  let frame = null; // its values
  let playing = live;
  let following = live;
  let classes = page.classes;
  const hidden = new Set();
  let large = "fused";
  let alone = false; // the large panel without the others

  // ---------------------------------------------------------------- helpers

  function element(name, text = "", attributes = {}) {
    const made = document.createElement(name);
    made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function clock(value) {
    const sign = value < 0 ? "−" : "";
    const whole = Math.abs(value);
    const hours = Math.floor(whole / 3600);
    const minutes = Math.floor(whole / 60) % 60;
    const rest = (whole % 60).toFixed(2).padStart(5, "0");
    return `${sign}${hours ? `${hours}:${String(minutes).padStart(2, "0")}` : minutes}:${rest}`;
  }

  /** Return the last frame that is not later than a time. */
  function frameAt(time) {
    let low = 0;
    let high = seconds.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (seconds[middle] <= time) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

  async function ask(path) {
    const answer = await fetch(path);
    if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? answer.statusText);
    return answer;
  }

  function trouble(text) {
    const place = find("#trouble");
    place.hidden = !text;
    if (place.textContent !== text) place.textContent = text;
  }

  // ----------------------------------------------------------------- panels

  const figures = new Map(findAll("#stage figure").map((figure) => [figure.dataset.panel, figure]));
  const shownPanels = () => [...figures.keys()].filter((name) => !hidden.has(name) && (!alone || name === large));

  function arrange() {
    if (hidden.has(large)) large = [...figures.keys()].find((name) => !hidden.has(name)) ?? large;
    const shown = shownPanels();
    for (const [name, figure] of figures) {
      figure.hidden = !shown.includes(name);
      figure.classList.toggle("large", name === large);
    }
    for (const chip of findAll(".chip")) {
      chip.setAttribute("aria-pressed", String(!hidden.has(chip.dataset.toggle)));
    }
    find("#stage").dataset.count = shown.length;
  }

  function toggle(name) {
    if (!hidden.delete(name) && hidden.size < figures.size - 1) hidden.add(name);
    alone = false;
    arrange();
    refresh();
  }

  function enlarge(name) {
    hidden.delete(name);
    large = name;
    arrange();
    refresh();
  }

  const options = () =>
    `palette=${encodeURIComponent(find("#palette").value)}&opacity=${find("#opacity").value}&base=${encodeURIComponent(page.base)}`;

  /** Fetch the values of a frame and the images of the panels that are shown. */
  async function load(number) {
    const values = await (await ask(`/frames/${number}`)).json();
    const names = shownPanels().filter((name) => values.panels.includes(name));
    const images = await Promise.all(
      names.map(async (name) => {
        const suffix = name === "mask" ? "png" : "jpg";
        const answer = await ask(`/frames/${number}/${name}.${suffix}?${options()}`);
        return [name, await createImageBitmap(await answer.blob())];
      }),
    );
    return { values, images };
  }

  function show({ values, images }) {
    current = values.number;
    frame = values;
    find("#stage").style.setProperty("--aspect", (values.size[0] / values.size[1]).toFixed(4));
    const drawn = new Set();
    for (const [name, bitmap] of images) {
      const canvas = find("canvas", figures.get(name));
      if (canvas.width !== bitmap.width) canvas.width = bitmap.width;
      if (canvas.height !== bitmap.height) canvas.height = bitmap.height;
      canvas.getContext("2d").drawImage(bitmap, 0, 0);
      bitmap.close();
      drawn.add(name);
    }
    for (const name of shownPanels()) figures.get(name).classList.toggle("empty", !drawn.has(name));
    trouble(values.failed);
    describe();
    body.dataset.frame = current; // for tests
  }

  // ------------------------------------------------------------------ cards

  function fill(place, items, empty) {
    find(place).replaceChildren(...(items.length ? items : [element("p", empty, { class: "nothing" })]));
  }

  function row(label, value) {
    const made = element("tr");
    made.append(element("th", label, { scope: "row" }), element("td", value));
    return made;
  }

  function describe() {
    const time = frame.seconds;
    find("#clock").textContent = live ? clock(time) : `${clock(time)} / ${clock(status.duration)}`;
    find("#which").textContent = live ? `frame ${current}` : `${current + 1} of ${count}`;
    const slider = find("#slider");
    slider.value = current;
    slider.setAttribute("aria-valuetext", `frame ${current} at ${clock(time)}`);
    const health = frame.health.map(({ camera, severity, text, remedy }) => {
      const made = element("div", "", { "data-severity": severity });
      made.append(element("i"), element("span", `${camera}: ${text}`));
      if (remedy) made.append(element("small", remedy));
      return made;
    });
    if (frame.alone) {
      const made = element("div", "", { "data-severity": "fault" });
      made.append(element("i"), element("span", `${frame.alone === "rgb" ? "RGB" : "thermal"} camera fused alone`));
      health.push(made);
    }
    fill("#health", health, "no times, so that nothing is known of their health");
    const longest = Math.max(1, ...frame.timings.map(([, value]) => value));
    const bars = frame.timings.map(([name, value]) => {
      const made = element("div");
      const bar = element("i");
      bar.style.setProperty("--share", `${(100 * value) / longest}%`);
      made.append(element("span", name), bar, element("b", `${value.toFixed(1)} ms`));
      return made;
    });
    fill("#timings", bars, "–");
    const legend = classes.map(({ name, color }, index) => {
      const share = frame.shares[index] ?? 0;
      const made = element("li", "", share ? {} : { class: "none" });
      const swatch = element("i", "", { class: "swatch" });
      swatch.style.background = color;
      made.append(swatch, element("span", name), element("b", share ? `${(100 * share).toFixed(1)} %` : ""));
      return made;
    });
    fill("#classes", legend, "these weights have no masks");
    const own = live ? frame.facts : [...frame.facts, ...page.facts];
    find("#facts").replaceChildren(...own.map(([label, value]) => row(label, value)));
    drawTimeline();
  }

  let listed = "";

  function describeStatus() {
    find("#note").textContent = status.note;
    find("#counters").replaceChildren(...status.counters.map(([label, value]) => row(label, String(value))));
    const slider = find("#slider");
    slider.min = first;
    slider.max = Math.max(first, count - 1);
    slider.disabled = count - first < 2;
    const { events } = status.timeline;
    const text = JSON.stringify(events);
    if (text !== listed) {
      listed = text;
      const items = events.map((event) => {
        const item = element("li");
        const button = element("button", "", { type: "button", "data-severity": event.severity });
        button.append(element("span", clock(event.seconds)), element("b", event.text));
        button.addEventListener("click", () => jump(event.frame));
        item.append(button);
        return item;
      });
      fill("#events", items, live ? "none in the last minutes" : "none so far; faults of cameras are found as frames are shown");
      if (live) find("#events").scrollTop = find("#events").scrollHeight;
    }
    if (frame) describe();
    else drawTimeline();
  }

  // -------------------------------------------------------------- time line

  function span() {
    const { start, bin_seconds, lost } = status.timeline;
    return [start, start + bin_seconds * lost.length];
  }

  function drawTimeline() {
    const canvas = find("#timeline");
    const { width, height } = canvas.getBoundingClientRect();
    const scale = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    if (!status.timeline) return;
    const { lost, severity, alone: single, bin_seconds } = status.timeline;
    const bin = width / lost.length;
    const strip = 7;
    const axis = 13;
    const bottom = height - axis - strip - 3;
    context.fillStyle = color("--quiet");
    context.fillRect(0, 0, width, bottom);
    const most = Math.max(3, ...lost);
    const colors = [color("--ok"), color("--ok"), color("--fault"), color("--bad")];
    const unseen = color("--unseen");
    lost.forEach((value, index) => {
      const left = index * bin;
      if (single[index]) {
        context.fillStyle = color("--one");
        context.globalAlpha = 0.35;
        context.fillRect(left, 0, bin + 0.5, bottom);
        context.globalAlpha = 1;
      }
      if (value) {
        const tall = Math.max(3, (bottom * value) / most);
        context.fillStyle = color("--lost");
        context.fillRect(left, bottom - tall, Math.max(1, bin - 0.5), tall);
      }
      context.fillStyle = severity[index] < 0 ? unseen : colors[severity[index]];
      context.fillRect(left, bottom + 3, bin + 0.5, strip);
    });
    const [start, end] = span();
    context.fillStyle = color("--muted");
    context.font = "10.5px system-ui, sans-serif";
    context.textBaseline = "bottom";
    const labels = width > 700 ? 5 : 3;
    for (let label = 0; label < labels; label += 1) {
      const share = label / (labels - 1);
      context.textAlign = label === 0 ? "left" : label === labels - 1 ? "right" : "center";
      const time = start + share * (end - start);
      context.fillText(live ? `${Math.round(time - end)} s` : clock(time), share * width, height);
    }
    for (const event of status.timeline.events) {
      const left = ((event.seconds - start) / (end - start)) * width;
      context.fillStyle = colors[event.severity] ?? unseen;
      context.beginPath();
      context.arc(left, 4.5, 3, 0, 7);
      context.fill();
    }
    if (frame) {
      const left = Math.min(width - 1, Math.max(1, ((frame.seconds - start) / (end - start)) * width));
      context.fillStyle = color("--text");
      context.fillRect(left - 1, 0, 2, height - axis);
    }
    canvas.dataset.bin = bin_seconds;
  }

  function timeUnder(event) {
    const box = find("#line").getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const [start, end] = span();
    return [start + share * (end - start), share * box.width];
  }

  // --------------------------------------------------------------- playback

  let wanted = null;
  let target = null; // the latest wish, until it is shown
  let busy = false;
  let ahead = null; // the next frame, asked for while this one is shown

  /** Show the wanted frame; while one is fetched, the latest wish is remembered. */
  async function refresh(number = current) {
    if (count <= first) return;
    wanted = target = Math.min(Math.max(first, number), Math.max(first, count - 1));
    if (busy) return;
    busy = true;
    while (wanted !== null) {
      const next = wanted;
      wanted = null;
      try {
        ahead = null;
        show(await load(next));
      } catch (error) {
        trouble(error instanceof TypeError ? "The server does not answer." : error.message);
      }
    }
    busy = false;
    target = null;
    reset();
  }

  /** Return the frame from which a step leaves: the one on display, or the latest wish. */
  const place = () => target ?? current;

  let since = 0;
  let sinceSeconds = 0;

  /** Start the clock of playback at the frame on display. */
  function reset() {
    since = performance.now();
    sinceSeconds = seconds[current] ?? 0;
  }

  function jump(number) {
    if (live) pause();
    refresh(number);
  }

  function pause() {
    playing = following = false;
    body.classList.remove("playing");
    find("#badge").classList.add("paused");
    find("#play").setAttribute("aria-label", "Play");
  }

  function play() {
    if (!live && current >= count - 1 && status.complete) refresh(0);
    playing = true;
    following = live;
    body.classList.add("playing");
    find("#badge").classList.remove("paused");
    find("#play").setAttribute("aria-label", "Pause");
    reset();
  }

  const speed = () => Number(find("#speed")?.value ?? 1);

  /** Choose the next frame by the clock, and wait until its time has come. */
  async function nextFrame() {
    if (!speed()) return current + 1;
    const time = () => sinceSeconds + ((performance.now() - since) / 1e3) * speed();
    const due = frameAt(time());
    if (due > current) return due;
    const next = current + 1;
    const early = ((seconds[next] - time()) / speed()) * 1e3;
    await wait(Math.max(0, Math.min(early, 500)));
    return early > 500 ? null : next;
  }

  async function playLoop() {
    for (;;) {
      if (!playing || busy || document.hidden || current < 0) {
        await wait(30);
        if (document.hidden) reset();
        continue;
      }
      if (current + 1 >= count) {
        if (status.complete) pause();
        await wait(100);
        reset();
        continue;
      }
      const number = await nextFrame();
      if (number === null || !playing || busy) continue;
      busy = true;
      try {
        const shown = ahead?.number === number ? ahead.loading : load(number);
        ahead = null;
        const loaded = await shown;
        if (wanted === null) show(loaded);
        if (current + 1 < count) {
          const loading = load(current + 1);
          loading.catch(() => {});
          ahead = { number: current + 1, loading };
        }
      } catch (error) {
        trouble(error instanceof TypeError ? "The server does not answer." : error.message);
        await wait(1000);
      }
      busy = false;
      if (wanted !== null) refresh(wanted);
    }
  }

  async function statusLoop() {
    for (;;) {
      while (document.hidden) await wait(200);
      try {
        const path = live ? `/status?after=${following ? Math.max(current, count - 1) : count - 1}` : `/status?since=${seconds.length}`;
        const news = await (await ask(path)).json();
        if (live) {
          count = news.count;
          first = news.first;
          classes = news.classes;
        } else if (news.since === seconds.length) {
          for (const value of news.seconds) seconds.push(value);
          count = seconds.length;
        }
        status = news;
        describeStatus();
        if (live && following && count > first && count - 1 !== current) await refresh(count - 1);
        else if (!live && current < 0 && count) {
          const asked = Number(/^#frame=(\d+)$/.exec(location.hash)?.[1] ?? 0);
          await refresh(asked);
        }
        if (live && find("#trouble").textContent === "The server does not answer.") trouble("");
      } catch {
        trouble("The server does not answer.");
        await wait(1500);
      }
      if (!live) await wait(status.complete ? 1500 : 400);
    }
  }

  // ------------------------------------------------------------------ input

  function faster(step) {
    const select = find("#speed");
    if (!select) return;
    select.selectedIndex = Math.min(select.options.length - 1, Math.max(0, select.selectedIndex + step));
    reset();
  }

  function stepSeconds(amount) {
    const from = place();
    if (live) jump(from + 10 * Math.sign(amount));
    else jump(amount > 0 ? Math.max(from + 1, frameAt(seconds[from] + amount)) : frameAt(seconds[from] + amount));
  }

  function nextEvent(direction) {
    const { events } = status.timeline ?? { events: [] };
    const beyond = events.filter((event) => (event.frame - current) * direction > 0);
    const event = direction > 0 ? beyond[0] : beyond[beyond.length - 1];
    if (event) jump(event.frame);
  }

  function save() {
    if (current < 0) return;
    const link = element("a", "", { href: `/frames/${current}/frame.zip?${options()}`, download: "" });
    body.append(link);
    link.click();
    link.remove();
  }

  const names = [...figures.keys()];
  const keys = {
    " ": () => (playing ? pause() : play()),
    ArrowLeft: (event) => (event.shiftKey ? stepSeconds(-1) : (pause(), jump(place() - 1))),
    ArrowRight: (event) => (event.shiftKey ? stepSeconds(1) : (pause(), jump(place() + 1))),
    ArrowUp: () => faster(1),
    ArrowDown: () => faster(-1),
    Home: () => jump(first),
    End: () => jump(count - 1),
    "[": () => nextEvent(-1),
    "]": () => nextEvent(1),
    f: () => ((alone = !alone), arrange(), refresh()),
    s: save,
    l: () => live && play(),
    "?": () => find("#help").showModal(),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || find("#help").open) return;
    if (event.target.matches("select")) return;
    const digit = /^Digit([1-9])$/.exec(event.code)?.[1];
    const name = digit && names[digit - 1];
    const act = name ? () => (event.shiftKey ? enlarge(name) : toggle(name)) : keys[event.key] ?? keys[event.key.toLowerCase()];
    if (!act || (event.target.matches("button") && event.key === " " && event.target.id !== "play")) return;
    event.preventDefault();
    act(event);
  });
  find("#play").addEventListener("click", () => (playing ? pause() : play()));
  find("#back").addEventListener("click", () => (pause(), jump(place() - 1)));
  find("#forward").addEventListener("click", () => (pause(), jump(place() + 1)));
  find("#follow")?.addEventListener("click", play);
  find("#speed")?.addEventListener("change", reset);
  find("#save").addEventListener("click", save);
  find("#help-button").addEventListener("click", () => find("#help").showModal());
  find("#slider").addEventListener("input", (event) => jump(Number(event.target.value)));
  find("#palette").addEventListener("change", () => refresh());
  find("#opacity").addEventListener("input", () => refresh());
  for (const chip of findAll(".chip")) chip.addEventListener("click", () => toggle(chip.dataset.toggle));
  for (const [name, figure] of figures) figure.addEventListener("click", () => name !== large && enlarge(name));
  const line = find("#line");
  const scrub = (event) => {
    if (!status.timeline || live) return;
    jump(frameAt(timeUnder(event)[0]));
  };
  line.addEventListener("pointerdown", (event) => {
    line.setPointerCapture(event.pointerId);
    scrub(event);
  });
  line.addEventListener("pointermove", (event) => {
    if (!status.timeline) return;
    const [time, left] = timeUnder(event);
    const hover = find("#hover");
    hover.hidden = false;
    hover.textContent = live ? `${(time - span()[1]).toFixed(0)} s` : clock(time);
    hover.style.left = `${left}px`;
    if (event.buttons) scrub(event);
  });
  line.addEventListener("pointerleave", () => (find("#hover").hidden = true));
  window.addEventListener("resize", drawTimeline);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawTimeline);

  arrange();
  if (live) play();
  if (!live) playLoop();
  statusLoop();
})();
