"""Judges a trained network on subsets of channels: python eval_main.py --workdir=DIR [--subsets=all] [--split=test]"""

from absl import flags

from flaxnets.cli import flags

WORKDIR = flags.DEFINE_string('workdir', None, 'the folder of a training run')
SUBSETS = flags.DEFINE_string('subsets', '', "'all', 'RG', 'B02,B03', 'full', 'singles', 'size>=2', 'sample:64'; "
                              "several with ';' between; all of up to ten channels if left out, and of more those of "
                              "the config's judge.subsets")
SPLIT = flags.DEFINE_string('split', 'test', "train, validation, test, or any split that the data's source knows")
ROOT = flags.DEFINE_string('root', '', "where the split lies, if not in the config's data.root; its "
                           "name is then added to the result's")
STEP = flags.DEFINE_string('step', 'best', 'best, latest or a number')
BATCH_SIZE = flags.DEFINE_integer('batch_size', 0, "examples at a time; the config's if left out", lower_bound=0)
RECALIBRATE = flags.DEFINE_bool('recalibrate', False, 'judge with BatchNorm statistics re-estimated for each subset on '
                                'training images, where they help; without, the network is judged as it was trained')
RECALIBRATE_VIEW = flags.DEFINE_enum('recalibrate_view', 'evaluation', ['evaluation', 'training'],
                                     'how those images are seen')
RECALIBRATE_IMAGES = flags.DEFINE_integer('recalibrate_images', 2048, 'how many of them; half as many others decide '
                                          'whether it helps', lower_bound=1)
flags.define_process_flags()
flags.adopt_module_key_flags(entry)
flags.mark_flags_as_required(['workdir'])


def main() -> int:
  from flaxnets.evaluation import judge, recalibrate
  from flaxnets.runtime import devices  # not before the flags are read: JAX takes seconds to import

  devices.start(
    [BATCH_SIZE.value or judge.configured_batch_size(WORKDIR.value)], coordinator=flags.FLAGS.coordinator,
    processes=flags.FLAGS.processes, process=flags.FLAGS.process,
  )
  if RECALIBRATE.value:
    recalibrate.run(
      WORKDIR.value, subsets=SUBSETS.value, step=STEP.value, view=RECALIBRATE_VIEW.value,
      images=RECALIBRATE_IMAGES.value, batch_size=BATCH_SIZE.value,
    )
  return judge.run(
    WORKDIR.value, subsets=SUBSETS.value, split=SPLIT.value, root=ROOT.value, step=STEP.value,
    batch_size=BATCH_SIZE.value, recalibrated=RECALIBRATE.value,
  )


if __name__ == '__main__':
  flags.run(main)
