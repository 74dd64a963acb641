/**
 * What hands do with points: pointer and keys, on every plane of the arena.
 *
 * `host` has the points, which one is selected, the planes' limits and what may be done; it is told when something
 * changed.
 */

import { rounded } from "./data.js";

const clamped = (x, [low, high]) => rounded(Math.min(Math.max(x, low), high));
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

/** The pointer's part, for plane(). */
export function pointer(host) {
  let holds = -1;
  let held = null; // the plane on which
  let last = { i: -1, at: 0 };
  return {
    over: (at, plane) => plane.nearest(host.places(plane), at, false) >= 0,
    grab(at, finger, plane) {
      holds = plane.nearest(host.places(plane), at, finger);
      held = plane;
      if (holds >= 0) host.select(holds);
      return holds >= 0;
    },
    drag: (at) => move(host, holds, at, held),
    drop(moved) {
      const now = performance.now();
      if (!moved && holds === last.i && now - last.at < 400) host.remove(holds);
      else if (!moved) host.click(holds);
      last = moved ? { i: -1, at: 0 } : { i: holds, at: now };
    },
    click: (at) => host.add(within(host, at)),
  };
}

const within = (host, { x, y }) => {
  const [across, up] = host.window();
  return { x: clamped(x, across), y: clamped(y, up) };
};

const move = (host, i, at, plane) => host.move(i, within(host, at), plane);

/** The keys' part; true where a key meant something. */
export function key(host, e) {
  if (e.altKey || e.ctrlKey || e.metaKey) return false;
  const points = host.places();
  const i = host.selected();
  const [across, up] = host.window();
  if (e.key in MOVES && points[i]) {
    const [dx, dy] = MOVES[e.key];
    const step = e.shiftKey ? 0.05 : 0.01;
    const { x, y } = points[i];
    move(host, i, { x: x + dx * step * (across[1] - across[0]), y: y + dy * step * (up[1] - up[0]) });
  } else if (e.key === "PageDown" || e.key in MOVES) host.select((i + 1) % points.length);
  else if (e.key === "PageUp") host.select((Math.max(i, 0) + points.length - 1) % points.length);
  else if (e.key === "a" || e.key === "Insert") host.add({ x: rounded(mean(across)), y: rounded(mean(up)) });
  else if (e.key === "Delete" || e.key === "Backspace") host.remove(i);
  else if (e.key === "l" || e.key === "Enter") host.click(i);
  else if (e.key === " ") host.toggle();
  else return false;
  return true;
}

const mean = ([a, b]) => (a + b) / 2;
