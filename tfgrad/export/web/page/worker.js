// Runs the model's files with ONNX Runtime Web, in a thread of its own: the page stays responsive.
// Messages in: {runtime, folder} once, then {id, name, inputs}. Messages out: {id, outputs,
// milliseconds}, {id, error}, or {loading, loaded, total} meanwhile.

const SCRIPT = "ort.wasm.bundle.min";
const BINARY = "ort-wasm-simd-threaded.wasm";

let started;
const sessions = new Map();
let queue = Promise.resolve();

self.onmessage = ({ data }) => {
  if (data.runtime) {
    started = data;
    return;
  }
  queue = queue.then(() => answered(data));
};

async function answered({ id, name, inputs, batch }) {
  try {
    const { ort, session } = await opened(name);
    const feeds = {};
    for (const key of session.inputNames) {
      if (!inputs[key]) throw new Error(`${name}.onnx takes “${key}”, which this page does not have.`);
      const { type, values, shape } = inputs[key];
      const repeated = new values.constructor(values.length * batch);
      for (let i = 0; i < batch; i += 1) repeated.set(values, i * values.length);
      feeds[key] = new ort.Tensor(type, repeated, [batch, ...shape]);
    }
    const start = performance.now();
    const found = await session.run(feeds);
    const milliseconds = performance.now() - start;
    const outputs = {};
    for (const [key, { data, dims }] of Object.entries(found)) {
      outputs[key] = { values: data.slice(0, data.length / batch), shape: dims.slice(1) };
    }
    self.postMessage({ id, outputs, milliseconds });
  } catch (error) {
    self.postMessage({ id, error: error instanceof Error ? error.message : String(error) });
  }
}

/** The session of a file; a failure is not kept, so that the next request tries again. */
async function opened(name) {
  const ort = await runtime();
  if (!sessions.has(name)) {
    const file = `${name}.onnx`;
    const content = await fetched(new URL(encodeURIComponent(file), started.folder), file);
    try {
      const options = { executionProviders: ["wasm"], logSeverityLevel: 3 };
      sessions.set(name, await ort.InferenceSession.create(content, options));
    } catch (error) {
      throw new Error(`${file} could not be opened (${error.message ?? error}).`);
    }
  }
  return { ort, session: sessions.get(name) };
}

let loaded = null;

function runtime() {
  loaded ??= load().catch((error) => {
    loaded = null;
    throw error;
  });
  return loaded;
}

async function load() {
  const { address, integrity } = started.runtime;
  const base = new URL(address, started.folder);
  const binary = await fetched(new URL(BINARY, base), "ONNX Runtime Web", integrity?.[BINARY]);
  let ort;
  if (integrity) {
    // Imported from the bytes that were checked.
    const file = `${SCRIPT}.mjs`;
    const script = await fetched(new URL(file, base), "ONNX Runtime Web", integrity[file]);
    const blob = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
    ort = await import(blob);
    ort.env.wasm.numThreads = 1; // threads would import their script from the blob's address
  } else {
    ort = await import(new URL(`${SCRIPT}.js`, base));
  }
  ort.env.wasm.wasmBinary = binary;
  ort.env.logLevel = "error";
  return ort;
}

/** The bytes at an address; tells how many there are while they come in. */
async function fetched(url, what, integrity) {
  const elsewhere = url.origin !== self.location.origin;
  const options = elsewhere ? { credentials: "omit", referrerPolicy: "no-referrer" } : {};
  if (integrity) options.integrity = integrity;
  let response;
  try {
    response = await fetch(url, options);
  } catch {
    throw new Error(
      elsewhere
        ? `${what} could not be loaded from ${url.href}: there is no connection, or its content ` +
            "is not what is expected. Check the connection, or have this page exported with a copy of it."
        : `${what} could not be loaded: there is no connection to where this page came from.`,
    );
  }
  if (!response.ok) throw new Error(`${what} could not be loaded (${url.href}: ${response.status}).`);
  const total = Number(response.headers.get("Content-Length")) || 0;
  const parts = [];
  let sum = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    sum += value.length;
    self.postMessage({ loading: what, loaded: sum, total });
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}
