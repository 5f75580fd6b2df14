// Starts the page, and shows what keeps it from starting. A classic script, as browsers run no
// modules of pages that were opened as files.
"use strict";

window.tfgrad = { model: null, result: null, error: null, busy: true };

(function start() {
  /** Show one sentence in place of whatever was going on. */
  window.tfgrad.fail = function fail(sentence) {
    window.tfgrad.error = sentence;
    window.tfgrad.busy = false;
    document.getElementById("status").textContent = "";
    document.getElementById("error").textContent = sentence;
    document.getElementById("main").setAttribute("aria-busy", "false");
  };

  const unexpected = (reason) => {
    const told = reason instanceof Error ? reason.message : String(reason);
    window.tfgrad.fail(`The page met an unexpected error (${told}). Reload it to start again.`);
  };
  window.addEventListener("error", (event) => unexpected(event.error ?? event.message));
  window.addEventListener("unhandledrejection", (event) => unexpected(event.reason));

  if (location.protocol === "file:") {
    window.tfgrad.fail(
      "This page was opened as a file, and browsers do not let such pages read the model's files " +
        "beside them. Serve the folder instead: run “python -m http.server” in it and open " +
        "http://localhost:8000.",
    );
    return;
  }
  if (typeof WebAssembly !== "object" || typeof createImageBitmap !== "function") {
    window.tfgrad.fail(
      "This browser lacks WebAssembly or createImageBitmap, with which the page computes. Open it " +
        "in a current Chrome, Edge, Firefox or Safari.",
    );
    return;
  }
  const script = document.createElement("script");
  script.type = "module";
  script.src = "app.js";
  script.addEventListener("error", () =>
    window.tfgrad.fail("app.js, a part of this page, could not be loaded. Reload the page."),
  );
  document.head.append(script);
})();
