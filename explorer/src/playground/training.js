/**
 * A training: parameters, an objective and an optimizer, one step at a time.
 *
 * An objective has `evaluate(parameters, gradient)`, which fills the gradient and returns the loss, and keeps in `pulls`
 * what each point adds to the gradient. A training always holds the loss and the pulls of the parameters that it has.
 */

/** Beyond this a loss has left for infinity, though its number is finite yet. */
const GONE = 1e12;
/** Steps that are kept: minutes at the highest speed. A training that has them all rests. */
const MOST_STEPS = 50_000;

export class Training {
  constructor(objective, start, optimizer) {
    this.objective = objective;
    this.parameters = Float64Array.from(start);
    this.gradient = new Float64Array(start.length);
    this.optimizer = optimizer;
    this.history = [];
    this.gone = null; // the step at which it diverged
    this.refresh();
    this.history.push(this.value);
  }

  get steps() {
    return this.history.length - 1;
  }

  /** Whether it has all the steps that are kept. */
  get done() {
    return this.steps >= MOST_STEPS;
  }

  /** What has changed in the data is seen at once. */
  refresh() {
    this.value = this.evaluate();
  }

  evaluate() {
    this.gradient.fill(0);
    return this.objective.evaluate(this.parameters, this.gradient);
  }

  /** One step; nothing after a divergence, whose last finite parameters stay. */
  advance() {
    if (this.gone !== null || this.done) return;
    const before = Float64Array.from(this.parameters);
    this.optimizer(this.parameters, this.gradient);
    const value = this.evaluate();
    if (Math.abs(value) < GONE && this.parameters.every(Number.isFinite)) {
      this.history.push((this.value = value));
      return;
    }
    this.gone = this.steps + 1;
    this.parameters = before;
    this.refresh();
  }
}
