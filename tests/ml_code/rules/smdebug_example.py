"""A training script as smdebug's own examples have it, which knows nothing of Evergreen.

    python smdebug_example.py --smdebug_path FOLDER --hook-type saveall|weights-bias-gradients|reductions [--mode]

After https://github.com/awslabs/sagemaker-debugger, examples/pytorch/scripts: the network with its names, Hook and
SaveConfig with `save_steps`, `register_hook`, a functional loss, no `set_mode` without --mode, and no `close` (smdebug
writes the last step when the process ends). The images are random, as in its simple.py.
"""

import argparse

import torch
from smdebug import ReductionConfig
from smdebug.pytorch import Hook, SaveConfig, modes
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.add_module("conv1", nn.Conv2d(1, 20, 5, 1))
        self.add_module("relu0", nn.ReLU())
        self.add_module("max_pool", nn.MaxPool2d(2, stride=2))
        self.add_module("conv2", nn.Conv2d(20, 50, 5, 1))
        self.add_module("relu1", nn.ReLU())
        self.add_module("max_pool2", nn.MaxPool2d(2, stride=2))
        self.add_module("fc1", nn.Linear(4 * 4 * 50, 500))
        self.add_module("relu2", nn.ReLU())
        self.add_module("fc2", nn.Linear(500, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.max_pool(self.relu0(self.conv1(x)))
        x = self.max_pool2(self.relu1(self.conv2(x))).view(-1, 4 * 4 * 50)
        return functional.log_softmax(self.fc2(self.relu2(self.fc1(x))), dim=1)


def create_hook(out_dir: str, hook_type: str, save_steps: list[int]) -> Hook:
    save_config = SaveConfig(save_steps=save_steps)
    if hook_type == "saveall":
        return Hook(out_dir=out_dir, save_config=save_config, save_all=True, export_tensorboard=True)
    if hook_type == "reductions":
        reductions = ReductionConfig(reductions=["mean"], abs_reductions=["mean"])
        collections = ["weights", "gradients", "losses"]
        return Hook(
            out_dir=out_dir,
            save_config=save_config,
            reduction_config=reductions,
            include_collections=collections,
        )
    # What it saves is smdebug's default collection, losses, whatever its name says.
    return Hook(out_dir=out_dir, save_config=save_config)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--smdebug_path", required=True)
    parser.add_argument("--hook-type", default="saveall")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--save-frequency", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--mode", action="store_true")
    args = parser.parse_args()
    save_steps = [(i + 1) * args.save_frequency for i in range(args.steps // args.save_frequency)]
    torch.manual_seed(2)
    torch.set_num_threads(1)
    model = Net()
    hook = create_hook(args.smdebug_path, args.hook_type, save_steps)
    hook.register_hook(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    for step in range(args.steps):
        if args.mode:
            hook.set_mode(modes.TRAIN)
        data, target = torch.rand(8, 1, 28, 28), torch.randint(10, (8,))
        optimizer.zero_grad()
        loss = functional.nll_loss(model(data), target)
        if args.mode:
            hook.record_tensor_value("nll_loss", loss)
        loss.backward()
        optimizer.step()
        if args.mode and step % 4 == 3:
            hook.set_mode(modes.EVAL)
            with torch.no_grad():
                hook.record_tensor_value("nll_loss", functional.nll_loss(model(data), target))


if __name__ == "__main__":
    main()
