"""`flaxnets predict` and the network's methods see files and arrays as evaluation does."""

import csv
import json
import os
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

import flaxnets
from flaxnets import experiment
from flaxnets.cli import evaluate, main
from flaxnets.errors import InputError
from flaxnets.inference.predictor import Predictor
from flaxnets.training import loop
from tests.small import list_config, write_list

pytestmark = pytest.mark.usefixtures('devices_started')

SIZES = ((24, 30), (80, 50), (20, 20), (700, 500))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run on image files, two of them large, one gray, one with a palette, evaluated on RGB and R."""
  folder = tmp_path_factory.mktemp('files')
  root = folder / 'data'
  for split in ('train', 'val', 'test'):
    write_list(root, split, 32)
  rng = np.random.default_rng(1)
  for number, size in enumerate(SIZES):
    image = Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8))
    image = image.convert('L') if number == 1 else image.quantize(16) if number == 2 else image
    image.save(root / 'images' / f'test{number}.JPEG', format='PNG')
  loop.run(list_config(root, **{'evaluate.subsets': 'RGB;R'}), folder / 'run')
  evaluate.run(folder / 'run', subsets='RGB;R')
  return folder


@pytest.fixture(scope='module')
def net(run):
  return flaxnets.load(run / 'run')


def opened(path):
  with Image.open(path) as image:
    image.load()
    return image


def files(run):
  return [str(run / 'data' / 'images' / f'test{number}.JPEG') for number in range(32)]


def predict(run, *arguments):
  return main.run('predict', [str(run / 'run'), *map(str, arguments)])


def rows(path):
  with open(path, newline='') as file:
    return list(csv.DictReader(file))


def expected(run, subset):
  return np.load(run / 'run' / 'eval' / 'test.npz')[f'prediction/{subset}']


@pytest.mark.parametrize(('flags', 'subset'), [((), 'RGB'), (('--channels=R',), 'R'), (('--subset=R',), 'R')])
def test_the_command_predicts_what_evaluation_did(run, net, tmp_path, flags, subset, capsys):
  out = tmp_path / 'predictions.csv'
  assert predict(run, *files(run), f'--out={out}', '--batch_size=5', *flags) == 0
  found = rows(out)
  assert [row['path'] for row in found] == files(run) and {row['index'] for row in found} == {'0'}
  np.testing.assert_array_equal([net.classes.index(row['class']) for row in found], expected(run, subset))
  assert '32 images in ' in capsys.readouterr().err


def test_a_table_holds_probabilities_and_the_likeliest_classes(run, net, tmp_path):
  assert predict(run, *files(run)[:3], f'--out={tmp_path / "p.csv"}') == 0
  assert predict(run, *files(run)[:3], f'--out={tmp_path / "p.jsonl"}') == 0
  probabilities = net.probabilities(files(run)[:3])
  lines = [json.loads(line) for line in (tmp_path / 'p.jsonl').read_text().splitlines()]
  for row, line, values in zip(rows(tmp_path / 'p.csv'), lines, probabilities, strict=True):
    order = np.argsort(-values)
    assert row['class'] == row['top1'] == line['class'] == net.classes[order[0]]
    np.testing.assert_allclose(float(row['probability']), values.max(), rtol=1e-4)
    for rank, place in enumerate(order[:5], 1):  # four classes: no top5
      assert row[f'top{rank}'] == line['top5'][rank - 1]['class'] == net.classes[place]
      np.testing.assert_allclose(float(row[f'top{rank}_probability']), values[place], rtol=1e-3)
    assert len(line['top5']) == 4 and 'top5' not in row
    np.testing.assert_allclose(sum(each['probability'] for each in line['top5']), 1, rtol=1e-4)


def test_bad_files_are_named_and_the_others_predicted(run, tmp_path, capsys):
  broken, gone = tmp_path / 'broken.png', tmp_path / 'gone.jpg'
  broken.write_bytes(pathlib.Path(files(run)[0]).read_bytes()[:60])
  good = files(run)
  assert predict(run, *good[:2], broken, gone, *good[2:], f'--out={tmp_path / "p.csv"}') == 1
  assert [row['path'] for row in rows(tmp_path / 'p.csv')] == good
  said = capsys.readouterr().err
  assert f'{broken}: ' in said and f'{gone}: cannot be read (No such file or directory)' in said
  assert '32 images in ' in said and 'not predicted: 2 of 34 files' in said


def test_folders_and_globs_are_found_and_hidden_files_are_not(run, tmp_path, capsys):
  inner = tmp_path / 'photos' / 'b'
  inner.mkdir(parents=True)
  data = pathlib.Path(files(run)[0]).read_bytes()
  for path in (inner / '2.png', tmp_path / 'photos' / '1.PNG', tmp_path / 'photos' / '.3.png', inner / 'notes.txt'):
    path.write_bytes(data)
  assert predict(run, tmp_path / 'photos') == 0
  printed = capsys.readouterr().out.splitlines()
  assert [line.split(',')[0] for line in printed[1:]] == [str(tmp_path / 'photos' / '1.PNG'), str(inner / '2.png')]
  assert predict(run, tmp_path / 'photos' / '**' / '*.png') == 0
  assert [line.split(',')[0] for line in capsys.readouterr().out.splitlines()[1:]] == [str(inner / '2.png')]
  assert predict(run, tmp_path / 'none*.png') == 1
  assert 'none*.png holds no images or arrays' in capsys.readouterr().err


@pytest.mark.parametrize('out', ['table.csv', 'LINES.JSONL', ''])
def test_a_file_whose_name_is_not_utf_8_is_predicted_like_any_other(run, tmp_path, out, capfd):
  odd = os.fsencode(tmp_path) + b'/caf\xe9.png'
  with open(odd, 'wb') as file:
    Image.effect_noise((30, 24), 50).convert('RGB').save(file, format='PNG')  # no constant plane, which would be logged
  assert predict(run, os.fsdecode(odd), *([f'--out={tmp_path / out}'] if out else [])) == 0
  text = (tmp_path / out).read_text('utf-8') if out else capfd.readouterr().out
  if out.endswith('JSONL'):
    assert os.fsencode(json.loads(text)['path']) == odd
  else:
    assert text.splitlines()[1].startswith(f'{tmp_path}/caf\\udce9.png,0,')


def test_arrays_are_predicted_row_by_row(run, net, tmp_path):
  images = np.random.default_rng(3).integers(0, 256, (7, 24, 30, 3), np.uint8)
  np.save(tmp_path / 'all.npy', images)
  np.save(tmp_path / 'one.npy', images[0])
  np.savez(tmp_path / 'bands.npz', X=np.concatenate([images[..., ::-1]] * 2, -1), bands=['B', 'G', 'R', 'x', 'y', 'z'])
  out = tmp_path / 'p.csv'
  names = [tmp_path / name for name in ('all.npy', 'one.npy', 'bands.npz')]
  assert predict(run, *names, f'--out={out}', '--batch_size=3') == 0
  found, classes = rows(out), [net.classes[place] for place in net.predict(images)]
  assert [int(row['index']) for row in found] == [*range(7), 0, *range(7)]
  assert [row['class'] for row in found] == [*classes, classes[0], *classes]
  assert predict(run, names[2], '--subset=BR', f'--out={out}') == 0
  assert [row['class'] for row in rows(out)] == [net.classes[i] for i in net.predict(images[..., [0, 2]], 'RB')]
  assert predict(run, names[0], '--channels=GRB', f'--out={out}') == 0
  assert [row['class'] for row in rows(out)] == [net.classes[place] for place in net.predict(images, 'GRB')]


def test_the_array_the_step_and_the_threads_can_be_chosen(run, net, tmp_path, capsys):
  images = np.random.default_rng(4).integers(0, 256, (6, 24, 30, 3), np.uint8)
  np.savez(tmp_path / 'two.npz', before=images[::-1], after=images)
  out = tmp_path / 'p.csv'
  assert predict(run, tmp_path / 'two.npz', '--key=after', '--step=1', '--threads=1', f'--out={out}') == 0
  np.testing.assert_allclose(
    [float(row['probability']) for row in rows(out)], net.probabilities(images).max(1), rtol=1e-4
  )
  assert predict(run, tmp_path / 'two.npz', '--key=after', '--step=7') == 1
  assert 'step 7' in capsys.readouterr().err


def test_an_array_that_does_not_fit_is_a_bad_file(run, tmp_path, capsys):
  np.save(tmp_path / 'two.npy', np.zeros((2, 24, 24, 2), np.uint8))
  np.savez(tmp_path / 'several.npz', a=np.zeros((2, 8, 8, 3)), b=np.zeros((2, 8, 8, 3)))
  (tmp_path / 'broken.npz').write_bytes(b'PK nothing')
  np.savez(tmp_path / 'others.npz', X=np.zeros((2, 8, 8, 2)), bands=['x', 'y'])
  assert predict(run, tmp_path, f'--out={tmp_path / "p.csv"}') == 1
  said = capsys.readouterr().err
  assert 'two.npy: the array is (2, 24, 24, 2); (n, height, width, 3) was expected for the channels RGB' in said
  assert 'several.npz: 2 arrays are (n, height, width, channels); --key names one of a, b' in said
  assert 'broken.npz: ' in said and 'others.npz: it has the channels x, y, and none of R, G, B' in said
  assert rows(tmp_path / 'p.csv') == []


def test_the_latency_of_one_image_is_stated(run, capsys):
  assert predict(run, files(run)[0], '--latency') == 0
  assert 'one image takes ' in capsys.readouterr().err


def test_paths_pillow_images_and_arrays_can_be_mixed(run, net):
  paths = files(run)[:8]
  mixed = [opened(path) if number % 2 else path for number, path in enumerate(paths)]
  mixed[5] = np.asarray(mixed[5])
  np.testing.assert_array_equal(net.predict(mixed), expected(run, 'RGB')[:8])
  np.testing.assert_array_equal(net.predict(mixed[:5], 'R'), expected(run, 'R')[:5])
  np.testing.assert_array_equal(net.predict(mixed[0]), expected(run, 'RGB')[:1])
  large = np.asarray(mixed[3])[np.newaxis]
  assert large.shape == (1, *SIZES[3], 3)
  np.testing.assert_array_equal(net.predict(large), expected(run, 'RGB')[3:4])
  assert net.features(paths[:2]).shape == (2, 64) and net.predict([]).shape == (0,)
  with pytest.raises(InputError, match=r'image 1 is a ndarray of shape \(24, 30\)'):
    net.predict([paths[0], np.zeros((24, 30), np.uint8)])


def test_the_order_of_named_channels_of_files_is_nothing_but_an_order(net, run):
  np.testing.assert_allclose(net.logits(files(run)[:3], 'BGR'), net.logits(files(run)[:3], 'RGB'), rtol=1e-5)


def test_an_image_on_its_side_is_turned_upright(net, run, tmp_path):
  image, exif = opened(files(run)[0]), Image.Exif()
  exif[0x0112] = 6
  lying = image.transpose(Image.Transpose.ROTATE_90)
  lying.save(tmp_path / 'turned.png', exif=exif)
  upright = net.logits([image] * 2)
  # A file is turned after its squash to the canvas, whose rounding differs.
  np.testing.assert_allclose(net.logits([tmp_path / 'turned.png', opened(tmp_path / 'turned.png')]), upright, atol=5e-3)
  assert np.abs(net.logits([lying]) - upright).max() > 0.02


@pytest.mark.parametrize(
  ('mode', 'transparency'), [('P', 3), ('P', bytes(range(0, 256, 16))), ('L', 120), ('RGB', (200, 40, 40))]
)
def test_a_transparent_colour_of_a_pillow_image_is_that_of_its_file(net, tmp_path, mode, transparency):
  colours = np.asarray([[200, 40, 40], [120, 120, 120], [10, 90, 30], [0, 0, 250]], np.uint8)
  image = Image.fromarray(colours[np.random.default_rng(0).integers(0, 4, (24, 30))])
  image = image.quantize(16) if mode == 'P' else image.convert(mode)
  image.save(tmp_path / 'clear.png', transparency=transparency)
  image.save(tmp_path / 'opaque.png')
  clear, opaque = (net.logits(tmp_path / name) for name in ('clear.png', 'opaque.png'))
  assert np.abs(clear - opaque).max() > 1e-3
  np.testing.assert_allclose(net.logits(opened(tmp_path / 'clear.png')), clear, rtol=1e-5, atol=1e-6)


def test_probabilities_are_those_of_the_logits(net, run):
  logits = net.logits(files(run)[:4]).astype(np.float64)
  powers = np.exp(logits)
  np.testing.assert_allclose(net.probabilities(files(run)[:4]), powers / powers.sum(1, keepdims=True), rtol=1e-5)


def test_arrays_are_evaluated_as_the_command_evaluates_files(run, net):
  paths = files(run)[len(SIZES) :]  # of one size
  images = np.stack([np.asarray(opened(path)) for path in paths])
  labels = np.asarray([number % 4 for number in range(len(SIZES), 32)])
  found = flaxnets.evaluate(net, images, labels, 'RGB;R')
  assert [row['channels'] for row in found] == ['RGB', 'R']
  for row in found:
    assert row['accuracy'] == pytest.approx((expected(run, row['channels'])[len(SIZES) :] == labels).mean())
    assert (
      np.sum(row['confusion']) == 32 - len(SIZES) and row['macs'] > 0 and row['accuracy_low'] <= row['accuracy_high']
    )
  (alone,) = flaxnets.evaluate(net, images[..., :1], labels, channels='R')
  assert alone['confusion'] == found[1]['confusion']
  with pytest.raises(InputError, match='label 4, but 4 classes have labels 0 to 3'):
    flaxnets.evaluate(net, images[:1], np.asarray([4]))
  with pytest.raises(InputError, match='need labels'):
    flaxnets.evaluate(net, images)
  with pytest.raises(InputError, match='images of several sizes'):
    flaxnets.evaluate(net, [images[0], images[1, :5]], labels[:2])


def test_a_source_is_evaluated_with_its_own_labels(run, net):
  source = experiment.open_source(net.config, 'test', classes=net.classes)
  stored = json.loads((run / 'run' / 'eval' / 'test.json').read_text())['subsets']
  assert flaxnets.evaluate(net, source, subsets='RGB;R') == stored
  with pytest.raises(InputError, match='a source has its own labels'):
    flaxnets.evaluate(net, source, np.zeros(len(source), int))
  source.classes = source.classes[::-1]
  with pytest.raises(InputError, match='has other classes than the network'):
    flaxnets.evaluate(net, source)


def test_a_second_evaluation_compiles_nothing(net):
  images, labels = np.random.default_rng(0).integers(0, 256, (8, 24, 30, 3), np.uint8), np.arange(8) % 4
  first = flaxnets.evaluate(net, images, labels, 'RG;B')
  compiled = []

  def listener(event, seconds, **_):
    if 'backend_compile' in event:
      compiled.append(event)

  jax.monitoring.register_event_duration_secs_listener(listener)
  try:
    assert flaxnets.evaluate(net, images, labels, 'RG;B') == first
    assert not compiled
    flaxnets.evaluate(net, images, labels, 'RB')
    assert compiled
  finally:
    jax.monitoring.unregister_event_duration_listener(listener)


def test_the_exported_run_predicts_as_the_network(run, net, tmp_path, capsys):
  file = tmp_path / 'r.stablehlo'
  assert main.run('export', [str(run / 'run'), '--subset=R', f'--out={file}']) == 0
  printed = capsys.readouterr().out
  assert 'channels R, ' in printed and 'input b x 24 x 24 x 1 uint8' in printed
  images = np.random.default_rng(5).integers(0, 256, (4, 24, 24, 1), np.uint8)  # canvases
  np.testing.assert_allclose(
    flaxnets.load_exported(file).logits(images),
    net.logits(images, 'R'),
    atol=1e-5 * np.abs(net.logits(images, 'R')).max(),
  )
  assert main.run('export', [str(run / 'run'), '--subset=N', f'--out={file}']) == 1
  assert capsys.readouterr().err == "flaxnets export: no channel 'N'; the channels are R, G, B\n"


def test_the_latency_is_a_median_after_warm_up(net, monkeypatch):
  predictor, calls = Predictor(net), []
  clock = iter([0, 100, *(t for n in range(3) for t in (200 + 10 * n, 200 + 10 * n + n + 1))])
  monkeypatch.setattr('time.perf_counter', lambda: next(clock))
  monkeypatch.setattr(predictor, 'run', lambda images, sizes, check: calls.append((images.shape, sizes.tolist())))
  assert predictor.latency(repeats=3, warm_up=1) == 2
  height, width = net.canvas
  assert calls == [((1, height, width, 3), [[height, width]])] * 4


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--out=map.tif', '--threads=2'], '--threads has no effect on a map'),
    (['--tile=64'], '--tile has no effect on anything but a map (--out=MAP.tif)'),
  ],
)
def test_flags_of_the_other_kind_of_output_are_refused(flags, said, capsys):
  assert main.run('predict', ['none', 'x.png', *flags]) == 1
  assert capsys.readouterr().err == f'flaxnets predict: {said}\n'
