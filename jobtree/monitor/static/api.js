// How the page asks: every request has the token in a header, which is the proof that it was this page that has asked.

const TOKEN = new URLSearchParams(location.search).get("token") ?? "";
const HEADERS = { authorization: `Bearer ${TOKEN}` };
const LONGEST_PAUSE = 15000;
const SILENCE = 40000; // the monitor says something every 15 seconds

async function answer(response) {
  const value = await response.json().catch(() => ({ error: `the monitor answered with status ${response.status}` }));
  if (!response.ok) throw new Error(value.error ?? `status ${response.status}`);
  return value;
}

/** What the API tells about a tree: path is what follows /api/v1/trees. Throws an Error with a sentence. */
export async function ask(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
  const text = new URLSearchParams(given).toString();
  return answer(await fetch(`/api/v1/trees${path}${text && `?${text}`}`, { headers: HEADERS }));
}

/** Have something done. Throws an Error with a sentence. */
export async function order(path, body) {
  const headers = { ...HEADERS, "content-type": "application/json" };
  return answer(await fetch(`/api/v1/trees${path}`, { method: "POST", headers, body: JSON.stringify(body) }));
}

/** Hear of a tree until the function that this returns is called. heard(kind, value): "trees" or "tree", and what is
 * told; link(words, lost): how the connection is. (EventSource cannot send the token in a header.) */
export function listen(tree, heard, link) {
  const ending = new AbortController();
  const run = async () => {
    let pause = 500;
    while (!ending.signal.aborted) {
      try {
        await stream(tree, ending.signal, (kind, value) => {
          pause = 500;
          link("live", false);
          heard(kind, value);
        });
      } catch (error) {
        if (ending.signal.aborted) return;
        if (error.refused) return link(error.message, true);
      }
      if (ending.signal.aborted) return;
      link("The monitor does not answer; asking again. What is shown is what was seen last.", true);
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = Math.min(LONGEST_PAUSE, 2 * pause);
    }
  };
  run();
  return () => ending.abort();
}

async function stream(tree, signal, heard) {
  const silent = new AbortController();
  const stop = () => silent.abort();
  signal.addEventListener("abort", stop);
  let timer = setTimeout(stop, SILENCE);
  try {
    const response = await fetch(`/api/v1/events?tree=${tree}`, { headers: HEADERS, signal: silent.signal });
    if (!response.ok) {
      const said = await response.json().catch(() => ({}));
      throw Object.assign(new Error(said.error ?? `status ${response.status}`), { refused: response.status < 500 });
    }
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(stop, SILENCE);
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const found = /^event: (\w+)\ndata: (.*)$/.exec(block);
        if (found) heard(found[1], JSON.parse(found[2]));
      }
    }
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", stop);
  }
}
