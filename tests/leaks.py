"""Made rows of a leaked store, and what they give away."""

from v2t_cli.decoding.candidates import Candidate, Row
from v2t_cli.evaluation.calibration import Calibration
from v2t_cli.evaluation.entities import EntityFinder
from v2t_cli.evaluation.leak import Tally
from v2t_cli.models.lexicon import Lexicon

LEXICON = Lexicon(["где", "ждёт", "тебя", "да", "в", "Анна"], [99] * 6, ["."])
# 0.99 at cosine 1, 0.9 from 0.9 on, 0.6 from 0.8 on, 0 from 0.5 on
OUTCOMES = [(1.0, True)] * 99 + [(0.9, True)] * 90 + [(0.9, False)] * 9 + [(0.8, True)] * 60 + [(0.8, False)] * 39 + [(0.5, False)] * 9
CALIBRATION = Calibration(OUTCOMES)


def row(index, text, cosine, words=None):
    return Row(index, [Candidate(text, -1.0, cosine), Candidate("?", -2.0, 0.1)], words=words)


def tally(rows, seed=0):
    out = Tally(CALIBRATION, EntityFinder(LEXICON), seed)
    for it in rows:
        out.add(it)
    return out.result()
