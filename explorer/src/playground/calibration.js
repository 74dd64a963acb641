/** Whether a model is as often right as it is sure. */

const BINS = 10;

/** What a model says of its points: how sure it is of its answer, and whether that is the label. */
export const answers = ({ objective, training }, points) =>
  points.map(({ x, y, label }) => {
    const found = objective.belief(training.parameters, x, y);
    const sure = Math.max(...found);
    return { sure, right: found.indexOf(sure) === label };
  });

/** Points in bins by how sure the model is: their number, how sure on average, and the share that is right. */
export function calibration(all) {
  const bins = Array.from({ length: BINS }, () => []);
  for (const one of all) bins[Math.min(Math.floor(one.sure * BINS), BINS - 1)].push(one);
  const mean = (list, of) => list.reduce((sum, x) => sum + of(x), 0) / list.length;
  return bins
    .filter((bin) => bin.length)
    .map((bin) => ({
      count: bin.length,
      sure: mean(bin, ({ sure }) => sure),
      right: mean(bin, ({ right }) => +right),
    }));
}

/** How far a model's sureness is from the share that is right, on average over the points. */
export const calibrationError = (all) =>
  calibration(all).reduce((sum, { count, sure, right }) => sum + (count * Math.abs(sure - right)) / all.length, 0);
