/** Views worth seeing first: a name, what to look at, and the link. */
export const presets = [
  {
    name: "Outliers",
    hint: "How hard do the losses of regression pull on a wild target? Compare the gradients far from 0.",
    link: "loss=mse_loss&loss=l1_loss&loss=huber_loss&x=3",
  },
  {
    name: "BCE against MSE on a sigmoid",
    hint: "Target 0. Where the model is confidently wrong, at large z, the gradient of MSE vanishes, that of BCE stays.",
    link: "loss=binary_cross_entropy:target=0&loss=mse_loss&axis=logit&from=-6&to=10&x=5",
  },
  {
    name: "Huber's delta",
    hint: "Delta is where the parabola becomes a line, and the largest gradient.",
    link: "loss=huber_loss:delta=0.5&loss=huber_loss&loss=huber_loss:delta=2&x=1.5",
  },
  {
    name: "Margins",
    hint: "Cross entropy never stops pulling, a hinge stops at its margin.",
    link: "loss=cross_entropy&loss=soft_margin_loss&loss=multi_margin_loss&from=-3&to=4&x=2",
  },
  {
    name: "Label smoothing",
    hint: "Smoothing punishes certainty: the loss has its minimum at a finite margin.",
    link: "loss=cross_entropy&loss=cross_entropy:label_smoothing=0.1&loss=cross_entropy:label_smoothing=0.3&x=3",
  },
  {
    name: "Imbalance",
    hint: "A weight of the positives scales the loss of a positive and its gradient.",
    link: "loss=binary_cross_entropy_with_logits&loss=binary_cross_entropy_with_logits:pos_weight=3,+pos_weight&x=-1",
  },
  {
    name: "Near or far",
    hint: "Pairs that belong together (target 1) are drawn together, others (target −1) pushed beyond the margin.",
    link: "loss=hinge_embedding_loss&loss=hinge_embedding_loss:target=-1&x=0.5",
  },
];
