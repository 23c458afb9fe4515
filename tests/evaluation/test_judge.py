"""The table of scores that an evaluation prints."""

from flaxnets.evaluation import judge


def row(channels, **scores):
  values = dict.fromkeys(('accuracy', 'accuracy_low', 'accuracy_high', 'precision', 'recall', 'f1', 'ece'), 0.5)
  return {'channels': channels, 'recalibrated': False, **values, 'loss': 1, 'macs': 1000, 'flops': 2000, **scores}


def header(*rows):
  return judge.table({'subsets': rows}).splitlines()[0].split()


def test_a_table_has_no_column_of_top_5_where_there_are_only_five_classes():
  assert 'top-5' not in header(row('RG', top5=None), row('R', top5=None))
  assert 'top-5' in header(row('RG', top5=0.9), row('R', top5=0.8))


def test_a_table_has_latencies_where_one_was_measured():
  assert 'latency,' not in header(row('RG', top5=0.9))
  lines = judge.table({'subsets': [row('RG', top5=0.9, latency=0.0123), row('R', top5=0.8)]}).splitlines()
  assert lines[0].endswith('latency, ms') and lines[1].endswith('  12.30')
  assert lines[2].split()[-5:] == ['80.00%', '1.000', '50.00%', '1,000', '2,000']
