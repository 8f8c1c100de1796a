"""The loop of timm's `train.py`, where the loss takes the place of `train_loss_fn`.

In the script itself three lines change: `train_loss_fn = DynamicsAwareLoss(...)` in place of what
its options choose, `train_loss_fn.progress = epoch / num_epochs` in its loop of epochs, and
`validate_loss_fn` stays cross entropy. Mixup's class probabilities do as well as classes. For timm
1.0.23 or newer, whose script wraps network and loss in a task; before, it calls the loss itself.
"""

import timm
import torch
from sklearn.datasets import load_digits
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask
from timm.utils import AverageMeter, accuracy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from noisylabels.losses import DynamicsAwareLoss
from noisylabels.noise import symmetric

# Your data, with the labels that you have: here 40 % are drawn anew.
images, labels = load_digits(return_X_y=True)
x, true = torch.from_numpy(images).float() / 16, torch.from_numpy(labels)
y = symmetric(true, rate=0.4, seed=0)
test = torch.arange(len(x)) % 4 == 0
x = nn.functional.interpolate(x.view(-1, 1, 8, 8), scale_factor=4)

torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = timm.create_model("test_resnet", num_classes=10, in_chans=1).to(device)
optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3, weight_decay=0.05)
scheduler, num_epochs = create_scheduler_v2(optimizer, sched="cosine", num_epochs=6)
train_loss_fn = DynamicsAwareLoss(q_start=0.2, q_end=1.5)
validate_loss_fn = nn.CrossEntropyLoss()
task = ClassificationTask(model, criterion=train_loss_fn, device=device, verbose=False)

for epoch in range(num_epochs):
    train_loss_fn.progress = epoch / num_epochs
    model.train()
    for input, target in DataLoader(TensorDataset(x[~test], y[~test]), 32, shuffle=True):
        optimizer.zero_grad()
        task(input.to(device), target.to(device))["loss"].backward()
        optimizer.step()
    scheduler.step(epoch + 1)

losses, top1 = AverageMeter(), AverageMeter()
model.eval()
with torch.no_grad():
    for input, target in DataLoader(TensorDataset(x[test], true[test]), 64):
        output, target = model(input.to(device)), target.to(device)
        losses.update(validate_loss_fn(output, target).item(), len(input))
        top1.update(accuracy(output, target)[0].item(), len(input))
print(f"q {train_loss_fn.q:.2f}, test accuracy {top1.avg / 100:.1%}")
