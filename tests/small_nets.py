"""Small networks: narrow VGGs, a ResNet that a user might bring, and what goes wrong with one; images of noise."""

import numpy as np
from pretrain_xai.dataset import LabelledImages
from pretrain_xai.networks.models import build_network, freeze_below
from pretrain_xai.networks.training import train
from pretrain_xai.settings.sections import Network, Training
from torch import Tensor, nn
from torch.nn import functional


def noise(n_images: int, seed: int = 0, side: int = 32) -> LabelledImages:
    """Return images of noise in two classes."""
    images = np.random.default_rng(seed).random((n_images, side, side), dtype=np.float32)
    return LabelledImages(images, np.arange(n_images) % 2)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether two networks' states are the same to the bit."""
    return one.keys() == other.keys() and all(tensor.equal(other[name]) for name, tensor in one.items())


def vgg(depth: int = 0, *, n_classes: int = 2, seed: int = 0, first_conv_frozen: bool = False, **settings) -> nn.Module:
    """Return a narrow VGG-11, or one with other settings; with a depth it is frozen below."""
    network = build_network(Network(**{"architecture": "vgg11", "width": 1 / 16} | settings), n_classes, seed)
    if depth:
        freeze_below(network, depth, first_conv_frozen=first_conv_frozen)
    return network


def changed_by_training(network: nn.Module) -> set[str]:
    """Return the names of the tensors that an epoch changes."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    train(network, noise(16), noise(16), Training(epochs=1, batch_size=4), learning_rate=0.05, seed=0)
    return {name for name, tensor in network.state_dict().items() if not tensor.equal(before[name])}


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.shortcut = nn.Conv2d(n_in, n_out, 1, stride=2)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        return self.relu2(inner + self.shortcut(x))


class SmallResNet(nn.Module):
    """A stem and three residual blocks."""

    def __init__(self, n_classes: int, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 5, stride=2, padding=2)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.layer1 = Residual(width, width)
        self.layer2 = Residual(width, 2 * width)
        self.layer3 = Residual(2 * width, 2 * width)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.norm(self.stem(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.mean(x).flatten(1))


def resnet(n_classes: int) -> nn.Module:
    return SmallResNet(n_classes)


def with_functional_relu(n_classes: int) -> nn.Module:
    class Hidden(SmallResNet):
        def forward(self, x: Tensor) -> Tensor:
            x = self.layer3(self.layer2(self.layer1(functional.relu(self.norm(self.stem(x))))))
            return self.fc(self.mean(x).flatten(1))

    return Hidden(n_classes)


def in_place(n_classes: int) -> nn.Module:
    network = SmallResNet(n_classes)
    network.layer2.relu1 = nn.ReLU(inplace=True)
    return network


def frozen(n_classes: int) -> nn.Module:
    return SmallResNet(n_classes).requires_grad_(False)


def three_logits(n_classes: int) -> nn.Module:
    return SmallResNet(n_classes + 1)


def log_softmax(n_classes: int) -> nn.Module:
    class Normalised(SmallResNet):
        def forward(self, x: Tensor) -> Tensor:
            return functional.log_softmax(super().forward(x), dim=1)

    return Normalised(n_classes)


def too_small_images(n_classes: int) -> nn.Module:
    network = SmallResNet(n_classes)
    network.pool = nn.MaxPool2d(64)
    return network


def broken(n_classes: int) -> nn.Module:
    raise RuntimeError(f"no {n_classes} classes\ntoday")


def no_module(n_classes: int) -> int:
    return n_classes


#: the blocks of `resnet`, as a study file names them
BLOCKS = [["stem", "norm"], "layer1", "layer2", "layer3"]
SETTINGS = {"module": "small_nets:resnet", "blocks": BLOCKS, "classifier": "fc"}
