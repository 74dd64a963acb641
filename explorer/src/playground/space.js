/**
 * Where embeddings lie: free in the plane, or on the circle of radius 1. And what is measured between two of them, with
 * its derivatives by both.
 */

/**
 * By space: how many numbers a point has, where they put it, what of the derivatives by its place can move it, and the
 * derivatives by its numbers.
 */
export const SPACES = {
  plane: {
    size: 2,
    of: ({ x, y }) => [x, y],
    place: (p, i) => [p[2 * i], p[2 * i + 1]],
    along: (p, i, by) => by,
    back(p, i, [bx, by], gradient) {
      gradient[2 * i] += bx;
      gradient[2 * i + 1] += by;
    },
  },
  circle: {
    size: 1,
    of: ({ x, y }) => [Math.atan2(y, x)],
    place: (p, i) => [Math.cos(p[i]), Math.sin(p[i])],
    along(p, i, [bx, by]) {
      const turn = by * Math.cos(p[i]) - bx * Math.sin(p[i]);
      return [-turn * Math.sin(p[i]), turn * Math.cos(p[i])];
    },
    back(p, i, [bx, by], gradient) {
      gradient[i] += by * Math.cos(p[i]) - bx * Math.sin(p[i]);
    },
  },
};

/** The Euclidean distance; eps is added to each difference, as torch does. Two points in one place have no direction. */
export function distance([ax, ay], [bx, by], eps = 0) {
  const [dx, dy] = [ax - bx + eps, ay - by + eps];
  const length = Math.sqrt(dx * dx + dy * dy);
  const unit = length > 0 ? [dx / length, dy / length] : [0, 0];
  return { value: length, first: unit, second: [-unit[0], -unit[1]] };
}

/** The cosine; a point in the origin has none, and no gradient. */
export function cosine([ax, ay], [bx, by]) {
  const [a, b] = [Math.sqrt(ax * ax + ay * ay), Math.sqrt(bx * bx + by * by)];
  if (!(a > 0 && b > 0)) return { value: 0, first: [0, 0], second: [0, 0] };
  const [ux, uy, vx, vy] = [ax / a, ay / a, bx / b, by / b];
  const value = ux * vx + uy * vy;
  return {
    value,
    first: [(vx - value * ux) / a, (vy - value * uy) / a],
    second: [(ux - value * vx) / b, (uy - value * vy) / b],
  };
}
