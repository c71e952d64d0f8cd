"""The same ResNet-20 training step in PyTorch, as a good user of PyTorch would write it."""

import os

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
  """Two 3x3 convolutions beside a shortcut."""

  def __init__(self, inputs: int, outputs: int, stride: int):
    super().__init__()
    self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    self.norm1 = nn.BatchNorm2d(outputs)
    self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
    self.norm2 = nn.BatchNorm2d(outputs)
    self.shortcut = nn.Identity()
    if stride > 1 or inputs != outputs:
      self.shortcut = nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
      )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    y = functional.relu(self.norm1(self.conv1(x)), inplace=True)
    y = self.norm2(self.conv2(y))
    return functional.relu(y + self.shortcut(x), inplace=True)


def resnet20(width: int) -> nn.Module:
  widths = [width * 2**stage for stage in range(3) for _ in range(3)]
  blocks = [
    Block(before, after, stride=after // before)
    for before, after in zip([width, *widths], widths, strict=False)
  ]
  return nn.Sequential(
    nn.Conv2d(3, width, 3, 1, 1, bias=False),
    nn.BatchNorm2d(width),
    nn.ReLU(inplace=True),
    *blocks,
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(4 * width, 10),
  )


def torch_step(
  images: np.ndarray,
  labels: np.ndarray,
  width: int,
  *,
  channels_last: bool = False,
  compiled: bool = False,
):
  """A function that makes one step; images [N, H, W, 3]."""
  torch.set_num_threads(os.cpu_count())
  layout = torch.channels_last if channels_last else torch.contiguous_format
  model = resnet20(width).to(memory_format=layout)
  optimizer = torch.optim.SGD(
    model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
  )
  forward = torch.compile(model) if compiled else model
  x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=layout)
  y = torch.from_numpy(labels)

  def run():
    optimizer.zero_grad(set_to_none=True)
    functional.cross_entropy(forward(x), y).backward()
    optimizer.step()

  return run


def torch_inference(
  images: np.ndarray, width: int, *, channels_last: bool = False, compiled: bool = False
):
  """A function that computes the logits of images [N, H, W, 3]."""
  torch.set_num_threads(os.cpu_count())
  layout = torch.channels_last if channels_last else torch.contiguous_format
  model = resnet20(width).to(memory_format=layout).eval()
  forward = torch.compile(model) if compiled else model
  x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=layout)

  def run():
    with torch.inference_mode():
      forward(x)

  return run
