/**
 * The clock of the playground: so many steps a second, one picture a frame.
 *
 * 1. Steps take at most BUDGET of a frame; a machine that cannot keep the speed is slower and still answers.
 * 2. Who wants reduced motion sees a picture twice a second, and nothing starts by itself.
 * 3. A frame is measured where anyone can see it: the performance panel of the browser shows it as "frame".
 */

const BUDGET = 10; // milliseconds
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** Whether somebody asked for less motion. */
export const calm = () => still.matches;

/** on.step() makes a step and says whether anything can still move; on.draw(); on.speed() is in steps a second. */
export function clock(on) {
  let frame = 0;
  let [last, owed, drawn] = [0, 0, 0];
  const self = { playing: false };

  function tick(now) {
    const start = performance.now();
    const passed = Math.min(now - last, 100);
    last = now;
    owed += (passed * on.speed()) / 1000;
    let moving = true;
    while (owed >= 1 && moving) {
      owed--;
      moving = on.step();
      if (performance.now() - start > BUDGET) owed = 0;
    }
    if (!moving) self.pause();
    else frame = requestAnimationFrame(tick);
    if (!moving || !calm() || now - drawn > 500) {
      drawn = now;
      on.draw();
    }
    performance.clearMeasures("frame");
    performance.measure("frame", { start, end: performance.now() });
  }

  self.play = () => {
    if (self.playing) return;
    self.playing = true;
    last = performance.now();
    owed = 0;
    frame = requestAnimationFrame(tick);
    on.changed();
  };
  self.pause = () => {
    if (!self.playing) return;
    self.playing = false;
    cancelAnimationFrame(frame);
    on.changed();
  };
  return self;
}
