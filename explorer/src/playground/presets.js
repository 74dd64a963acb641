/** Trainings worth seeing: a name, what to look for, why it happens, and the link. */

export const presets = [
  {
    name: "Outliers",
    hint: "Drag one of the two low points at the right up and down. MSE's line follows it, Huber's lets go.",
    why: "A point's pull is the derivative of its loss. That of a square grows with the distance; Huber's ends at delta, and an absolute value pulls with the same force from everywhere.",
    link: "play=regression&loss=mse_loss&loss=huber_loss:delta=0.5&loss=l1_loss&n=20&outliers=2",
  },
  {
    name: "Letting go",
    hint: "A fifth of the points is wrong. Tukey's arrows at those points vanish while the fit leaves them; Huber's stay.",
    why: "Beyond c, the derivative of Tukey's loss is 0: what is too far away is left out. The price is a loss with valleys: a bad start may leave out the wrong points.",
    link: "play=regression&loss=mse_loss&loss=huber_loss:delta=0.5&loss=tukey_biweight_loss:c=2&outliers=8",
  },
  {
    name: "Quantiles",
    hint: "Three pinball losses become three curves. Between the outer two lie about 80 % of the points, where they are wide and where they are narrow.",
    why: "A pinball loss pulls up with q from above and down with 1 - q from below. It rests where a share q of the points lies below.",
    link: "play=regression&loss=pinball_loss:quantile=0.1&loss=pinball_loss&loss=pinball_loss:quantile=0.9&data=spread&n=200&noise=0.6&model=cubic",
  },
  {
    name: "Mean and spread",
    hint: "Two outputs are learned: the middle, and around it a band one spread wide. The band opens where points scatter.",
    why: "A likelihood divides the residual by the spread and pays the logarithm of the spread. It is least where the spread is what the residuals are.",
    link: "play=regression&loss=gaussian_nll_loss&loss=laplace_nll_loss&data=spread&n=120&noise=0.6&model=network&lr=0.02",
  },
  {
    name: "Counts",
    hint: "Poisson's line is one of logarithms: its curve grows by factors and never predicts less than nothing. MSE's straight line does.",
    why: "The output is the logarithm of the rate, and the derivative of the loss by it is the rate minus the count: large counts count for more, as their variance is larger, too.",
    link: "play=regression&loss=poisson_nll_loss&loss=mse_loss&data=counts&n=80",
  },
  {
    name: "Too large a step",
    hint: "Plain steps of 1.1. MSE's line swings wider with each step, until it is stopped. Huber and log-cosh arrive.",
    why: "A step overshoots for good where rate times curvature is more than 2. The curvature of MSE is twice that of the other two at their middle, and theirs vanishes far out.",
    link: "play=regression&loss=mse_loss&loss=huber_loss:delta=0.5&loss=log_cosh_loss&optimizer=SGD&lr=1.1&speed=10",
  },
  {
    name: "A network among outliers",
    hint: "The same network three times. MSE's curve makes a detour to the outliers, Welsch's goes through the others.",
    why: "A flexible model can follow every pull. Only the loss says which points are worth a detour: Welsch's pull falls to nothing with the distance.",
    link: "play=regression&loss=mse_loss&loss=huber_loss:delta=0.3&loss=welsch_loss:scale=0.5&data=wave&n=80&noise=0.15&outliers=8&model=network&lr=0.02",
  },
  {
    name: "No rest for L1",
    hint: "Plain steps. MSE and Huber slow down as they arrive; L1 keeps its pace, and in the end trembles around the place.",
    why: "Near its minimum the derivative of a square shrinks with the distance, and so does the step. That of an absolute value stays 1 until the sign turns.",
    link: "play=regression&loss=mse_loss&loss=huber_loss&loss=l1_loss&n=25&noise=0.1&optimizer=SGD&lr=0.2&speed=20",
  },
];
