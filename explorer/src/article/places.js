/** What statistics calls the places of rest, computed from the points alone: nothing here knows a loss. */

export const average = (points) => points.reduce((sum, x) => sum + x, 0) / points.length;

/** All numbers q-quantiles: from the least to the largest one that has a share q of the points at or below it. */
export function quantile(points, q) {
  const sorted = [...points].sort((a, b) => a - b);
  const at = q * sorted.length;
  const whole = Math.round(at);
  const exact = Math.abs(at - whole) < 1e-9;
  const low = Math.min(Math.max(exact ? whole - 1 : Math.floor(at), 0), sorted.length - 1);
  return [sorted[low], sorted[exact && whole > 0 ? Math.min(whole, sorted.length - 1) : low]];
}

/** The top of the points' density, each point blurred by a bell of this width: climbed from each, the highest kept. */
export function mode(points, width) {
  const bells = (x) => points.map((point) => Math.exp(-0.5 * ((x - point) / width) ** 2));
  const height = (x) => bells(x).reduce((a, b) => a + b);
  const tops = points.map((start) => {
    let x = start;
    for (let i = 0; i < 2000; i++) {
      const weights = bells(x);
      const next = points.reduce((sum, point, k) => sum + weights[k] * point, 0) / weights.reduce((a, b) => a + b);
      if (next === x) break;
      x = next;
    }
    return x;
  });
  return tops.reduce((best, x) => (height(x) > height(best) ? x : best));
}
