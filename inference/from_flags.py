"""What the flags of `inference/arguments.py` and `tools.features` describe: predictor, segments, features."""

import argparse
from typing import Any

from engines.checkpoint_flags import SAMPLING_FLAGS
from inference.defaults import LEAVE_SHARE, LOGITS, QUICK, UNSURE
from inference.features import FeatureFolder, describe_features
from inference.predictor import Predictor, load_predictor
from inference.segments import SegmentSettings
from inference.sources import expand_sources


def segment_settings_of_flags(args: argparse.Namespace, threshold: float | None) -> SegmentSettings | None:
    """Return how segments are read off a curve; None if neither --segments nor --truth needs them.

    Args:
        args: Flags of `add_segment_arguments`.
        threshold: That of the model, as `Predictor.threshold`; the default of --segment_enter.

    Raises:
        ValueError: thresholds or lengths are given in vain, or see `SegmentSettings`.
    """
    enter, leave, lengths = args.segment_enter, args.segment_leave, (args.segment_smooth, args.segment_shortest)
    if args.segments or args.truth:
        if enter is None:
            enter = UNSURE if threshold is None else threshold
        return SegmentSettings(enter, LEAVE_SHARE * enter if leave is None else leave, *lengths)
    if (enter, leave, *lengths) != (None,) * 4:
        raise ValueError("--segment_enter, _leave, _smooth and _shortest have no effect without --segments or --truth")
    return None


def predictor_of_flags(args: argparse.Namespace, **more: Any) -> Predictor:
    """Load `args.checkpoint` as the flags of reading and computing say; `more` are arguments of `load_predictor`.

    Raises:
        FileNotFoundError, ValueError: see `load_predictor`.
    """
    names = (*SAMPLING_FLAGS, "filename_tmpl", "reader", "read_timeout", "backend")
    chosen = {name: getattr(args, name, None) for name in names}
    return load_predictor(
        args.checkpoint,
        device=args.device,
        recipe=args.recipe,
        bf16=args.bf16,
        cuda_graph=args.cuda_graph,
        clips_per_forward=args.batch_size,
        **(chosen | (QUICK if args.quick else {}) | more),
    )


def feature_folder_of_flags(args: argparse.Namespace) -> FeatureFolder:
    """Load the model, find the videos, and begin or continue the output folder of `tools.features`.

    Raises:
        OSError, ValueError: see `load_predictor`, `expand_sources` and `FeatureFolder.open`.
    """
    predictor = predictor_of_flags(args, head=args.pool == LOGITS)
    sources = expand_sources(
        args.videos,
        filename_tmpl=predictor.filename_tmpl,
        images=predictor.plan.clip_shape[1] == 1,
        data_root=args.data_root,
    )
    stride = args.stride or args.window
    description = describe_features(
        predictor,
        args.checkpoint,
        pool=args.pool,
        half=args.half,
        window=args.window,
        stride=stride,
        views=args.views,
    )
    return FeatureFolder.open(args.output, predictor, description, sources)
