"""The input pipeline, and the photos that it reads."""

import json

import numpy as np
import pytest
import simplejpeg

from benchmarks import input_pipeline, photos
from benchmarks.smoke import SMALL, TORCH, named
from flaxnets.errors import InputError


def test_input_is_measured_beside_the_peer_and_written_with_versions_and_machine(tmp_path, capsys):
  rows = named(
    input_pipeline.main(
      [
        *SMALL,
        '--parts=files',
        '--sizes=20x16',
        '--images=8',
        '--canvas=24',
        '--cores=1',
        '--modes=threads,threads+warp',
        f'--json={tmp_path}/rows.json',
      ]
    )
  )
  ours = {f'input/{case}/1core/{mode}' for case in ('20x16px', 'array_record') for mode in ('threads', 'threads+warp')}
  peers = {f'input/20x16px/1core/DataLoader {how}' for how in ('without workers', 'of 1 workers')}
  assert rows.keys() == (ours | peers if TORCH else ours)
  fair, prepared = rows['input/20x16px/1core/threads+warp'], rows['input/array_record/1core/threads+warp']
  assert prepared.ratio is None
  if TORCH:
    assert fair.ratio == pytest.approx(fair.value / max(rows[name].value for name in peers))
  else:
    assert fair.ratio is None
    assert 'the peer is missing' in capsys.readouterr().out
  written = json.loads((tmp_path / 'rows.json').read_text())
  assert [row['name'] for row in written] == list(rows)
  assert all(row['versions']['jax'] and row['machine']['cores'] and row['per_core'] == row['value'] for row in written)


def test_training_from_files_is_measured_beside_its_step_and_memory_over_an_epoch():
  rows = named(
    input_pipeline.main([*SMALL, '--parts=training', '--train_size=20', '--images=16', '--canvas=24', '--epoch=3'])
  )
  fed, alone = rows['resnet18/train/from files'], rows['resnet18/train/step alone']
  assert fed.ratio == pytest.approx(fed.value / alone.value)
  memory = [rows[f'resnet18/train/host memory/{when}'] for when in ('start', 'middle', 'end')]
  assert [row.value for row in memory] == memory[0].details['every_step']


def test_a_wrong_size_of_images_or_number_of_cores_is_named(tmp_path):
  with pytest.raises(InputError, match="'0x20' is not an image size; write 84 or 500x375"):
    photos.write_sized(tmp_path, 1, '0x20')
  with pytest.raises(InputError, match='--cores=4096, but this process may use'):
    input_pipeline.main(['--cores=4096'])


def test_photos_are_the_same_for_the_same_seed_and_as_large_as_photographs(tmp_path):
  first = photos.photo(np.random.default_rng(5), 375, 500)
  assert np.array_equal(first, photos.photo(np.random.default_rng(5), 375, 500))
  assert not np.array_equal(first, photos.photo(np.random.default_rng(6), 375, 500))
  photos.write(tmp_path, 4, 375, 500)
  files = [(tmp_path / line.split()[0]).read_bytes() for line in (tmp_path / 'train.txt').read_text().splitlines()]
  assert len(files) == 4
  for file in files:
    assert simplejpeg.decode_jpeg(file).shape == (375, 500, 3)
    assert 2 < 8 * len(file) / (375 * 500) < 4


@pytest.mark.skipif(not TORCH, reason='PyTorch is not installed')
def test_the_peer_draws_boxes_within_the_image_and_tilts_it_inwards():
  from benchmarks import torch_pipeline

  for _ in range(100):
    left, top, right, bottom = torch_pipeline.random_box((50, 37), (0.25, 1.0), (3 / 4, 4 / 3))
    assert 0 <= left < right <= 50
    assert 0 <= top < bottom <= 37
  assert torch_pipeline.perspective(96, 0.0) == pytest.approx([1, 0, 0, 0, 1, 0, 0, 0], abs=1e-9)
  _, _, c, _, _, f, _, _ = torch_pipeline.perspective(96, 0.2)
  # What the output shows at its own corner lies beyond the input's.
  assert c <= 0
  assert f <= 0
