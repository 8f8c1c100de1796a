"""A loop of one's own with Accelerate, with accumulated gradients and a checkpoint."""

import tempfile

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from noisylabels.losses import DynamicsAwareLoss
from noisylabels.noise import symmetric

# Your data, with the labels that you have: here 40 % are drawn anew.
images, labels = load_digits(return_X_y=True)
x, true = torch.from_numpy(images).float() / 16, torch.from_numpy(labels)
y = symmetric(true, rate=0.4, seed=0)
test = torch.arange(len(x)) % 4 == 0

EPOCHS = 20
torch.manual_seed(0)
accelerator = Accelerator(gradient_accumulation_steps=2)
loader = DataLoader(TensorDataset(x[~test], y[~test]), 32, shuffle=True)
network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
network, optimizer, loader = accelerator.prepare(network, optimizer, loader)
loss = DynamicsAwareLoss(q_start=0.6, q_end=1.5).to(accelerator.device)
# It has nothing to train, so it is not prepared; but its progress belongs into a checkpoint.
accelerator.register_for_checkpointing(loss)

for epoch in range(EPOCHS):
    loss.progress = epoch / EPOCHS
    for input, target in loader:
        with accelerator.accumulate(network):
            accelerator.backward(loss(network(input), target))
            optimizer.step()
            optimizer.zero_grad()

with tempfile.TemporaryDirectory() as folder:
    accelerator.save_state(folder)
    loss.progress = 0.0
    accelerator.load_state(folder)

with torch.no_grad():
    predicted = network(x[test].to(accelerator.device)).argmax(1).cpu()
accuracy = (predicted == true[test]).float().mean().item()
accelerator.print(f"q {loss.q:.2f}, test accuracy {accuracy:.1%}")
