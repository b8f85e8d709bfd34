// The live stream: server-sent events read with fetch, because EventSource cannot send a key.

const FIRST_MS = 500, LONGEST_MS = 8000, SILENT_MS = 10000;

/** Follow `url` until `signal` aborts; `on.refused` ends it, anything else is tried again. */
export async function follow(url, key, signal, on) {
  let pause = FIRST_MS;
  while (!signal.aborted) {
    try {
      const heard = await once(url, key, signal, on);
      if (heard === null) return;
      if (heard) pause = FIRST_MS;
    } catch (error) {
      if (signal.aborted) return;
    }
    on.lost();
    await new Promise((done) => setTimeout(done, pause));
    pause = Math.min(pause * 2, LONGEST_MS);
  }
}

/** One connection: whether anything came; null when the key was refused. */
async function once(url, key, signal, on) {
  const own = new AbortController();
  const end = () => own.abort();
  signal.addEventListener("abort", end);
  let timer = setTimeout(end, SILENT_MS), heard = false;
  try {
    const response = await fetch(url, { headers: { Authorization: `Bearer ${key}` }, signal: own.signal });
    if (response.status === 401 || response.status === 403) {
      on.refused((await response.json()).error);
      return null;
    }
    if (!response.ok) return false;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; ; ) {
      const { done, value } = await reader.read();
      if (done) return heard;
      clearTimeout(timer);
      timer = setTimeout(end, SILENT_MS);
      text += value;
      for (let at; (at = text.indexOf("\n\n")) >= 0; text = text.slice(at + 2)) {
        const lines = text.slice(0, at).split("\n");
        const field = (name) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
        if (field("event")) {
          heard = true;
          on[field("event")](JSON.parse(field("data")));
        }
      }
    }
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", end);
  }
}
