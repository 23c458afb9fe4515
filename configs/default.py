"""Every field, with its default. Other configs are a diff against this one.

Batch, epochs and drops of the rate are those of the report that the README names; the rest is ours (docs/design.md).
Nearest to its sampling is presence.mode=drop.

    python train_main.py --config=configs/default.py --config.data.root=/data/imagenet-mini --workdir=runs/r18
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
  config = config_dict.ConfigDict()
  config.seed = 0  # of everything random: weights, order, augmentation, subsets
  config.image_size = 96  # side of the network's input, pixels

  config.model = model = config_dict.ConfigDict()
  model.name = 'resnet18'  # resnet18 | resnet34 | resnet50 | resattention
  model.stem = 'dynamic'  # dynamic (DynamicConv) | conv (an ordinary convolution, absent channels filled in)
  model.completion = 'linear'  # dynamic: none | scale | linear; conv: mean | black | gray
  model.width = 64  # features of the first convolution; all others follow
  model.small_images = False  # 3 x 3 stem of stride 1 and no max pooling, for inputs under about 48 pixels
  model.zero_init = False  # zero-initialise the last BatchNorm scale of every residual branch
  model.mask = 'spatial'  # resattention's mask branch: spatial | self_attention | squeeze_excite
  model.norm = 'batch'  # batch | group
  model.dtype = 'float32'  # of activations: float32 | bfloat16; parameters and statistics stay float32

  config.data = data = config_dict.ConfigDict()
  data.source = 'lists'  # lists | folders | arrays | tfds | synthetic
  data.root = ''  # folder that the splits below lie in (tfds: its data_dir)
  data.name = 'imagenet_mini'  # tfds: name[/config][:version]
  data.train = 'train.txt'  # lists: a file of `path label`; folders: a folder with one folder a class; arrays: what
  data.validation = 'val.txt'  # {split} below becomes; tfds: a split such as train[:90%]; synthetic: train[:4000]
  data.test = 'test.txt'
  data.channels = 'RGB'  # names, 'RGB' or 'B02,B03,B08'; '' takes those that an .npz holds
  data.wavelengths = ()  # centre wavelengths in nanometres, one a channel, kept with the weights; or nothing
  data.classes = ''  # a file of class names, one a line, in the order of labels; '' takes what the source has
  data.image_key = 'X_{split}'  # arrays: names in the .npz; {split} becomes train, val or test
  data.label_key = 'y_{split}'
  data.channels_key = 'bands'
  data.classes_key = 'classes'
  data.present_key = 'present_{split}'
  data.canvas = 0  # side of the decoded image that the host hands over, pixels; 0 for 1.5 x image_size
  data.on_bad_image = 'error'  # error | skip: what an unreadable file does
  data.threads = 0  # that decode, per host; 0 for one a core
  data.workers = 0  # processes that decode in place of threads, per host
  data.statistics_examples = 2000  # training images that channel mean, deviation and correlation come from

  config.augment = augment = config_dict.ConfigDict()
  augment.crop_scale = (0.25, 1.0)  # random resized crop: its share of the image's area, least and most
  augment.crop_ratio = (3 / 4, 4 / 3)  # and its width over height
  augment.flip = 0.5  # probability of a left-right flip
  augment.rotation = 10.0  # degrees either way
  augment.perspective = 0.2  # the corners move inwards by up to this share of half the side
  augment.perspective_probability = 0.5
  augment.evaluation_resize = 1.0  # evaluation: shorter side to image_size x this, then the centre

  config.presence = presence = config_dict.ConfigDict()
  presence.mode = 'hierarchical'  # none | drop | hierarchical | full_and_random | pair, sandwich (2, 3 passes a step)
  presence.probability = 0.5  # drop, full_and_random: the share of examples that lose channels
  presence.fill = 'absent'  # drop: absent (left out) | black (raw zeros that count as present) | either (even odds)

  config.train = train = config_dict.ConfigDict()
  train.batch_size = 64  # over all devices and hosts
  train.epochs = 30.0
  train.subset = ''  # an expert: the one subset to train and evaluate on, as 'R'; '' for all channels
  train.learning_rate = 0.05
  train.schedule = 'piecewise'  # piecewise | cosine | onecycle | constant
  train.drops = (0.5, 0.75, 0.85)  # piecewise: shares of all steps after which the rate drops
  train.drop_factor = 0.1
  train.warmup_epochs = 0.0  # linear, from zero
  train.momentum = 0.9
  train.nesterov = False
  train.weight_decay = 1e-4  # not on BatchNorm's and dense layers' vectors
  train.label_smoothing = 0.0
  train.clip_norm = 0.0  # of the whole gradient; 0 for no clipping
  train.accumulate = 1  # parts that a batch is worked off in, for less memory; BatchNorm sees a part
  train.ema = 0.0  # decay of a running average of weights and statistics, then used to evaluate; 0 for none
  train.recalibrate = False  # at the end: BatchNorm statistics for each of evaluate.subsets, where they help
  train.log_every = 20  # steps
  train.checkpoint_every = 0  # steps; 0 for once an epoch

  config.evaluate = evaluate = config_dict.ConfigDict()
  evaluate.every = 0  # steps between validations; 0 for once an epoch
  evaluate.subsets = 'all'  # 'all', 'RG', 'singles', 'size>=2', 'sample:64'; several with ';' between
  evaluate.batch_size = 256
  return config.lock()  # a field that is not above is a slip, in other config files too
