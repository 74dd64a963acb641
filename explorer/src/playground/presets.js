/**
 * Trainings worth seeing: a name, what to look for, why it happens, and the link. Tests hold them to what they say.
 *
 * Classes have an odd number of points: where labels balance exactly, some gradients are rounding errors alone, and Adam
 * makes whole steps of them, others on each machine.
 */

export const presets = [
  {
    name: "Outliers",
    hint: "Drag one of the two low points at the right further down, and up again. MSE's line follows it, Huber's lets go.",
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
  {
    name: "Wrong labels",
    hint: "Twelve labels are wrong. In time, cross entropy bends its boundary around them; under the generalized one, most rings vanish and the boundary stays.",
    why: "Where a model is surely wrong, the pull of cross entropy is largest. Generalized cross entropy multiplies it by a power of the probability of the label: what is believed to be false falls silent.",
    link: "play=classes&loss=cross_entropy&loss=generalized_cross_entropy&loss=symmetric_cross_entropy&n=121&wrong=12&model=network",
  },
  {
    name: "Who still pulls",
    hint: "The rings of the two hinges vanish beyond their margin: only points near the boundary hold it. Under cross entropy everybody pulls, always.",
    why: "A hinge has derivative 0 where a score is right by the margin. The derivative of cross entropy is the probability of an error, which is never 0.",
    link: "play=classes&loss=cross_entropy&loss=multi_margin_loss&loss=hinge_loss&noise=0.7",
  },
  {
    name: "A rare class",
    hint: "One point of ten is of the last class. See the shares of the pull by class, and how near the boundary comes to the few.",
    why: "The many win by their number. A weight of the positives raises the pull of the few; focal loss lowers that of all who are right already, most of whom are the many.",
    link: "play=classes&loss=binary_cross_entropy_with_logits&loss=binary_cross_entropy_with_logits:pos_weight=9,+pos_weight&loss=sigmoid_focal_loss&n=151&noise=0.9&rare=11",
  },
  {
    name: "How sure",
    hint: "Clouds that overlap, and a network. Smoothing and focal loss are less sure, on purpose: their dots lie above the line where cross entropy's lie on it.",
    why: "Cross entropy is least where probabilities are what they should be. Smoothing asks for at most a part of certainty, and focal loss stops to care about what is right already.",
    link: "play=classes&loss=cross_entropy&loss=cross_entropy:label_smoothing=0.2&loss=softmax_focal_loss&n=299&noise=1&model=network&lr=0.02",
  },
  {
    name: "Three classes",
    hint: "Rings of three classes, and a model of straight lines: no loss gets much more than half of the points right. Set the model to network, and all three do.",
    why: "A loss can only choose among what the model can say, and lines enclose nothing. BCE asks three questions here, each class against the rest; the other two compare the scores of the classes.",
    link: "play=classes&loss=cross_entropy&loss=multi_margin_loss&loss=binary_cross_entropy_with_logits&shape=rings&classes=3&n=121&noise=0.3",
  },
  {
    name: "Clusters form",
    hint: "Three classes on a circle, and a heap for each. Some points of the cosine loss are late: they must pass through another class.",
    why: "SupCon weighs the pairs of a row by a softmax, so that wrong neighbours are pushed hardest. The other two push every pair alike that is not far enough, and pulls from both sides cancel.",
    link: "play=embeddings&loss=sup_con_loss&loss=cosine_embedding_loss&loss=triplet_margin_loss&seed=7",
  },
  {
    name: "Pairs, not classes",
    hint: "Twelve pairs of views. Each pair finds together, and all pairs spread around the circle, those of one class as well as others.",
    why: "These losses know no classes: the other pairs are all negatives. That is how they learn without labels, and why they part what a class would join.",
    link: "play=embeddings&loss=info_nce_loss&loss=nt_xent_loss&loss=siglip_loss",
  },
  {
    name: "Collapse",
    hint: "The same loss with three margins, and all three fall to 0. Under the first, two classes end in one heap; the other two hold all classes apart.",
    why: "A cosine below the margin costs nothing. With margin 1 nobody pushes at all: like draws like, and where the heaps come to lie is left to the start.",
    link: "play=embeddings&loss=cosine_embedding_loss:margin=1&loss=cosine_embedding_loss:margin=0.5&loss=cosine_embedding_loss&lr=1&seed=40",
  },
  {
    name: "Stalled",
    hint: "Small steps on the circle, and no way around each other. Points stand before another class that is in their way; set the space to the plane, and they pass.",
    why: "On a circle, what pulls a point forward to its class may be as strong as the class between that pushes it back. Such a place is a minimum of the circle's, not of the plane's.",
    link: "play=embeddings&loss=batch_hard_triplet_loss&loss=multi_similarity_loss&loss=triplet_margin_loss&lr=0.05",
  },
];
