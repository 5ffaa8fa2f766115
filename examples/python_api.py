"""The Python API in a few lines: embed texts, decode their vectors, evaluate.

$ python examples/python_api.py
Где здесь выход?  ->  Где здесь выход?  (cosine 1.000)
Сколько стоит билет до центра?  ->  Сколько стоит билет до центра?  (cosine 1.000)
Кот уснул на подоконнике.  ->  Кот уснул на в окнотыл.  (cosine 0.951)
2 of 3 came back exactly
"""

from pathlib import Path

from v2t_cli import V2T

inverter = V2T(Path(__file__).parent / "ru-mini")  # or owner/name on the Hugging Face hub; device="cuda" for a GPU

texts = ["Где здесь выход?", "Сколько стоит билет до центра?", "Кот уснул на подоконнике."]
vectors = inverter.embed(texts)  # float32 (3, 512); your own vectors work too
for text, row in zip(texts, inverter.decode(vectors, quality="best")):
    print(f"{text}  ->  {row.best.text}  (cosine {row.best.cosine:.3f})")

scores = inverter.evaluate(texts, vectors, quality="best").scores
print(f"{scores.exact_match * scores.n:.0f} of {scores.n} came back exactly")
