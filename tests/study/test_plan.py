"""Plans of studies: runs with seeds, those of configs/studies, and shares of several machines."""

import json
import runpy

import pytest

from flaxnets import config as configs
from flaxnets.augment.presence import PASSES
from flaxnets.errors import InputError
from flaxnets.runtime import workdir
from flaxnets.study.plan import chosen, plan, share
from tests.study.made import RUNS, two_steps


def test_a_plan_has_a_run_for_each_seed_and_says_what_differs():
  runs = plan(two_steps(), {'a': {'train.epochs': 3, 'seed': (0, 1)}, 'b': {'weights': 'a', 'seed': 1}})
  assert [(run.name, run.stem, run.config.seed, run.weights) for run in runs] == [
    ('a', 'a', 0, ''),
    ('a-seed1', 'a', 1, ''),
    ('b-seed1', 'b', 1, 'a-seed1'),
  ]
  assert runs[1].changes == {'train.epochs': 3, 'seed': 1} and runs[1].config.train.epochs == 3.0
  assert [run.name for run in chosen(runs, 'a')] == ['a', 'a-seed1']
  assert [run.name for run in chosen(runs, '*-seed1')] == ['a-seed1', 'b-seed1']


@pytest.mark.parametrize(
  ('runs', 'said'),
  [
    ({'a': {'train.epoch': 3}}, "run 'a': .*epoch"),
    ({'a': {'train.epochs': 'many'}}, "run 'a': .*epochs"),
    ({'a/b': {}}, "run 'a/b': names must be unique and valid folder names"),
    ({'a': {'seed': (0, 0)}}, "run 'a': names must be unique and valid folder names"),
    ({'a': {'weights': 'b'}, 'b': {}}, "weights of 'b', which is not an earlier run that trains"),
    ({'a': {'seed': ()}, 'b': {}}, "run 'a': seed is empty; give one seed or several"),
    ({}, 'the study has no runs'),
  ],
)
def test_an_invalid_plan_is_an_error_that_names_the_run(runs, said):
  with pytest.raises(InputError, match=said):
    plan(two_steps(), runs)


@pytest.mark.parametrize(('only', 'wrong'), [('a,c', 'c'), (',', ',')])
def test_a_pattern_that_matches_no_run_is_an_error(only, wrong):
  with pytest.raises(InputError, match=f'--only={wrong} is not a run; choose from a, b'):
    chosen(plan(two_steps(), {'a': {}, 'b': {}}), only)


def test_spaces_between_patterns_do_not_matter():
  assert [run.name for run in chosen(plan(two_steps(), {'a': {}, 'b': {}, 'c': {}}), 'a, b')] == ['a', 'b']


def study_config(name):
  path = configs.path_of(name)
  return configs.named(name), runpy.run_path(str(path))['get_runs']()


def test_the_rgb_study_has_every_expert_and_trains_no_network_twice():
  runs = plan(*study_config('studies/rgb'))
  experts = [run for run in runs if run.config.train.subset]
  assert {run.config.train.subset for run in experts} == {'RGB', 'RG', 'RB', 'GB', 'R', 'G', 'B'}
  assert all(run.config.model.stem == 'conv' and run.config.presence.mode == 'none' for run in experts)
  trained = [json.dumps(configs.to_json(run.config), sort_keys=True) for run in runs if not run.weights]
  assert len(trained) == len(set(trained))
  # Of equal budget, but for those whose names say what more they cost.
  passes = {run.name: run.config.train.epochs / 20 * PASSES[run.config.presence.mode] for run in runs}
  assert {name: factor for name, factor in passes.items() if factor != 1} == {
    'hierarchical-linear-x2': 2,
    'hierarchical-linear-x4': 4,
    'pair-x2': 2,
    'sandwich-x3': 3,
  }
  assert {run.config.image_size for run in runs} == {56}
  assert len({run.network for run in runs}) == 3


def test_the_papers_tables_are_the_four_networks_of_their_folder():
  runs = plan(*study_config('imagenet_mini/tables'))
  names = ['resnet18_dynamic', 'resnet18', 'resattention', 'resnet34', 'resnet18_dynamic_drop']
  assert [run.name for run in runs] == names
  for run in runs[:4]:
    own = configs.named(f'imagenet_mini/{run.name}')
    assert not workdir.differences(configs.to_json(own), configs.to_json(run.config)), run.name


def test_the_shares_of_a_study_are_disjoint_and_complete_and_weights_stay_with_their_run():
  runs = plan(two_steps(), RUNS | {'filled': {'weights': 'whole'}})
  shares = [share(runs, f'{index}/3') for index in (1, 2, 3)]
  assert sorted(run.name for part in shares for run in part) == sorted(run.name for run in runs)
  assert share(runs, '') == runs
  for part in shares:
    names = {run.name for run in part}
    assert all(run.weights in names for run in part if run.weights)
  assert share(runs, '9/9') == []


@pytest.mark.parametrize('text', ['0/4', '5/4', '1', 'a/b', '1/0', '-1/4', '1/4/2'])
def test_a_shard_that_is_no_share_is_refused(text):
  with pytest.raises(InputError, match='must be i/n with i from 1 to n'):
    share(plan(two_steps(), {'a': {}}), text)
