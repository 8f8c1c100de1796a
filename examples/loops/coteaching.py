"""Co-teaching in a loop of one's own: each network learns from what the other finds easy."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from noisylabels.losses import DynamicsAwareLoss
from noisylabels.methods.functional import exchange_selections, ramp
from noisylabels.noise import symmetric

# Your data, with the labels that you have: here 40 % are drawn anew.
images, labels = load_digits(return_X_y=True)
x, true = torch.from_numpy(images).float() / 16, torch.from_numpy(labels)
y = symmetric(true, rate=0.4, seed=0)
test = torch.arange(len(x)) % 4 == 0

EPOCHS, FORGET_RATE = 20, 0.36
torch.manual_seed(0)
networks = [nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)) for _ in range(2)]
optimizers = [torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9) for network in networks]
# The paper takes cross entropy; any loss of each example does.
loss = DynamicsAwareLoss(q_start=0.0, q_end=1.5, reduction="none")

for epoch in range(EPOCHS):
    loss.progress = epoch / EPOCHS
    rate = FORGET_RATE * ramp(epoch, length=9)
    for input, target in DataLoader(TensorDataset(x[~test], y[~test]), 64, shuffle=True):
        losses = [loss(network(input), target) for network in networks]
        selections = exchange_selections(losses[0], losses[1], forget_rate=rate)
        for each, selected, optimizer in zip(losses, selections, optimizers, strict=True):
            optimizer.zero_grad()
            each[selected].mean().backward()
            optimizer.step()

with torch.no_grad():
    probabilities = sum(network(x[test]).softmax(1) for network in networks)
accuracy = (probabilities.argmax(1) == true[test]).float().mean().item()
print(f"q {loss.q:.2f}, test accuracy {accuracy:.1%}")
