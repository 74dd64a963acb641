/** The losses of the article, by their names in the catalogue: its script carries these and no others. */
export const LOSSES = [
  "mse_loss",
  "l1_loss",
  "huber_loss",
  "pinball_loss",
  "welsch_loss",
  "cauchy_loss",
  "geman_mcclure_loss",
  "binary_cross_entropy_with_logits",
  "cross_entropy",
  "hinge_loss",
  "squared_hinge_loss",
  "soft_margin_loss",
  "multi_margin_loss",
  "softmax_focal_loss",
  "info_nce_loss",
];
