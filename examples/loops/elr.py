"""Early-learning regularisation in a loop of one's own.

Each example keeps a target, which follows what the network predicts of it, so a batch must tell
which examples it holds.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from noisylabels.functional import cross_entropy
from noisylabels.methods.functional import early_learning_penalty, early_learning_targets
from noisylabels.noise import symmetric

# Your data, with the labels that you have: here 40 % are drawn anew.
images, labels = load_digits(return_X_y=True)
x, true = torch.from_numpy(images).float() / 16, torch.from_numpy(labels)
y = symmetric(true, rate=0.4, seed=0)
test = torch.arange(len(x)) % 4 == 0
x_train, y_train = x[~test], y[~test]

EPOCHS = 20
torch.manual_seed(0)
network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
memory = torch.zeros(len(x_train), 10)
examples = TensorDataset(x_train, y_train, torch.arange(len(x_train)))

for _ in range(EPOCHS):
    for input, target, place in DataLoader(examples, 64, shuffle=True):
        logits = network(input)
        memory[place] = early_learning_targets(logits, memory[place], beta=0.7)
        penalty = early_learning_penalty(logits, memory[place])
        optimizer.zero_grad()
        (cross_entropy(logits, target) + 3 * penalty).mean().backward()
        optimizer.step()
    # What a checkpoint needs beside network and optimizer: memory.

with torch.no_grad():
    accuracy = (network(x[test]).argmax(1) == true[test]).float().mean().item()
remembered = (memory.argmax(1) == true[~test]).float().mean().item()
print(f"right targets {remembered:.1%}, test accuracy {accuracy:.1%}")
