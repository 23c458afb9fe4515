"""Trains a network: python train_main.py --config=configs/demo.py --workdir=DIR [--config.field=value ...]"""

from absl import flags
from ml_collections import config_flags

from flaxnets.cli import flags

CONFIG = config_flags.DEFINE_config_file('config', None, 'a file of configs/; --config.field=value changes a field')
WORKDIR = flags.DEFINE_string('workdir', None, 'the folder of this run; a run that lives there goes on')
flags.define_process_flags()
flags.adopt_module_key_flags(entry)
flags.mark_flags_as_required(['config', 'workdir'])


def main() -> int:
  from flaxnets.runtime import devices  # not before the flags are read: JAX takes seconds to import
  from flaxnets.training import loop

  devices.start(
    [CONFIG.value.train.batch_size, CONFIG.value.evaluate.batch_size], coordinator=flags.FLAGS.coordinator,
    processes=flags.FLAGS.processes, process=flags.FLAGS.process,
  )
  return loop.run(CONFIG.value, WORKDIR.value)


if __name__ == '__main__':
  flags.run(main)
