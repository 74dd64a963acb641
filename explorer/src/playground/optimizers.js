/** Optimizers with torch's update and defaults; a step changes the parameters in place. */

export const OPTIMIZERS = {
  SGD: (rate) => (parameters, gradient) => {
    for (let i = 0; i < parameters.length; i++) parameters[i] -= rate * gradient[i];
  },

  /** Kingma, D. P. and Ba, J. (2015); the order of operations is that of torch.optim.Adam. */
  Adam: (rate, [first, second] = [0.9, 0.999], eps = 1e-8) => {
    let [mean, square] = [null, null];
    let steps = 0;
    return (parameters, gradient) => {
      mean ??= new Float64Array(parameters.length);
      square ??= new Float64Array(parameters.length);
      steps++;
      const size = rate / (1 - first ** steps);
      const root = Math.sqrt(1 - second ** steps);
      for (let i = 0; i < parameters.length; i++) {
        const g = gradient[i];
        mean[i] += (1 - first) * (g - mean[i]);
        square[i] = second * square[i] + (1 - second) * g * g;
        parameters[i] -= (size * mean[i]) / (Math.sqrt(square[i]) / root + eps);
      }
    };
  },
};
