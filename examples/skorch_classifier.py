"""A scikit-learn classifier by skorch: it sees that the criterion is a cross entropy, and gives probabilities.

Run: python examples/skorch_classifier.py, after pip install skorch
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from skorch import NeuralNetClassifier

import losskit

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
images = images.astype("float32")
network = NeuralNetClassifier(
    torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)),
    criterion=losskit.CrossEntropyLoss,
    criterion__label_smoothing=0.05,  # an argument of the loss
    optimizer=torch.optim.Adam,
    lr=0.01,
    max_epochs=10,
    verbose=0,
)
model = make_pipeline(MinMaxScaler(), network)
print(f"accuracy in three folds: {cross_val_score(model, images, labels, cv=3).round(2)}")
probabilities = model.fit(images, labels).predict_proba(images[:5])
print("probabilities add up to one:", bool(abs(probabilities.sum(1) - 1).max() < 1e-5))
