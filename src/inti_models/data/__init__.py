"""From files to model input: decoding, clip transforms, augmentation, datasets and samplers."""

from .augmentation import ClipMixup, TrainTransform, create_train_transform, seeded
from .datasets import MotionDigitsClips, Sample, VideoDataset
from .limits import Limits, VideoError
from .lists import VideoList, find_videos, read_class_names
from .samplers import TrainSampler
from .sampling import FrameSampling
from .sources import Source, open_source
from .transforms import ClipTransform, create_clip_transform
from .video import Clips, iterate_frames, read_clips
from .write import write_video

__all__ = [
    "ClipMixup",
    "ClipTransform",
    "Clips",
    "FrameSampling",
    "Limits",
    "MotionDigitsClips",
    "Sample",
    "Source",
    "TrainSampler",
    "TrainTransform",
    "VideoDataset",
    "VideoError",
    "VideoList",
    "create_clip_transform",
    "create_train_transform",
    "find_videos",
    "iterate_frames",
    "open_source",
    "read_class_names",
    "read_clips",
    "seeded",
    "write_video",
]
