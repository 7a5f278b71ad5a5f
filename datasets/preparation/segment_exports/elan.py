"""ELAN, .eaf: the annotations of tiers that are aligned to the time line, in milliseconds."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from datasets.preparation.media_index import SourceError
from datasets.preparation.segment_exports.stretches import Stretch, segment_of, xml_of


def read(file: Path) -> Iterator[Stretch]:
    """Yield the labelled stretches of a document; their labels are the texts of its annotations."""
    root = xml_of(file, "ANNOTATION_DOCUMENT", "ELAN")
    header = root.find("HEADER")
    if header is not None and header.get("TIME_UNITS", "milliseconds") != "milliseconds":
        raise SourceError(f"{file}: its times are in {header.get('TIME_UNITS')}; save it with milliseconds")
    media = _video_of(root)
    video = media.get("RELATIVE_MEDIA_URL") or media.get("MEDIA_URL") if media is not None else ""
    if media is None or not video:
        raise SourceError(f"{file} names no video in a MEDIA_DESCRIPTOR")
    origin = float(media.get("TIME_ORIGIN", 0))
    slots = {slot.get("TIME_SLOT_ID"): slot.get("TIME_VALUE") for slot in root.iter("TIME_SLOT")}
    tiers = [tier for tier in root.iter("TIER") if tier.find(".//ALIGNABLE_ANNOTATION") is not None]
    if len(tiers) > 1:
        listed = ", ".join(str(tier.get("TIER_ID")) for tier in tiers)
        raise SourceError(f"{file} has {len(tiers)} tiers with times ({listed}); keep the one with the classes")
    for annotation in root.iter("ALIGNABLE_ANNOTATION"):
        place = f"{file}, annotation {annotation.get('ANNOTATION_ID')}"
        times = [slots.get(annotation.get(f"TIME_SLOT_REF{i}")) for i in (1, 2)]
        if None in times:
            raise SourceError(f"{place} has no time; align it in ELAN")
        start, end = ((float(time or 0) + origin) / 1000 for time in times)
        label = (annotation.findtext("ANNOTATION_VALUE") or "").strip()
        if not label:
            raise SourceError(f"{place} has no text, which would be its label")
        yield Stretch(video, label, segment_of(start, end, place), place)


def _video_of(root: ElementTree.Element) -> ElementTree.Element | None:
    """Return the first video; the sound of a video is often linked beside it, and may come first."""
    media = root.findall("HEADER/MEDIA_DESCRIPTOR")
    videos = [one for one in media if one.get("MIME_TYPE", "").startswith("video/")]
    return next(iter(videos or media), None)
