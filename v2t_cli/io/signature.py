"""Signatures of runs: their settings, and the encoder, identified by its probe vector. Equal ones are parts of one run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from v2t_cli.core.config import EncoderConfig
from v2t_cli.core.errors import RequestError
from v2t_cli.core.similarity import row_cosine
from v2t_cli.io.vectors import MAX_DIM

SAME_ENCODER = 0.999  # cosine of the probe vectors, at least


class EncoderIdentity(BaseModel):
    """Which encoder made the vectors."""

    name: str
    revision: str | None = None
    dim: int = Field(ge=1, le=MAX_DIM)
    prompt: str | None = None
    normalize: bool = False
    probe: list[FiniteFloat]  # the vector of encoder.PROBE

    @model_validator(mode="after")
    def probe_is_a_vector(self) -> EncoderIdentity:
        if len(self.probe) != self.dim:
            raise ValueError(f"probe has {len(self.probe)} numbers, but dim is {self.dim}")
        return self

    def config(self, base: EncoderConfig) -> EncoderConfig:
        """The configuration that opens this encoder again, with the other settings of `base`."""
        same = {"model": self.name, "revision": self.revision, "prompt": self.prompt, "normalize": self.normalize}
        return base.model_copy(update=same)

    def check(self, other: EncoderIdentity, whose: str) -> None:
        """Raise RequestError unless `other` gives the same vectors. Names and paths do not count, vectors do."""
        if self.dim != other.dim:
            difference = f"{other.dim} dimensions instead of {self.dim}"
        elif not (cosine := float(row_cosine(np.array([self.probe]), np.array([other.probe]))[0])) >= SAME_ENCODER:  # or NaN
            difference = f"probe cosine {cosine:.3f}"
        else:
            return
        raise RequestError(
            f"encoder '{other.name}' does not match that of {whose}, '{self.name}' ({difference}); use '{self.name}' instead"
        )


class Signature(BaseModel):
    """What must stay the same while a run is interrupted and resumed.

    settings: as JSON has them; files call them "signature". encoder: None for a run without one.
    """

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    settings: dict[str, Any] = Field(alias="signature")
    encoder: EncoderIdentity | None = None

    def check(self, now: Signature, where: str, names: Mapping[str, str | tuple[str, ...]] = MappingProxyType({})) -> None:
        """Raise RequestError, with the differences, unless `now` continues the run of this signature.

        names: what the user knows a setting by; a tuple names the items of a list.
        """
        before, after = (_named(flat(json.loads(json.dumps(it.settings))), names) for it in (self, now))  # as they come from a file
        if not (self.encoder and now.encoder):
            key = str(names.get("encoder", "encoder"))
            before, after = ({**it, key: run.encoder and run.encoder.name} for it, run in ((before, self), (after, now)))
        if changed := [key for key in after | before if before.get(key) != after.get(key)]:
            differences = ", ".join(f"{key} (was {before.get(key)}, now {after.get(key)})" for key in changed)
            raise RequestError(
                f"{where}: the interrupted run had other settings: {differences}; change them back, or start over with --overwrite"
            )
        if self.encoder and now.encoder:
            self.encoder.check(now.encoder, f"the run in {where}")


def _named(settings: dict[str, Any], names: Mapping[str, str | tuple[str, ...]]) -> dict[str, Any]:
    """The settings by their names."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        name = names.get(key, key)
        if isinstance(name, tuple):
            out |= zip(name, value) if isinstance(value, list) else {key: value}
        else:
            out[name] = value
    return out


def flat(settings: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested keys as one, joined by dots."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        out |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return out
