import numpy as np
import pytest
from tiny import DIM, SENTENCES

from v2t_cli.models.metadata import model_card, read_info


def test_a_checkpoint_says_what_it_is(checkpoint, labse):
    info = read_info(checkpoint)
    assert (info.dim, info.encoder.name, info.encoder.dim) == (DIM, str(labse), DIM)
    assert np.linalg.norm(info.encoder.probe) == pytest.approx(1, abs=1e-4)
    assert (info.data.texts, info.data.held_out, info.training.finished) == (len(SENTENCES), 10, True)
    assert info.held_out.perplexity == pytest.approx(np.exp(info.held_out.loss))
    assert info.encoder_name == str(labse) and info.model_copy(update={"encoder": None}).encoder_name == "an unknown encoder"


def test_the_card_is_that_of_the_checkpoint(checkpoint, labse):
    info, card = read_info(checkpoint), (checkpoint / "README.md").read_text(encoding="utf-8")
    assert card == model_card(info, pictured=True)
    assert f"| {info.held_out.loss:.4f} |" in card and "linear" in card and str(labse.parent) not in card
    assert "90 trained on, 10 held out" in card and "`held_out.txt` beside this card holds 10 of the held-out texts" in card


def test_the_card_says_only_what_is_there(checkpoint):
    info = read_info(checkpoint)
    card = model_card(info)
    assert "loss.png" not in card and "loss.png" in model_card(info, pictured=True)
    bare = model_card(info.model_copy(update={"encoder": None, "held_out": None}))
    assert "made elsewhere" in bare and "v2t embed" not in bare and "There is no score on held-out texts." in bare


def test_no_value_breaks_the_tables_of_the_card(checkpoint):
    info = read_info(checkpoint)
    hostile = "news | of\n| today\x1b[31m"
    encoder = info.encoder.model_copy(update={"prompt": hostile})
    card = model_card(info.model_copy(update={"data": info.data.model_copy(update={"source": hostile}), "encoder": encoder}))
    rows = [line for line in card.split("\n") if "today" in line]
    assert len(rows) == 2 and all(row.startswith("| ") and row.endswith(" |") and row.count(" | ") == 1 for row in rows)
    assert "\x1b" not in card


@pytest.mark.parametrize(
    ("folder", "card", "title"),
    [
        ("encoders/model", "---\n# about the tags\ntags: []\n---\n\n# all-MiniLM-L6-v2\nThis is ...\n", "all-MiniLM-L6-v2"),
        ("my-encoder", "---\ntags: []\n---\n\n# SentenceTransformer based on intfloat/e5-small\n", "intfloat/e5-small"),
        ("my-encoder", "# SentenceTransformer based on /home/anna/base\n", "base"),
        ("my-encoder", "# SentenceTransformer\n", "my-encoder"),
        ("my-encoder", None, "my-encoder"),
        ("hub/models--sentence-transformers--LaBSE/snapshots/83d1c1", "# A | B\x1b\n", "A \\| B "),
        ("hub/models--sentence-transformers--LaBSE/snapshots/83d1c1", None, "sentence-transformers/LaBSE"),
    ],
)
def test_the_card_names_the_encoder_not_its_folder(checkpoint, tmp_path, folder, card, title):
    info, path = read_info(checkpoint), tmp_path / folder
    path.mkdir(parents=True)
    if card is not None:
        (path / "README.md").write_text(card)
    text = model_card(info.model_copy(update={"encoder": info.encoder.model_copy(update={"name": str(path)})}))
    assert f"| vectors | {title}: 16 dimensions |" in text and f"# Text from sentence vectors of {title}\n" in text
    assert str(tmp_path) not in text
