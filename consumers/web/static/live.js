// Changes as they come. Everything that came with an event is set as text, never as markup.
"use strict";
(() => {
  const list = document.getElementById("changes");
  const state = document.getElementById("state");
  const pause = document.getElementById("pause");
  const nothing = document.getElementById("nothing");
  const words = { c: "created", u: "changed", d: "deleted", r: "read" };
  const most = 200;
  let source = null;
  let paused = false;
  let held = [];

  const element = (name, text, kind) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };

  const late = (time) => {
    const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
    return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
  };

  const show = (change) => {
    const item = element("li", undefined, `op-${change.op in words ? change.op : "u"}`);
    const line = element("p");
    line.append(element("b", words[change.op] || change.op), " ", `${change.model} ${change.record} `);
    const time = element("time", change.time.slice(11, 23));
    time.dateTime = time.title = change.time;
    line.append(time, change.author ? ` by ${change.author}` : "", ` · ${change.late}`);
    item.append(line);
    const fields = element("ul");
    for (const field of change.fields) {
      const row = element("li");
      row.append(element("b", field.name), " ");
      if (change.op === "u" || change.op === "d") row.append(element("del", field.old === null ? "?" : field.old), " ");
      if (change.op !== "d") row.append(element("ins", field.new === null ? "?" : field.new));
      fields.append(row);
    }
    if (change.more) fields.append(element("li", `and ${change.more} more fields`));
    item.append(fields);
    list.prepend(item);
    while (list.children.length > most) list.lastElementChild.remove();
    nothing.hidden = true;
  };

  const take = (message) => {
    const change = JSON.parse(message.data);
    change.late = late(change.time);
    if (!paused) return show(change);
    held.push(change);
    if (held.length > most) held.shift();
    state.textContent = `Paused; ${held.length} waiting.`;
  };

  const open = () => {
    if (source) return;
    source = new EventSource(`/live/events?binding=${encodeURIComponent(list.dataset.binding)}`);
    source.onopen = () => { state.textContent = paused ? state.textContent : "Live."; };
    source.onerror = () => { state.textContent = "The connection was lost; trying again."; };
    source.onmessage = take;
  };

  const close = () => { if (source) { source.close(); source = null; } };

  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Go on" : "Pause";
    state.textContent = paused ? "Paused." : "Live.";
    if (!paused) { held.forEach(show); held = []; }
  });
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  pause.hidden = false;
  nothing.hidden = false;
  state.textContent = "Connecting.";
  if (!document.hidden) open();
})();
