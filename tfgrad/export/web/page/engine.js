import { Refusal } from "./refusal.js";

/**
 * The model's files, run by a worker.
 *
 * @param {object} model model.json.
 * @param {(what: string, loaded: number, total: number) => void} onLoading Called while files load.
 */
export class Engine {
  #worker;
  #waiting = new Map();
  #next = 0;
  #stopped = null;
  #batch;

  constructor(model, onLoading) {
    this.#batch = model.batch_size;
    this.#worker = new Worker("worker.js", { type: "module" });
    this.#worker.onmessage = ({ data }) => {
      if (data.loading) onLoading(data.loading, data.loaded, data.total);
      else this.#settle(data);
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      const reason = event.message ?? "worker.js could not be loaded";
      this.#stopped = `The part of this page that computes has stopped (${reason}). Reload the page.`;
      for (const id of [...this.#waiting.keys()]) this.#settle({ id, error: this.#stopped });
    };
    const folder = new URL(".", document.baseURI).href;
    this.#worker.postMessage({ runtime: model.runtime, folder });
  }

  /**
   * Run one file.
   *
   * @param {string} name Its name without the ending.
   * @param {object} inputs {name: {type, values, shape}} of one example.
   * @returns {Promise<{outputs: object, milliseconds: number}>} {name: {values, shape}} of one.
   * @throws {Refusal} It cannot be loaded or run.
   */
  run(name, inputs) {
    if (this.#stopped) return Promise.reject(new Refusal(this.#stopped));
    const id = (this.#next += 1);
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, name, inputs, batch: this.#batch });
    });
  }

  #settle({ id, error, outputs, milliseconds }) {
    const { resolve, reject } = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (error) reject(new Refusal(error));
    else resolve({ outputs, milliseconds });
  }
}
