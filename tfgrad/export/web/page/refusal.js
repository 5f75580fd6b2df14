/** An error whose message is a sentence for whoever uses the page. */
export class Refusal extends Error {}

/** A name as it is shown within a sentence: in quotation marks, shortened. */
export function quoted(name) {
  const text = String(name || "unnamed file");
  return `“${text.length > 60 ? `${text.slice(0, 57)}…` : text}”`;
}
