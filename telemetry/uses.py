"""Who had a GPU: one sample of it, with the owner whose share it tells about."""

from __future__ import annotations

from dataclasses import dataclass

from telemetry.samples import GpuSample


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """For whom a GPU works; what is not known is empty text."""

    namespace: str = ""
    pod: str = ""
    job: str = ""
    team: str = ""
    model: str = ""
    project: str = ""


NOBODY = Owner()


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One owner's part of one GPU at one instant.

    The sample is of the whole GPU: of its hours, work and energy the owner's part is
    ``share_fraction``. A GPU that nobody has is one use of NOBODY; one that several share has a use
    for each, and what their shares leave is nobody's.
    """

    sample: GpuSample
    owner: Owner = NOBODY
    share_fraction: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.share_fraction <= 1:
            raise ValueError(
                f"Use.share_fraction: found {self.share_fraction}, allowed: a number from 0 to 1"
            )
