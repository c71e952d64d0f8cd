"""The same networks and training steps in PyTorch, as a good user of PyTorch would write them."""

import os
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
  """The identity or, where the shape changes, a 1x1 convolution with BatchNorm."""
  if stride == 1 and inputs == outputs:
    return nn.Identity()
  return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class Block(nn.Module):
  """Two 3x3 convolutions beside a shortcut."""

  def __init__(self, inputs: int, outputs: int, stride: int):
    super().__init__()
    self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    self.norm1 = nn.BatchNorm2d(outputs)
    self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
    self.norm2 = nn.BatchNorm2d(outputs)
    self.shortcut = shortcut(inputs, outputs, stride)

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


class Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 convolutions beside a shortcut, as in torchvision."""

  def __init__(self, inputs: int, inner: int, outputs: int, stride: int):
    super().__init__()
    sizes = ((inputs, inner, 1, 1), (inner, inner, 3, stride), (inner, outputs, 1, 1))
    layers = []
    for before, after, size, step in sizes:
      conv = nn.Conv2d(before, after, size, step, size // 2, bias=False)
      layers += [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    self.layers = nn.Sequential(*layers[:-1])
    self.shortcut = shortcut(inputs, outputs, stride)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return functional.relu(self.layers(x) + self.shortcut(x), inplace=True)


def resnet50(width: int, widen: int) -> nn.Module:
  """ResNet-50 for 1000 classes; `widen` multiplies the inner channels of its blocks."""
  blocks, before = [], width
  for stage, count in enumerate((3, 4, 6, 3)):
    features = width * 2**stage
    for number in range(count):
      stride = 2 if stage and not number else 1
      blocks.append(Bottleneck(before, features * widen, 4 * features, stride))
      before = 4 * features
  return nn.Sequential(
    nn.Conv2d(3, width, 7, 2, 3, bias=False),
    nn.BatchNorm2d(width),
    nn.ReLU(inplace=True),
    nn.MaxPool2d(3, 2, 1),
    *blocks,
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(before, 1000),
  )


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
  'resnet20': resnet20,
  'resnet50': lambda width: resnet50(width, 1),
  'wrn50_2': lambda width: resnet50(width, 2),
}


def torch_steps(
  name: str,
  width: int,
  images: np.ndarray,
  labels: np.ndarray,
  steps: int,
  *,
  platform: str,
  dtype: str,
  mode: str = '',
) -> Callable[[], None]:
  """A function that makes `steps` steps where JAX's `platform` says and waits for them.

  Images [N, H, W, 3] are uint8 and scaled in each step. Weights are channels_last and float32, and
  bfloat16 is autocast; `mode` is torch.compile's, '' does not compile. Functions compiled before
  are compiled anew at their next call. Raises ValueError if the platform is not 'cpu' and PyTorch
  finds no GPU.
  """
  if platform != 'cpu' and not torch.cuda.is_available():
    raise ValueError(
      f'PyTorch must find a GPU where JAX runs on {platform}; {torch.__version__} finds none.'
    )
  # Else PyTorch takes this for one function of images of any size: it compiles it as a rule without
  # the layout that makes convolutions fast, and after eight images no more.
  torch._dynamo.reset()
  torch.backends.cudnn.benchmark = True  # the fastest algorithm of each convolution, as XLA looks
  device = torch.device('cpu' if platform == 'cpu' else 'cuda')
  model = NETWORKS[name](width).to(device, memory_format=torch.channels_last)
  optimizer = torch.optim.SGD(
    model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
  )
  x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)  # a view: their memory is as it was
  y = torch.from_numpy(labels).to(device, torch.int64)

  def loss() -> torch.Tensor:
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == 'bfloat16'):
      return functional.cross_entropy(model(x.float() / 255), y)

  forward = torch.compile(loss, mode=mode, dynamic=False) if mode else loss

  def run() -> None:
    for _ in range(steps):
      optimizer.zero_grad(set_to_none=True)
      forward().backward()
      optimizer.step()
    if device.type == 'cuda':
      torch.cuda.synchronize()

  return run


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
