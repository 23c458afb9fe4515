"""Draws docs/figures/*.svg: how DynamicConv works, and its accuracy.

python docs/figures/draw.py
"""

import json
import pathlib

import matplotlib

matplotlib.use('svg')
import matplotlib.pyplot as plt
from matplotlib import patches

HERE = pathlib.Path(__file__).parent
TABLE = HERE.parent / 'results' / 'rgb' / 'table.json'
LONGER = {20: TABLE, **{epochs: HERE.parent / 'results' / f'rgb{epochs}' / 'table.json' for epochs in (40, 80)}}
FAST = HERE.parent / 'results' / 'rgb_fast' / 'table.json'
CURVES = HERE.parent / 'results' / 'tables' / 'metrics'
RED, GREEN, BLUE, INK, FAINT = '#c8524a', '#4f9d5b', '#4a73b8', '#222222', '#bbbbbb'
# Runs of the study, from naive to best: name in the table, label in the figure, colour.
RUNS = (
  ('rgb-none', 'trained on RGB, absent = zeros', FAINT),
  ('rgb-linear', 'trained on RGB, linear completion', '#d79a3c'),
  ('hierarchical-none', 'trained on subsets, zeros', '#8f8fb5'),
  ('hierarchical-linear', 'trained on subsets, linear completion', '#5b4a9d'),
  ('hierarchical-linear-x2', 'the same, 40 epochs', '#b04a9d'),
)


def main() -> None:
  # Text stays text, without a date or random ids, so the same table draws the same file.
  plt.rcParams.update({'svg.fonttype': 'none', 'svg.hashsalt': 'flaxnets', 'font.family': 'sans-serif', 'font.size': 9})
  for name, draw, size in (
    ('kernels', kernels, (7.2, 2.5)),
    ('subsets', subsets, (7.2, 3.6)),
    ('epochs', epochs, (7.2, 3.0)),
    ('recipe', recipe, (7.2, 3.2)),
    ('tables', stems, (7.2, 3.2)),
    ('table3', blocks, (7.2, 3.2)),
  ):
    figure, axes = plt.subplots(figsize=size, layout='constrained')
    draw(axes)
    figure.savefig(HERE / f'{name}.svg', metadata={'Date': None})
    plt.close(figure)


def kernels(axes: plt.Axes) -> None:
  """The bank, and the kernels of two subsets: each present kernel receives shares of the absent kernels."""
  axes.set(xlim=(0, 14.4), ylim=(0, 4.6), aspect='equal')
  axes.axis('off')
  takes_over = {
    'RGB': {'R': 'R', 'G': 'G', 'B': 'B'},
    'RG': {'R': 'RB', 'G': 'GB'},
    'R': {'R': 'RGB'},
  }
  words = {
    'RGB': ('all channels', 'the bank itself'),
    'RG': ('B is absent', "B's kernel, predicted from both"),
    'R': ('G and B are absent', 'R carries all three'),
  }
  for place, (subset, kernel) in enumerate(takes_over.items()):
    left = 0.2 + 5.0 * place
    axes.text(left, 4.25, f'{subset}: {words[subset][0]}', weight='bold', color=INK)
    for column, channel in enumerate('RGB'):
      x = left + 1.35 * column
      if channel not in kernel:
        axes.add_patch(patches.Rectangle((x, 1.3), 1.05, 2.5, fill=False, linestyle=':', edgecolor=FAINT))
        continue
      # The kernel of a present channel, plus a share of each absent one.
      absent = len(kernel[channel]) - 1
      of_own = 1.5 if absent else 2.5
      for share, source in enumerate(kernel[channel]):
        height = of_own if share == 0 else (2.5 - of_own) / absent
        bottom = 1.3 + (0 if share == 0 else of_own + (share - 1) * height)
        axes.add_patch(
          patches.Rectangle(
            (x, bottom),
            1.05,
            height,
            facecolor=dict(R=RED, G=GREEN, B=BLUE)[source],
            edgecolor='white',
            alpha=1 if share == 0 else 0.7,
          )
        )
        own = f'$K_{channel}$' if share == 0 else f'$+P_{{{source}{channel}}}K_{source}$'
        axes.text(x + 0.525, bottom + height / 2, own, ha='center', va='center', color='white', fontsize=8)
    axes.text(left, 0.75, words[subset][1], color=INK)
    axes.text(left, 0.2, f'{len(subset)} input channel{"s" if len(subset) > 1 else ""} to convolve', color='#777777')


def subsets(axes: plt.Axes) -> None:
  """Accuracy of selected runs of the study on each subset, beside the experts."""
  means = {row['run']: row for row in json.loads(TABLE.read_text())['means']}
  labels = list(means['hierarchical-linear']['accuracy'])
  for run, name, colour in RUNS:
    values = [100 * means[run]['accuracy'][label] for label in labels]
    axes.plot(labels, values, 'o-', color=colour, label=name, markersize=5, linewidth=1)
  experts = [100 * means[f'expert-{label}']['accuracy'][label] for label in labels]
  axes.plot(labels, experts, '_', color=INK, markersize=22, markeredgewidth=2, label='an expert for each subset')
  axes.set(ylim=(0, None), ylabel='accuracy, per cent', xlabel='channels that are present')
  _finish(axes)


def epochs(axes: plt.Axes) -> None:
  """Accuracy of the one network and of two experts at several training lengths; seed 0 of each."""
  tables = {
    number: {row['name']: row for row in json.loads(path.read_text())['rows']} for number, path in LONGER.items()
  }
  for subset, colour in (('RGB', '#5b4a9d'), ('R', RED)):
    for run, name, line in (
      ('hierarchical-linear', f'one network, on {subset}', 'o-'),
      (f'expert-{subset}', f'the expert of {subset}', 's--'),
    ):
      values = [100 * rows[run]['accuracy'][subset] for rows in tables.values()]
      axes.plot(list(tables), values, line, color=colour, label=name, markersize=5, linewidth=1)
  axes.set(xlabel='epochs', ylabel='accuracy, per cent', xticks=list(tables))
  _finish(axes)


def recipe(axes: plt.Axes) -> None:
  """Accuracy on each subset of the one network and the experts, with both recipes at the same training MACs."""
  for path, colour, words in ((TABLE, FAINT, 'protocol S'), (FAST, '#5b4a9d', 'the faster recipe')):
    means = {row['run']: row for row in json.loads(path.read_text())['means']}
    accuracy = means['hierarchical-linear']['accuracy']
    labels = list(accuracy)
    values = [100 * accuracy[label] for label in labels]
    axes.plot(labels, values, 'o-', color=colour, label=f'one network, {words}', markersize=5, linewidth=1)
    experts = [100 * means[f'expert-{label}']['accuracy'][label] for label in labels]
    axes.plot(labels, experts, '_', color=colour, markersize=22, markeredgewidth=2, label=f'seven experts, {words}')
  axes.set(ylim=(30, None), ylabel='accuracy, per cent', xlabel='channels that are present')
  _finish(axes)


def stems(axes: plt.Axes) -> None:
  """Loss and accuracy of the report's ResNet-18, with DynamicConv and without, on the validation split."""
  dynamic, plain = (_lines(CURVES / f'{name}.jsonl') for name in ('resnet18_dynamic', 'resnet18'))
  losses = (
    (dynamic, 'train', 'loss', FAINT, 'training, DynamicConv'),
    (plain, 'train', 'loss', '#e3c9a0', 'training, plain'),
    (dynamic, 'validation', 'loss', '#5b4a9d', 'validation'),
    (plain, 'validation', 'loss', '#d79a3c', 'validation, plain'),
  )
  accuracies = (
    (dynamic, 'validation', 'accuracy/RGB', '#5b4a9d', 'RGB'),
    (dynamic, 'validation', 'accuracy/R', RED, 'R'),
    (plain, 'validation', 'accuracy/RGB', '#d79a3c', 'plain, RGB'),
  )
  _curves(axes, losses, accuracies)


def blocks(axes: plt.Axes) -> None:
  """Loss and accuracy of the report's ResAttentionNet, beside those of its plain ResNet-18."""
  attention, plain = (_lines(CURVES / f'{name}.jsonl') for name in ('resattention', 'resnet18'))
  losses = (
    (attention, 'train', 'loss', '#a9c9af', 'training, ResAttentionNet'),
    (plain, 'train', 'loss', '#e3c9a0', 'training, ResNet-18'),
    (attention, 'validation', 'loss', GREEN, 'validation'),
    (plain, 'validation', 'loss', '#d79a3c', 'validation, ResNet-18'),
  )
  accuracies = (
    (attention, 'validation', 'accuracy/RGB', GREEN, 'ResAttentionNet'),
    (plain, 'validation', 'accuracy/RGB', '#d79a3c', 'ResNet-18'),
  )
  _curves(axes, losses, accuracies)


def _curves(axes: plt.Axes, losses: tuple, accuracies: tuple) -> None:
  """Losses on the left and accuracies on the right, over the 30 epochs of a run.

  Each curve is the lines of its metrics, their split, their field, a colour and a label.
  """
  axes.set_axis_off()
  steps = max(line['step'] for line in losses[0][0]) / 30  # of an epoch
  parts = axes.figure.subplots(1, 2)
  shown = {'loss': losses, 'validation accuracy, per cent': accuracies}
  for part, (label, drawn) in zip(parts, shown.items(), strict=True):
    for lines, split, key, colour, name in drawn:
      points = [(line['step'] / steps, line[key]) for line in lines if line['split'] == split]
      scale = 1 if label == 'loss' else 100
      part.plot(*zip(*((epoch, scale * value) for epoch, value in points), strict=True), color=colour, label=name)
    part.set(xlabel='epochs', ylabel=label)
    _finish(part, ncols=(len(drawn) + 1) // 2)


def _lines(path: pathlib.Path) -> list[dict]:
  return [json.loads(line) for line in path.read_text().splitlines()]


def _finish(axes: plt.Axes, ncols: int = 2) -> None:
  axes.spines[['top', 'right']].set_visible(False)
  axes.grid(axis='y', color='#eeeeee')
  axes.set_axisbelow(True)
  axes.legend(frameon=False, loc='lower left', bbox_to_anchor=(0, 1), ncols=ncols, borderaxespad=0)


if __name__ == '__main__':
  main()
