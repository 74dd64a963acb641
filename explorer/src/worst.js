/** What one says about the losses of a file: their middle, their worst rows, and what those have of the gradient. */

/** The size of a sample, its mean, median, largest loss and its line. */
export function summary({ rows, lines }) {
  const finite = Float64Array.from(rows.filter(Number.isFinite)).sort();
  const n = finite.length;
  const middle = n % 2 ? finite[(n - 1) / 2] : (finite[n / 2 - 1] + finite[n / 2]) / 2;
  const worst = finite.at(-1);
  return {
    count: rows.length,
    undefined: rows.length - n,
    mean: finite.reduce((sum, x) => sum + x, 0) / n,
    median: n ? middle : NaN,
    largest: n ? worst : NaN,
    line: n ? lines[rows.indexOf(worst)] : null,
  };
}

/** Rows from the largest loss to the smallest; what has no finite loss is worst. */
export function ordered(rows) {
  const rank = (x) => (Number.isNaN(x) ? Infinity : x);
  return [...rows.keys()].sort((a, b) => (rank(rows[a]) === rank(rows[b]) ? a - b : rank(rows[b]) - rank(rows[a])));
}

/** The n rows of the largest loss: { row, line, loss, share }; null is the share where losses do not add up. */
export function worst({ rows, lines, order = ordered(rows) }, n = 10) {
  const total = rows.reduce((sum, x) => sum + x, 0);
  const adds = Number.isFinite(total) && total > 0 && rows.every((x) => x >= 0);
  return order
    .slice(0, n)
    .map((row) => ({ row, line: lines[row], loss: rows[row], share: adds ? rows[row] / total : null }));
}

export const SHARES = [0.01, 0.1, 0.5];

/**
 * How much of the sum of the gradients' lengths the rows of the largest loss have: for each share of the rows, at least
 * one, their number and their part; null where there is no gradient.
 */
export function gradientShares({ rows, gradients, order = ordered(rows) }) {
  const finite = order.filter((row) => Number.isFinite(rows[row]) && Number.isFinite(gradients[row]));
  const sum = (some) => some.reduce((total, row) => total + gradients[row], 0);
  const total = sum(finite);
  return SHARES.map((share) => {
    const count = Math.max(1, Math.round(share * finite.length));
    return { share, count, part: total > 0 ? sum(finite.slice(0, count)) / total : null };
  });
}
