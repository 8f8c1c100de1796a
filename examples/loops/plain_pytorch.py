"""A loop of one's own with mixed precision: float16 on a GPU, bfloat16 on a CPU."""

import torch
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
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).to(device)
optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
loss = DynamicsAwareLoss(q_start=0.6, q_end=1.5).to(device)

for epoch in range(EPOCHS):
    loss.progress = epoch / EPOCHS
    for input, target in DataLoader(TensorDataset(x[~test], y[~test]), 64, shuffle=True):
        with torch.autocast(device.type, dtype):
            # It computes in float32, whatever the logits are.
            value = loss(network(input.to(device)), target.to(device))
        optimizer.zero_grad()
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
    schedule.step()
    # What a checkpoint needs: network, optimizer, schedule, scaler, and loss.state_dict().

with torch.no_grad():
    predicted = network(x[test].to(device)).argmax(1).cpu()
accuracy = (predicted == true[test]).float().mean().item()
print(f"q {loss.q:.2f}, test accuracy {accuracy:.1%}")
