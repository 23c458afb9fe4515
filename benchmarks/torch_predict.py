"""The peer's prediction command: torchvision's ResNet-18 over image files, with a DataLoader, into a CSV file.

python -m benchmarks.torch_predict FOLDER --out=predictions.csv

It does what `flaxnets predict` does: path, class, probability and the five likeliest classes of every file.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
import sys
import time

import torch
import torchvision
from PIL import Image
from torchvision import transforms

TOP = 5


class Files(torch.utils.data.Dataset):
  """The JPEGs below a folder as (3, S, S) float32 tensors, with their places in `paths`."""

  def __init__(self, folder: str, image_size: int):
    found = (path for path in pathlib.Path(folder).rglob('*') if path.suffix.lower() in ('.jpg', '.jpeg'))
    self.paths = sorted(map(str, found))
    self._transform = transforms.Compose(
      [
        transforms.Resize(image_size),
        transforms.CenterCrop(image_size),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
      ]
    )

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
    with Image.open(self.paths[index]) as file:
      return self._transform(file.convert('RGB')), index


def main() -> None:
  parser = argparse.ArgumentParser(prog='python -m benchmarks.torch_predict')
  parser.add_argument('folder', help='of JPEGs, searched with its subfolders')
  parser.add_argument('--out', required=True, help='the CSV file')
  parser.add_argument('--workers', type=int, default=0, help='processes that decode; 0 for none')
  parser.add_argument('--channels_last', action='store_true')
  parser.add_argument('--image_size', type=int, default=84)
  parser.add_argument('--classes', type=int, default=50)
  parser.add_argument('--batch_size', type=int, default=64)
  args = parser.parse_args()
  device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
  layout = torch.channels_last if args.channels_last else torch.contiguous_format
  network = torchvision.models.resnet18(num_classes=args.classes).eval().to(device, memory_format=layout)
  files, top = Files(args.folder, args.image_size), min(TOP, args.classes)
  start = time.perf_counter()
  with open(args.out, 'w', newline='') as out, torch.inference_mode():
    table = csv.writer(out, lineterminator='\n')
    ranked = (name for rank in range(1, top + 1) for name in (f'top{rank}', f'top{rank}_probability'))
    table.writerow(['path', 'class', 'probability', *ranked])
    for images, indices in torch.utils.data.DataLoader(files, args.batch_size, num_workers=args.workers):
      logits = network(images.to(device, memory_format=layout))
      values, places = logits.softmax(dim=1).topk(top)
      for index, row, found in zip(indices.tolist(), values.tolist(), places.tolist(), strict=True):
        pairs = [(place, f'{value:.6g}') for place, value in zip(found, row, strict=True)]
        table.writerow([files.paths[index], *pairs[0], *(value for pair in pairs for value in pair)])
  print(f'{len(files):,} images in {time.perf_counter() - start:.3f} s', file=sys.stderr)


if __name__ == '__main__':
  main()
