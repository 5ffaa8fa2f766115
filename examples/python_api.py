"""The Python API in a few lines: embed texts, decode their vectors, evaluate.

$ python examples/python_api.py
Where is the exit?  ->  Where is the exit?  (cosine 1.000)
How much is a ticket to the airport?  ->  How much is a ticket to the airport?  (cosine 1.000)
The cat fell asleep on the windowsill.  ->  The cat fell asleep windows.  (cosine 0.922)
2 of 3 came back exactly
"""

from pathlib import Path

from v2t_cli import V2T

inverter = V2T(Path(__file__).parent / "en-mini")  # or owner/name on the Hugging Face hub; device="cuda" for a GPU

texts = ["Where is the exit?", "How much is a ticket to the airport?", "The cat fell asleep on the windowsill."]
vectors = inverter.embed(texts)  # float32 (3, 384); your own vectors work too
for text, row in zip(texts, inverter.decode(vectors, quality="best")):
    print(f"{text}  ->  {row.best.text}  (cosine {row.best.cosine:.3f})")

scores = inverter.evaluate(texts, vectors, quality="best").scores
print(f"{scores.exact_match * scores.n:.0f} of {scores.n} came back exactly")
