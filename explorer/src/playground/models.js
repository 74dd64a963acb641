/**
 * Models that are trained in the page: outputs from inputs, and the gradient by their parameters.
 *
 * 1. The parameters of a model are one flat vector, so that optimizers, tests and Python see numbers only.
 * 2. The last layer starts at 0: under every loss the first output is the same, 0.
 * 3. A model remembers what it computed for its last input; `backward` is called right after `forward`.
 */

export const HIDDEN = 16;

const FEATURES = {
  line: (x) => [1, ...x],
  cubic: ([x]) => [1, x, x * x, x * x * x],
};

/** name: a key of FEATURES, or "network": one hidden layer of tanh. */
export const model = (name, inputs, outputs) =>
  name === "network" ? network(inputs, outputs) : linear(FEATURES[name], inputs, outputs);

/** Sums of features: for each output, the weights of all features. */
function linear(features, inputs, outputs) {
  const width = features(new Float64Array(inputs)).length;
  let seen = null;
  return {
    size: width * outputs,
    start: () => new Float64Array(width * outputs),
    forward(parameters, x, out) {
      seen = features(x);
      for (let k = 0; k < outputs; k++) {
        let sum = 0;
        for (let j = 0; j < width; j++) sum += parameters[k * width + j] * seen[j];
        out[k] = sum;
      }
    },
    backward(_, byOut, gradient) {
      for (let k = 0; k < outputs; k++) for (let j = 0; j < width; j++) gradient[k * width + j] += byOut[k] * seen[j];
    },
  };
}

/** For each hidden unit its weights and its bias; then for each output its bias and its weights. */
function network(inputs, outputs) {
  const own = inputs + 1;
  const after = HIDDEN * own;
  const width = HIDDEN + 1;
  const hidden = new Float64Array(HIDDEN);
  let seen = null;
  return {
    size: after + outputs * width,
    start(chance) {
      const parameters = new Float64Array(after + outputs * width);
      for (let i = 0; i < after; i++) parameters[i] = 1.5 * chance.normal();
      return parameters;
    },
    forward(parameters, x, out) {
      seen = x;
      for (let h = 0; h < HIDDEN; h++) {
        let sum = parameters[h * own + inputs];
        for (let j = 0; j < inputs; j++) sum += parameters[h * own + j] * x[j];
        hidden[h] = Math.tanh(sum);
      }
      for (let k = 0; k < outputs; k++) {
        const at = after + k * width;
        let sum = parameters[at];
        for (let h = 0; h < HIDDEN; h++) sum += parameters[at + 1 + h] * hidden[h];
        out[k] = sum;
      }
    },
    backward(parameters, byOut, gradient) {
      for (let h = 0; h < HIDDEN; h++) {
        let by = 0;
        for (let k = 0; k < outputs; k++) {
          const at = after + k * width + 1 + h;
          gradient[at] += byOut[k] * hidden[h];
          by += byOut[k] * parameters[at];
        }
        by *= 1 - hidden[h] * hidden[h];
        for (let j = 0; j < inputs; j++) gradient[h * own + j] += by * seen[j];
        gradient[h * own + inputs] += by;
      }
      for (let k = 0; k < outputs; k++) gradient[after + k * width] += byOut[k];
    },
  };
}
