"""The dense half of a text's features: its form, its topic, and smooth functions of both together.

Blocks are scaled so that a ridge penalty treats them as kernels added up: form and topic as linear
kernels, and a Gaussian kernel over both by random features (Rahimi and Recht, NIPS 2007). The
joint kernel is what helps most: what makes a question hard is not the same in law and in algebra.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

_CLIP = 4.0


@dataclass(frozen=True, slots=True)
class Scales:
    """The weight of each block's kernel beside the n-grams', which has 1."""

    form: float = 1.0
    topic: float = 0.3
    waves: float = 2.0
    topic_reach: float = 1.6
    """Two texts of different topics are as far apart in the joint kernel as two whose forms differ
    by this many deviations throughout."""
    wave_count: int = 512


@dataclass(frozen=True, slots=True)
class Dense:
    """Turns forms (one row a text) and topic probabilities into feature rows."""

    mean: Vector
    deviation: Vector
    frequencies: Matrix
    """Shape (forms + topics, waves)."""
    phases: Vector
    scales: Scales

    @classmethod
    def learned(cls, forms: Matrix, topics: int, seed: int, scales: Scales) -> "Dense":
        random = np.random.default_rng(seed)
        wide = forms.shape[1]
        frequencies = random.normal(size=(wide + topics, scales.wave_count))
        frequencies[:wide] /= np.sqrt(wide)
        frequencies[wide:] *= scales.topic_reach / np.sqrt(2)
        return cls(
            forms.mean(axis=0),
            forms.std(axis=0) + 1e-6,
            frequencies,
            random.uniform(0, 2 * np.pi, scales.wave_count),
            scales,
        )

    def __call__(self, forms: Matrix, topics: Matrix) -> Matrix:
        """Shape (texts, features); `topics` has no columns where one topic is all that is known."""
        scales = self.scales
        standard = np.clip((forms - self.mean) / self.deviation, -_CLIP, _CLIP)
        angles = np.concatenate([standard, topics], axis=1) @ self.frequencies + self.phases
        return np.concatenate(
            [
                standard * np.sqrt(scales.form / forms.shape[1]),
                topics * np.sqrt(scales.topic),
                np.cos(angles) * np.sqrt(2 * scales.waves / scales.wave_count),
            ],
            axis=1,
        )
