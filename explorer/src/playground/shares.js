/** How strongly each point pulls: its share of the sum of all. */
export function shares(pulls) {
  const sizes = pulls.map((pull) => (typeof pull === "number" ? Math.abs(pull) : Math.hypot(...pull)));
  const sum = sizes.reduce((a, b) => a + b, 0);
  return sizes.map((size) => (sum > 0 ? size / sum : 0));
}
