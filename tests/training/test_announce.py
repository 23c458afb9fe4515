"""What a run says of its data and its subsets at its start."""

import contextlib
import dataclasses

import jax

from flaxnets.training import announce, setup
from flaxnets.training.progress import Progress
from tests.small import small_config


def warnings_in(text):
  return [line.removeprefix('warning: ') for line in text.splitlines() if line.startswith('warning: ')]


def test_a_run_says_at_its_start_that_it_validates_on_subsets_that_it_never_trains(tmp_path):
  fields = {'presence.mode': 'listed', 'presence.subsets': 'full;R;GB', 'evaluate.subsets': 'all'}
  with contextlib.closing(setup.prepare(small_config(**fields), tmp_path)) as ready:
    (line,) = warnings_in(announce.beginning(ready))
    assert line == (
      'training never draws 4 of the 7 subsets of evaluate.subsets, which presence.subsets does not list, but they '
      'count in the choice of the best checkpoint: RG, RB, G, B'
    )
    trained = dataclasses.replace(ready.data, subsets=[(0, 1, 2), (0,)])
    assert warnings_in(announce.beginning(dataclasses.replace(ready, data=trained))) == []


def test_the_best_accuracy_that_a_run_ends_with_is_that_of_a_checkpoint_which_could_be_saved(tmp_path):
  with contextlib.closing(setup.prepare(small_config(), tmp_path)) as ready:
    ready.checkpoints.save(2, ready.state, {}, {'accuracy': 0.4})
    ready.checkpoints.wait()
    better = Progress(best=0.5, waited=1)  # of a step whose save has failed
    assert 'best validation accuracy: 40.0% at step 2\n' in announce.ending(ready, better, step=3)


def test_of_several_processes_only_the_first_writes_the_list_of_parameters(tmp_path, monkeypatch):
  with contextlib.closing(setup.prepare(small_config(), tmp_path)) as ready:
    with monkeypatch.context() as patch:
      patch.setattr(jax, 'process_index', lambda: 1)
      said = announce.beginning(ready)
    assert not (tmp_path / 'parameters.txt').exists()
    assert announce.beginning(ready) == said
    assert (tmp_path / 'parameters.txt').exists()
