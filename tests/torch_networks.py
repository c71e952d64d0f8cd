"""The networks as PyTorch users write and name them, to be compared with those of this package."""

import torch
from torch import nn


class Block(nn.Module):
  """Basic for `inner` None, else a bottleneck; `side` names what is beside it."""

  def __init__(self, inputs, outputs, stride, inner=None, side='downsample'):
    super().__init__()
    sizes = [(inputs, outputs, 3, stride), (outputs, outputs, 3, 1)]
    if inner:
      sizes = [(inputs, inner, 1, 1), (inner, inner, 3, stride), (inner, outputs, 1, 1)]
    self.depth, self.side = len(sizes), side
    for number, (before, after, size, step) in enumerate(sizes, 1):
      conv = nn.Conv2d(before, after, size, step, size // 2, bias=False)
      setattr(self, f'conv{number}', conv)
      setattr(self, f'bn{number}', nn.BatchNorm2d(after))
    beside = nn.Sequential()
    if stride > 1 or inputs != outputs:
      beside = nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
      )
    setattr(self, side, beside)

  def forward(self, x):
    y = x
    for number in range(1, self.depth + 1):
      y = getattr(self, f'bn{number}')(getattr(self, f'conv{number}')(y))
      y = torch.relu(y) if number < self.depth else y
    return torch.relu(y + getattr(self, self.side)(x))


class Large(nn.Module):
  """torchvision's resnet and wide_resnet."""

  def __init__(self, counts, width=64, bottleneck=False, widen=1, num_classes=1000):
    super().__init__()
    self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    self.maxpool = nn.MaxPool2d(3, 2, 1)
    before = width
    for stage, count in enumerate(counts):
      features = width * 2**stage
      outputs, inner = (4 * features, widen * features) if bottleneck else (features, None)
      blocks = []
      for number in range(count):
        blocks.append(Block(before, outputs, 2 if stage and not number else 1, inner))
        before = outputs
      setattr(self, f'layer{stage + 1}', nn.Sequential(*blocks))
    self.fc = nn.Linear(before, num_classes)

  def forward(self, x):
    x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
    x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
    return self.fc(x.mean((2, 3)))


class Small(nn.Module):
  """A CIFAR ResNet with 1x1 shortcuts, as in the code of Liu et al. (2022)."""

  def __init__(self, n, width=16, num_classes=10):
    super().__init__()
    self.conv = nn.Conv2d(3, width, 3, 1, 1, bias=False)
    self.bn = nn.BatchNorm2d(width)
    blocks, before = [], width
    for stage in range(3):
      for number in range(n):
        stride = 2 if stage and not number else 1
        blocks.append(Block(before, width * 2**stage, stride, side='shortcut'))
        before = width * 2**stage
    self.blocks = nn.Sequential(*blocks)
    self.fc = nn.Linear(before, num_classes)

  def forward(self, x):
    return self.fc(self.blocks(torch.relu(self.bn(self.conv(x)))).mean((2, 3)))


class Vgg(nn.Module):
  """torchvision's vgg*_bn with one linear layer, as is usual for small images."""

  def __init__(self, counts, width=64, num_classes=10, bias=False):
    super().__init__()
    layers, before = [], 3
    for stage, count in enumerate(counts):
      for _ in range(count):
        after = width * min(2**stage, 8)
        layers += [nn.Conv2d(before, after, 3, 1, 1, bias=bias), nn.BatchNorm2d(after), nn.ReLU()]
        before = after
      layers.append(nn.MaxPool2d(2, 2))
    self.features = nn.Sequential(*layers[:-1])
    self.classifier = nn.Linear(before, num_classes)

  def forward(self, x):
    return self.classifier(self.features(x).mean((2, 3)))


def fill(model, seed=0):
  """The model in evaluation mode, with BatchNorm statistics unlike those of the beginning."""
  generator = torch.Generator().manual_seed(seed)
  for name, tensor in model.state_dict().items():
    if name.endswith('num_batches_tracked'):
      continue
    if tensor.ndim > 1:
      scale = (2 / tensor[0].numel()) ** 0.5
      tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))
    else:
      low = 0.5 if name.endswith('var') or (name.endswith('weight')) else -0.5
      tensor.copy_(low + torch.rand(tensor.shape, generator=generator))
  return model.eval()
