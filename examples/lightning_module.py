"""A LightningModule whose loss is losskit's, with label smoothing: the criterion is an ordinary module inside.

Run: python examples/lightning_module.py, after pip install lightning scikit-learn
"""

import lightning
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

import losskit


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
        self.criterion = losskit.CrossEntropyLoss(label_smoothing=0.05)

    def training_step(self, batch, _):
        return self.criterion(self.net(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.log("accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


lightning.seed_everything(0, verbose=False)
images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
training, validation = random_split(digits, [0.75, 0.25])
quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
trainer = lightning.Trainer(max_epochs=5, accelerator="cpu", **quiet)
trainer.fit(Classifier(), DataLoader(training, batch_size=32, shuffle=True), DataLoader(validation, batch_size=64))
print(f"accuracy on held-out digits: {trainer.callback_metrics['accuracy']:.2f}")
