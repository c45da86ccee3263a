"""The way of the course projects, as a yardstick: one training, images decoded and a full forward pass every epoch.

    var/venv/ml/bin/python -m benchmarks.ml.naive FOLDER ARCH EPOCHS [layer4]

torchvision's ImageFolder and PIL, the default loader (no workers), a frozen network with a new last layer, Adam, a
random crop in training and a centre crop in validation. With `layer4` the last block is trained too. Prints JSON:
processor seconds of the imports and of each epoch, its seconds, and the validation accuracy after it.
"""

import json
import sys
import time

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms

NORMALIZE = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TRAIN = transforms.Compose(
    [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor(), NORMALIZE]
)
EVALUATE = transforms.Compose(
    [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), NORMALIZE]
)


def main(folder: str, arch: str, epochs: int, trained: str) -> None:
    imports = time.process_time()
    torch.manual_seed(0)
    train = datasets.ImageFolder(f"{folder}/train", TRAIN)
    validation = datasets.ImageFolder(f"{folder}/valid", EVALUATE)
    model = models.get_model(arch, weights=None)
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.fc = nn.Linear(model.fc.in_features, len(train.classes))
    if trained == "layer4":
        model.layer4.requires_grad_(True)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    seconds, wall, accuracies = [], [], []
    for epoch in range(epochs):
        started, began = time.process_time(), time.monotonic()
        model.train()
        for images, labels in DataLoader(train, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            criterion(model(images), labels).backward()
            optimizer.step()
        model.eval()
        correct = 0
        with torch.no_grad():
            for images, labels in DataLoader(validation, batch_size=64):
                correct += int((model(images).argmax(1) == labels).sum())
        seconds.append(time.process_time() - started)
        wall.append(time.monotonic() - began)
        accuracies.append(correct / len(validation))
        print(f"naive {arch} epoch {epoch + 1} of {epochs}: {seconds[-1]:.0f} s", file=sys.stderr, flush=True)
    print(json.dumps({"imports": imports, "epochs": seconds, "wall": wall, "accuracies": accuracies}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), "".join(sys.argv[4:]))
