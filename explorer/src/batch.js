/**
 * The batch of a notebook: rows that `losskit.explain` has put into this page, in a script element that is data.
 *
 * 1. The page reads only what stands in it. It listens to no messages, so no other page can hand it anything.
 * 2. Inside a notebook the address is the notebook's: nothing is read from it or written to it.
 */

/** { link, table, rows, said } of the page, or null: the view, rows as CSV, what they are called, sentences. */
export function batchOf(document) {
  const element = document.getElementById("batch");
  if (!element) return null;
  const { link, table, rows, said } = JSON.parse(element.textContent);
  return { link: String(link), table: String(table), rows: rows.map(Number), said: said.map(String) };
}
