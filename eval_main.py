"""Judges a trained network on subsets of channels: python eval_main.py --workdir=DIR [--subsets=all] [--split=test]"""

from absl import flags

from flaxnets import entry

WORKDIR = flags.DEFINE_string('workdir', None, 'the folder of a training run')
SUBSETS = flags.DEFINE_string('subsets', 'all', "'all', 'RG', 'B02,B03', 'full', 'singles', 'size>=2', 'sample:64'; "
                              "several with ';' between")
SPLIT = flags.DEFINE_string('split', 'test', "train, validation, test, or any split that the data's source knows")
ROOT = flags.DEFINE_string('root', '', "where the split lies, if not in the config's data.root")
STEP = flags.DEFINE_string('step', 'best', 'best, latest or a number')
BATCH_SIZE = flags.DEFINE_integer('batch_size', 0, "examples at a time; the config's if left out", lower_bound=0)
entry.define_process_flags()
flags.adopt_module_key_flags(entry)
flags.mark_flags_as_required(['workdir'])


def main() -> int:
  from flaxnets import evaluate, parallel  # not before the flags are read: JAX takes seconds to import

  parallel.start(
    BATCH_SIZE.value or 256, coordinator=flags.FLAGS.coordinator, processes=flags.FLAGS.processes,
    process=flags.FLAGS.process,
  )
  return evaluate.run(
    WORKDIR.value, subsets=SUBSETS.value, split=SPLIT.value, root=ROOT.value, step=STEP.value,
    batch_size=BATCH_SIZE.value,
  )


if __name__ == '__main__':
  entry.run(main)
