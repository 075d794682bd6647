// Requests to the server. Every write has the header that no form and no foreign page can send.

const WRITE = { "X-SharpCam": "1" };

// What went wrong, in words that can be shown.
export class Failure extends Error {
  constructor(error, hint = "") {
    super(hint ? `${error} (${hint})` : error);
  }
}

async function checked(request) {
  let response;
  try {
    response = await request;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("SharpCam does not answer", "run sharpcam ui again");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({ error: `status ${response.status}` }));
  throw new Failure(told.error, told.hint);
}

export async function get(path) {
  return (await checked(fetch(path))).json();
}

export async function post(path, values = {}) {
  const headers = { ...WRITE, "Content-Type": "application/json" };
  return (await checked(fetch(path, { method: "POST", headers, body: JSON.stringify(values) }))).json();
}

// The next frame as it comes from the camera, a PNG file.
export async function takeFrame() {
  const headers = { ...WRITE, "Content-Type": "application/json" };
  const blob = await (await checked(fetch("frame", { method: "POST", headers, body: "{}" }))).blob();
  return new File([blob], "frame.png", { type: "image/png" });
}

// The records of a comparison, one by one as they come; `data` of each is a Blob. See web/job.py.
export async function* compare(job, pictures, signal) {
  const line = JSON.stringify({ ...job, sizes: pictures.map((picture) => picture.size) });
  const body = new Blob([line, "\n", ...pictures]);
  const headers = { ...WRITE, "Content-Type": "application/octet-stream" };
  const response = await checked(fetch("compare", { method: "POST", headers, body, signal }));
  const bytes = new Bytes(response.body.getReader());
  let ended = false;
  let failure = null;
  for (let head = await bytes.read(4); head; head = await bytes.read(4)) {
    const size = new DataView(head.buffer).getUint32(0);
    const record = JSON.parse(new TextDecoder().decode(await bytes.read(size)));
    record.data = new Blob([record.bytes ? await bytes.read(record.bytes) : ""]);
    ended = record.kind === "end";
    if (record.kind === "failed") failure = new Failure(record.error, record.hint);
    else yield record;
  }
  if (failure) throw failure; // not before the stream ends: until then the server takes no other comparison
  if (!ended) throw new Failure("the comparison broke off", "try again");
}

// Reads a stream in pieces of the wanted sizes.
class Bytes {
  #reader;
  #chunks = [];
  #held = 0;

  constructor(reader) {
    this.#reader = reader;
  }

  // Uint8Array of `size` bytes; null at the end of the stream.
  async read(size) {
    while (this.#held < size) {
      const { done, value } = await this.#reader.read();
      if (done && this.#held === 0) return null;
      if (done) throw new Failure("the comparison broke off", "try again");
      this.#chunks.push(value);
      this.#held += value.length;
    }
    const out = new Uint8Array(size);
    for (let at = 0; at < size;) {
      const chunk = this.#chunks[0];
      const part = chunk.subarray(0, size - at);
      out.set(part, at);
      at += part.length;
      if (part.length === chunk.length) this.#chunks.shift();
      else this.#chunks[0] = chunk.subarray(part.length);
    }
    this.#held -= size;
    return out;
  }
}
