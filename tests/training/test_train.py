"""train: what it makes of texts and settings, what it reports, and in which folders it works."""

import json
import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import DIM, SENTENCES, assert_same_weights, build_labse, stopping, tiny_config, weights

from v2t_cli.core.config import EncoderConfig, load_config
from v2t_cli.core.errors import RequestError
from v2t_cli.models.checkpoint import load_checkpoint
from v2t_cli.models.encoder import open_encoder
from v2t_cli.models.lexicon import Lexicon
from v2t_cli.models.metadata import read_info
from v2t_cli.training.callbacks import Callbacks
from v2t_cli.training.prepare import open_accelerator, prepare
from v2t_cli.training.schedule import Schedule
from v2t_cli.training.train import train


@pytest.mark.parametrize("settings", [["train.optimizer=adamw"], ["data.augment=0.5", "data.join=0.5", "train.optimizer=muon"]])
def test_resumed_is_uninterrupted(tmp_path, texts_file, labse, settings):
    sets = "train.dropout=0.1", *settings  # with dropout, so that the random state matters too
    whole = tiny_config(texts_file, labse, tmp_path / "whole", *sets)
    parts = tiny_config(texts_file, labse, tmp_path / "parts", *sets)
    train(whole)
    for step in (5, 4):  # in the middle of an epoch, and again
        result = train(parts, resume=step == 4, callbacks=stopping(step))
        assert not result.finished and not read_info(tmp_path / "parts").training.finished
        load_checkpoint(tmp_path / "parts", torch.device("cpu"))  # complete at every stop
    assert read_info(tmp_path / "parts").training.steps == 9
    assert train(parts, resume=True).finished
    assert_same_weights(tmp_path / "whole", tmp_path / "parts", rtol=0, atol=1e-6)
    assert read_info(tmp_path / "whole").held_out.loss == pytest.approx(read_info(tmp_path / "parts").held_out.loss, abs=1e-5)


def test_muon_takes_the_inner_matrices(tmp_path, texts_file, labse):
    models = prepare(tiny_config(texts_file, labse, tmp_path / "out", "train.optimizer=muon"), Callbacks(), resume=False).models
    names = {weight: name for name, weight in models.inverter.named_parameters()}
    rest, of_muon = ({names[weight] for group in each.param_groups for weight in group["params"]} for each in models.optimizers)
    blocks = {f"lm.transformer.h.{i}.{name}.weight" for i in (0, 1) for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
    assert of_muon == blocks and rest == set(names.values()) - blocks


def test_muon_needs_a_torch_that_has_it(tmp_path, texts_file, labse, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(RequestError, match="train.optimizer muon needs torch 2.9 or later"):
        prepare(tiny_config(texts_file, labse, tmp_path / "out", "train.optimizer=muon"), Callbacks(), resume=False)


@pytest.mark.parametrize("key", ["data.augment", "data.join"])
def test_augmented_texts_are_others(tmp_path, texts_file, labse, key):
    for name, share in (("plain", 0), ("augmented", 0.5)):
        train(tiny_config(texts_file, labse, tmp_path / name, "train.epochs=1", f"{key}={share}"))
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "plain", tmp_path / "augmented", rtol=0, atol=1e-6)


def test_vectors_of_new_texts_are_as_long_as_those_of_the_corpus(tmp_path, texts_file, labse, encoder):
    sets = "data.join=0.5", "train.epochs=2", "data.held_out=0", f"data.vectors={tmp_path / 'vectors.npy'}"
    for name, scale in (("1", 1), ("127", 127)):
        np.save(tmp_path / "vectors.npy", scale * encoder.encode(SENTENCES))
        train(tiny_config(texts_file, labse, tmp_path / name, *sets))
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("1", "127"))
    torch.testing.assert_close(second, first, rtol=1e-3, atol=1e-4)  # the adapter divides by the deviation of the corpus


@pytest.mark.parametrize("key", ["data.augment", "data.join"])
def test_augmented_texts_need_an_encoder(tmp_path, texts_file, key):
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).normal(size=(len(SENTENCES), DIM)).astype(np.float32))
    config = tiny_config(texts_file, "null", tmp_path / "out", f"data.vectors={tmp_path / 'vectors.npy'}", f"{key}=0.5")
    with pytest.raises(RequestError, match=rf"new texts \({key}\) are embedded with the encoder of data.vectors: name it"):
        train(config)
    assert not (tmp_path / "out").exists()


def test_the_same_seed_gives_the_same_weights(tmp_path, texts_file, labse):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tiny_config(texts_file, labse, tmp_path / name, "train.epochs=1", f"seed={seed}"))
    assert_same_weights(tmp_path / "a", tmp_path / "b", rtol=0, atol=1e-6)
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "a", tmp_path / "c", rtol=0, atol=1e-6)


def test_accumulated_small_batches_are_one_large_batch(tmp_path, texts_file, labse):
    """Token for token, although the small batches hold different numbers of tokens."""
    from v2t_cli.training import batches as plan

    sizes = {"large": ("train.batch_size=16",), "small": ("train.batch_size=4", "train.gradient_accumulation=4")}
    bucketed = plan.bucketed
    with pytest.MonkeyPatch.context() as patch:

        def same_order(lengths, batch_size, rng):
            rows = np.concatenate(bucketed(lengths, 16, rng))
            return [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]

        patch.setattr(plan, "bucketed", same_order)
        for name, sets in sizes.items():
            train(tiny_config(texts_file, labse, tmp_path / name, "train.epochs=1", *sets))
    assert_same_weights(tmp_path / "large", tmp_path / "small", rtol=0, atol=1e-4)


def test_texts_are_embedded_once(tmp_path, texts_file, labse, caplog, monkeypatch):
    cache = f"data.cache={tmp_path / 'cache'}"
    train(tiny_config(texts_file, labse, tmp_path / "a", cache, "train.epochs=1"))
    assert "embedded 100 texts" in caplog.text
    caplog.clear()
    caplog.set_level("DEBUG", "v2t")
    monkeypatch.setattr("v2t_cli.models.vector_cache.embed_chunks", lambda *a: pytest.fail("embedded again"))
    train(tiny_config(texts_file, labse, tmp_path / "b", cache, "train.epochs=1", "adapter.kind=mlp", "data.held_out=0.2"))
    assert "using cached vectors from" in caplog.text


def test_other_texts_or_another_encoder_are_embedded_anew(tmp_path, texts_file, labse, caplog):
    cache = f"data.cache={tmp_path / 'cache'}"
    train(tiny_config(texts_file, labse, tmp_path / "a", cache, "train.epochs=1"))
    train(tiny_config(texts_file, labse, tmp_path / "b", cache, "train.epochs=1", "encoder.prompt=текст"))
    train(tiny_config(texts_file, labse, tmp_path / "c", cache, "train.epochs=1", "data.max_chars=20"))
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 3


def test_vectors_from_elsewhere_follow_the_filters(tmp_path, labse, caplog):
    """Dropped lines are dropped with their vectors: the model learns as well as from vectors it embedded itself."""
    lines = ["", *SENTENCES[:50], "x" * 200, SENTENCES[0], *SENTENCES[50:]]
    (tmp_path / "t.txt").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    vectors = open_encoder(EncoderConfig(model=str(labse)), "cpu").encode(lines)
    np.save(tmp_path / "v.npy", vectors)
    config = tiny_config(tmp_path / "t.txt", "null", tmp_path / "out", f"data.vectors={tmp_path / 'v.npy'}", "train.epochs=40")
    result = train(config)
    assert "100 of 103 texts kept (dropped: 1 duplicates, 1 shorter than data.min_chars 2, 1 longer than data.max_chars 160)" in caplog.text
    info = read_info(tmp_path / "out")
    assert info.encoder is None and info.dim == DIM
    embedded = tiny_config(tmp_path / "t.txt", labse, tmp_path / "own", "train.epochs=40")
    assert result.scores.loss == pytest.approx(train(embedded).scores.loss, abs=0.05)


def test_counts_that_do_not_match_are_both_named(tmp_path, texts_file):
    np.save(tmp_path / "v.npy", np.zeros((99, 4), np.float32))
    config = tiny_config(texts_file, "null", tmp_path / "out", f"data.vectors={tmp_path / 'v.npy'}")
    with pytest.raises(RequestError, match="99 vectors for 100 lines"):
        train(config)
    assert not (tmp_path / "out").exists()


def test_reports_and_saves_on_the_way(tmp_path, texts_file, labse):
    steps, evaluations = [], []
    hooks = Callbacks(step=steps.append, evaluation=evaluations.append)
    sets = ["train.epochs=10", "train.eval_steps=20", "train.save_steps=25", "train.samples=3"]
    train(tiny_config(texts_file, labse, tmp_path / "out", *sets), callbacks=hooks)
    assert [report.step for report in steps] == [20, 40, 60]
    assert steps[0].loss > steps[-1].loss and steps[-1].fraction == 1
    assert [report.step for report in evaluations] == [20, 40, 60]
    assert len(evaluations[0].samples) == 3
    assert evaluations[-1].scores.loss == pytest.approx(read_info(tmp_path / "out").held_out.loss)
    states = [path.name for path in (tmp_path / "out" / ".resume").iterdir()]
    assert states == ["step-000000060"], "one state, the newest"


def test_the_clock_ends_a_run(tmp_path, texts_file, labse, monkeypatch):
    fractions = []
    monkeypatch.setattr("v2t_cli.training.trainer.LOG_STEPS", 1)
    hooks = Callbacks(step=lambda report: fractions.append(report.fraction))
    result = train(tiny_config(texts_file, labse, tmp_path / "out", "train.epochs=100000", "train.max_minutes=0.03"), callbacks=hooks)
    minutes = read_info(tmp_path / "out").training.minutes
    assert result.finished and 0.02 < minutes < 0.2
    assert fractions == sorted(fractions) and fractions[-1] > 0.5


def test_learning_rate_rises_then_falls(tmp_path, texts_file, labse, monkeypatch):
    from v2t_cli.training.trainer import Trainer

    rates = []
    real = Trainer._step

    def spy(self, fraction):
        out = real(self, fraction)
        rates.append([group["lr"] for group in self.models.optimizers[0].param_groups])
        return out

    monkeypatch.setattr(Trainer, "_step", spy)
    sets = ["train.epochs=5", "train.warmup=0.2", "train.learning_rate=0.01", "train.adapter_learning_rate=0.1"]
    train(tiny_config(texts_file, labse, tmp_path / "out", *sets))
    decoder = [rate[0] for rate in rates]
    peak = decoder.index(max(decoder))
    assert 0 < decoder[0] < decoder[peak] == pytest.approx(0.01, rel=0.05)
    assert decoder[: peak + 1] == sorted(decoder[: peak + 1]) and decoder[peak:] == sorted(decoder[peak:], reverse=True)
    assert decoder[-1] < 0.001
    assert all(rate[1] == pytest.approx(10 * rate[0]) for rate in rates)


def test_no_step_exceeds_the_peak_rate():
    assert Schedule(total_steps=3, max_minutes=None, warmup=0.01).factor(0.0) == 1.0
    assert Schedule(total_steps=100, max_minutes=None, warmup=0.1).factor(0.0) == pytest.approx(0.05)


def test_the_speed_is_that_of_training_alone(tmp_path, texts_file, labse):
    steps = []
    config = tiny_config(texts_file, labse, tmp_path / "out", "train.epochs=10", "train.eval_steps=5", "train.save_steps=10")
    train(config, callbacks=Callbacks(step=steps.append))
    tokens = prepare(config, Callbacks(), resume=False).data.examples.lengths.sum()
    seconds = np.diff([0, *(60 * it.minutes for it in steps)])
    assert sum(it.tokens_per_second * took for it, took in zip(steps, seconds)) == pytest.approx(10 * tokens)


@pytest.mark.parametrize("kind", ["zero_pad", "linear", "mlp"])
def test_pretrained_decoders_and_every_adapter(tmp_path, texts_file, labse, decoder, kind):
    sets = [f"encoder.model={labse}", f"decoder.model={decoder}", f"adapter.kind={kind}", f"data.texts={texts_file}"]
    sets += [f"output={tmp_path / 'out'}", "device=cpu", "train.epochs=2", "train.batch_size=16", "train.gradient_checkpointing=true"]
    result = train(load_config(None, sets))
    assert math.isfinite(result.scores.loss)
    loaded = load_checkpoint(tmp_path / "out", torch.device("cpu"))
    assert loaded.info.decoder.model == str(decoder)
    assert loaded.inverter.adapter.kind == kind
    assert loaded.inverter.adapter.mean.abs().sum() > 0


def test_texts_that_do_not_fit_the_decoder_are_dropped(tmp_path, texts_file, labse, caplog):
    train(tiny_config(texts_file, labse, tmp_path / "out", "decoder.scratch.n_positions=8", "train.epochs=1"))
    assert "training texts dropped: longer than the 7 tokens" in caplog.text
    assert read_info(tmp_path / "out").lengths.max_tokens <= 7


def test_nothing_held_out(tmp_path, texts_file, labse):
    result = train(tiny_config(texts_file, labse, tmp_path / "out", "data.held_out=0", "train.epochs=1"))
    assert result.scores is None and read_info(tmp_path / "out").held_out is None


def test_a_loss_that_explodes_is_an_error(tmp_path, texts_file, labse, monkeypatch):
    from v2t_cli.core.errors import V2TError
    from v2t_cli.models.inverter import Inverter

    monkeypatch.setattr(Inverter, "forward", lambda self, v, i, n: self.adapter.map.weight.sum() * float("nan") + torch.zeros(len(v)))
    with pytest.raises(V2TError, match="loss became nan before step 6"):  # also where the run ends before a report
        train(tiny_config(texts_file, labse, tmp_path / "out", "train.epochs=1"))
    assert not (tmp_path / "out").exists()


class TestVectorsOfANamedEncoder:
    """data.vectors with encoder.model."""

    @pytest.fixture
    def config(self, tmp_path, texts_file, labse):
        """Of a training on these vectors."""

        def write(vectors, *sets):
            np.save(tmp_path / "v.npy", vectors)
            return tiny_config(texts_file, labse, tmp_path / "out", f"data.vectors={tmp_path / 'v.npy'}", "train.epochs=1", *sets)

        return write

    def test_that_are_its_own(self, config, encoder, tmp_path, caplog):
        vectors = encoder.encode(SENTENCES)
        train(config((100 * vectors).astype(np.float16)))
        assert read_info(tmp_path / "out").encoder.name == encoder.identity.name and "not quite" not in caplog.text

    def test_of_another_width(self, config):
        with pytest.raises(RequestError, match="v.npy: vectors of 32 dimensions, but those of encoder '.*' have 16"):
            train(config(np.ones((100, 32), np.float32)))

    @pytest.mark.parametrize("order", ["noise", "reversed", "shifted", "zeros"])
    def test_that_are_not_of_these_texts(self, config, encoder, tmp_path, order):
        vectors = encoder.encode(SENTENCES)
        noise = np.random.default_rng(0).normal(size=vectors.shape)
        wrong = {"noise": noise, "reversed": vectors[::-1], "shifted": np.roll(vectors, 1, axis=0), "zeros": 0 * vectors}[order]
        with pytest.raises(RequestError, match="v.npy: not made by encoder '.*' from these texts: row .* has cosine .* or null for none"):
            train(config(wrong))
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("named", [True, False])
    def test_other_ones_resume_nothing(self, config, encoder, named):
        vectors, sets = encoder.encode(SENTENCES), () if named else ("encoder.model=null",)
        train(config(vectors, *sets), callbacks=stopping(3))
        with pytest.raises(RequestError, match=r"the interrupted run had other settings: the vectors of data.vectors \(was"):
            train(config(vectors * 1.001, *sets), resume=True)
        if not named:  # mean and deviation are the same
            with pytest.raises(RequestError, match=r"the interrupted run had other settings: the vectors of data.vectors \(was"):
                train(config(vectors[::-1], *sets), resume=True)
        assert train(config(vectors, *sets), resume=True).finished


def test_equal_vectors_are_told(tmp_path, texts_file, caplog):
    np.save(tmp_path / "v.npy", np.full((100, DIM), 12345.678, np.float32))
    config = tiny_config(texts_file, "null", tmp_path / "out", f"data.vectors={tmp_path / 'v.npy'}", "train.epochs=0.1")
    train(config)
    assert "all 90 training vectors are equal, so no text can be told from another" in caplog.text
    assert (load_file(tmp_path / "out" / "adapter.safetensors")["scale"] == 1).all()


def swap_states(path):
    """A state of random numbers that is another one, as if of another version of NumPy."""
    path.write_bytes((path.parent / "optimizer.bin").read_bytes())


class TestOutputFolder:
    def begin(self, tmp_path, texts_file, labse, *sets):
        config = tiny_config(texts_file, labse, tmp_path / "out", "train.epochs=1", *sets)
        train(config, callbacks=stopping(3))
        return config

    def test_a_foreign_folder_is_never_touched(self, tmp_path, texts_file, labse):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.docx").write_text("years of work")
        for overwrite in (False, True):
            with pytest.raises(RequestError, match="something other than a v2t checkpoint"):
                train(tiny_config(texts_file, labse, tmp_path / "out"), overwrite=overwrite)
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.docx"]

    def test_a_log_of_somebody_else_is_no_left_over(self, tmp_path, texts_file, labse):
        output = tmp_path / "out"
        output.mkdir()
        for content in ('{"message": "mine"}\n', "12:00 begun\n"):
            (output / "log.jsonl").write_text(content)
            with pytest.raises(RequestError, match="holds something other than a v2t checkpoint"):
                train(tiny_config(texts_file, labse, output))
            assert (output / "log.jsonl").read_text() == content
        (output / "log.jsonl").unlink()
        (output / "v2t").mkdir()
        (output / "v2t" / "notes.txt").write_text("mine")
        with pytest.raises(RequestError, match="holds something other"):
            train(tiny_config(texts_file, labse, output))

    def test_a_run_there_needs_a_word(self, tmp_path, texts_file, labse):
        config = self.begin(tmp_path, texts_file, labse)
        with pytest.raises(RequestError, match="--resume continues it, --overwrite replaces it"):
            train(config)
        assert train(config, overwrite=True).finished
        assert read_info(tmp_path / "out").training.steps == 6

    def test_a_finished_run_resumed_is_left_alone(self, tmp_path, texts_file, labse, caplog):
        config = self.begin(tmp_path, texts_file, labse)
        train(config, resume=True)
        before = weights(tmp_path / "out")
        log, saved = ((tmp_path / "out" / name) for name in ("log.jsonl", "v2t.json"))
        logged, at = log.read_bytes(), saved.stat().st_mtime_ns
        again = train(config, resume=True)
        assert again.finished and again.scores == read_info(tmp_path / "out").held_out and "already finished" in caplog.text
        assert log.read_bytes() == logged and saved.stat().st_mtime_ns == at, "nothing was measured or saved again"
        (tmp_path / "out" / "model.safetensors").unlink()
        assert train(config, resume=True).finished, "mended from the state"
        assert all(torch.equal(before[name], tensor) for name, tensor in weights(tmp_path / "out").items())
        longer = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 2})})
        train(longer, resume=True)
        assert read_info(tmp_path / "out").training.steps == 12

    def test_nothing_to_resume(self, tmp_path, texts_file, labse):
        with pytest.raises(RequestError, match="nothing to resume"):
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "thesis.docx").write_text("years of work")
            train(tiny_config(texts_file, labse, tmp_path / "out"), resume=True)
        with pytest.raises(RequestError, match="exclude each other"):
            train(tiny_config(texts_file, labse, tmp_path / "out"), resume=True, overwrite=True)

    def test_another_run_is_not_resumed(self, tmp_path, texts_file, labse, monkeypatch):
        self.begin(tmp_path, texts_file, labse)
        other = tiny_config(texts_file, labse, tmp_path / "out", "seed=5", "adapter.kind=mlp")
        with pytest.raises(RequestError, match=r"other settings: seed \(was 0, now 5\), adapter.kind \(was linear, now mlp\); change"):
            train(other, resume=True)
        monkeypatch.setattr("v2t_cli.models.vector_cache.embed_chunks", None)  # refused before anything is embedded
        with pytest.raises(RequestError, match=r"data.max_chars \(was 160, now 20\), the kept texts of data.texts \(was"):
            train(tiny_config(texts_file, labse, tmp_path / "out", "data.max_chars=20"), resume=True)

    def test_other_vectors_or_another_encoder_are_not_resumed(self, tmp_path, texts_file, labse):
        from tiny import build_labse

        np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(100, DIM)))
        config = self.begin(tmp_path, texts_file, "null", f"data.vectors={tmp_path / 'v.npy'}")
        np.save(tmp_path / "v.npy", np.random.default_rng(1).normal(size=(100, DIM)))
        with pytest.raises(RequestError, match=r"other settings: the vectors of data.vectors \(was"):
            train(config, resume=True)
        with pytest.raises(RequestError, match=r"vectors \(was \w+, now None\)"):
            train(tiny_config(texts_file, labse, tmp_path / "out"), resume=True)
        train(tiny_config(texts_file, labse, tmp_path / "out", "train.epochs=1"), overwrite=True)
        other = build_labse(tmp_path, DIM, 2, 2, seed=3)
        with pytest.raises(RequestError, match="does not match that of the run in"):
            train(tiny_config(texts_file, other, tmp_path / "out"), resume=True)

    def test_a_run_that_saved_nothing_starts_again(self, tmp_path, texts_file, labse, caplog):
        config = tiny_config(texts_file, labse, tmp_path / "out", "train.epochs=1")
        assert train(config, resume=True).finished and "nothing saved there yet" in caplog.text
        assert read_info(tmp_path / "out").training.steps == 6

    def test_a_run_of_version_0_1_0_goes_on(self, tmp_path, texts_file, labse, caplog):
        config = self.begin(tmp_path, texts_file, labse)
        (state,) = (tmp_path / "out" / ".resume").iterdir()
        progress = json.loads((state / "progress.json").read_text())
        progress["signature"]["correction"] = None
        del progress["sha256"], progress["files"]
        (state / "progress.json").write_text(json.dumps({"run": 1, **progress}))
        state.rename(state.with_name(f"run1-{state.name}"))
        assert train(config, resume=True).finished and "resumed at step" in caplog.text
        assert [path.name for path in state.parent.iterdir()] == ["step-000000006"]

    def test_what_changes_the_result_is_refused_and_what_does_not_is_taken(self, tmp_path, texts_file, labse):
        config = self.begin(tmp_path, texts_file, labse, "train.learning_rate=1e-3")

        def changed(section, **settings):
            return config.model_copy(update={section: getattr(config, section).model_copy(update=settings)})

        with pytest.raises(RequestError, match=r"train.learning_rate \(was 0.001, now 0.002\), train.weight_decay"):
            train(changed("train", learning_rate=2e-3, weight_decay=0.5), resume=True)
        with pytest.raises(RequestError, match=r"data.augment \(was .*, now 0.1\), data.join \(was .*, now 0.2\)"):
            train(changed("data", augment=0.1, join=0.2), resume=True)
        assert train(changed("train", eval_steps=1, save_steps=2, samples=0), resume=True).finished

    def test_more_epochs_go_on_from_where_the_rate_is(self, tmp_path, texts_file, labse, monkeypatch, caplog):
        from v2t_cli.training.trainer import Trainer

        config = self.begin(tmp_path, texts_file, labse, "train.warmup=0")
        rates, real = [], Trainer._step

        def spy(run, fraction):
            out = real(run, fraction)
            rates.append(run.models.optimizers[0].param_groups[0]["lr"] / 5e-4)
            return out

        monkeypatch.setattr(Trainer, "_step", spy)
        longer = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 3})})
        train(longer, resume=True)
        assert "now ends after 18 steps, not 6 steps: the learning rate continues from 52% of its peak" in caplog.text
        assert len(rates) == 15 and rates[0] == pytest.approx(0.525), "half of the cosine was done"
        assert rates == sorted(rates, reverse=True) and 0.05 < rates[-1] < 0.1
        rates.clear()
        train(longer, callbacks=stopping(3), overwrite=True)
        train(longer, resume=True)
        assert rates == [pytest.approx(Schedule(18, None, 0.0).factor(step / 18)) for step in range(18)], "unchanged, it is one curve"

    def test_a_folder_that_cannot_be_made(self, tmp_path, texts_file, labse):
        (tmp_path / "file").write_text("")
        with pytest.raises(RequestError, match="cannot be created: .*file is a file"):
            train(tiny_config(texts_file, labse, tmp_path / "file" / "out"))

    def test_leftovers_of_a_killed_save(self, tmp_path, texts_file, labse):
        (tmp_path / "out" / ".new-abc").mkdir(parents=True)
        train(tiny_config(texts_file, labse, tmp_path / "out", "train.epochs=1"))
        assert not list((tmp_path / "out").glob(".new-*"))

    def test_a_damaged_state(self, tmp_path, texts_file, labse):
        config = self.begin(tmp_path, texts_file, labse)
        (state,) = (tmp_path / "out" / ".resume").iterdir()
        (state / "optimizer.bin").write_bytes(b"junk")
        with pytest.raises(RequestError, match="damaged"):
            train(config, resume=True)
        (state / "progress.json").write_text(json.dumps({"step": 1})[:-2])
        with pytest.raises(RequestError, match="damaged"):
            train(config, resume=True)

    @pytest.mark.parametrize("hashed", [True, False], ids=["hashed", "of version 0.1.0"])
    @pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"junk"), swap_states])
    def test_random_states_that_are_missing_or_damaged(self, tmp_path, texts_file, labse, damage, hashed):
        """accelerate would go on without them, and dropout with other numbers."""
        config = self.begin(tmp_path, texts_file, labse, "train.dropout=0.1")
        (state,) = (tmp_path / "out" / ".resume").iterdir()
        damage(state / "random_states_0.pkl")
        if not hashed:
            progress = json.loads((state / "progress.json").read_text())
            (state / "progress.json").write_text(json.dumps({**progress, "files": {}, "sha256": None}))
        with pytest.raises(RequestError, match=f"{state.name}.*: damaged, so the run cannot resume: .*; --overwrite starts over"):
            train(config, resume=True)

    @pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "progress.json"])
    def test_a_changed_byte_in_the_state(self, tmp_path, texts_file, labse, name):
        config = self.begin(tmp_path, texts_file, labse)
        (state,) = (tmp_path / "out" / ".resume").iterdir()
        content = bytearray((state / name).read_bytes())
        place = content.index(b'"step": 3') + 8 if name == "progress.json" else len(content) // 2
        content[place] ^= 1
        (state / name).write_bytes(content)
        with pytest.raises(RequestError, match="damaged, so the run cannot resume: it"):
            train(config, resume=True)

    def test_two_trainings_cannot_write_there(self, tmp_path, texts_file, labse):
        config = tiny_config(texts_file, labse, tmp_path / "out", "train.epochs=1", "train.save_steps=2")
        refused = []

        @contextmanager
        def while_another_runs():
            for settings in ({}, {"resume": True}, {"overwrite": True}):
                with pytest.raises(RequestError) as caught:
                    train(config, **settings)
                refused.append(str(caught.value))
            yield lambda: False

        assert train(config, callbacks=Callbacks(stoppable=while_another_runs)).finished
        expected = f"{tmp_path / 'out'}: another training is writing there; wait until it ends, or choose another --output"
        assert refused == [expected] * 3
        assert not list((tmp_path / "out").rglob("*lock*")), "nothing is left of it"
        refused.clear()
        train(config, overwrite=True, callbacks=stopping(3))
        assert train(config, resume=True, callbacks=Callbacks(stoppable=while_another_runs)).finished
        assert "already holds a run" in refused[0] and refused[1:] == [expected] * 2

    def test_a_refused_training_leaves_no_folder(self, tmp_path, labse):
        with pytest.raises(RequestError, match="no such text file"):
            train(tiny_config(tmp_path / "absent.txt", labse, tmp_path / "new" / "out"))
        assert not (tmp_path / "new").exists()

    def test_a_file_in_the_way(self, tmp_path, texts_file, labse):
        (tmp_path / "out").write_text("")
        with pytest.raises(RequestError, match="cannot be created: .*out is a file"):
            train(tiny_config(texts_file, labse, tmp_path / "out"))


def test_training_goes_on_from_a_checkpoint(tmp_path, texts_file, labse, checkpoint, caplog):
    """A decoder that is one of our checkpoints brings its adapter: it starts where it was, not from noise."""
    config = tiny_config(texts_file, labse, tmp_path / "out", f"decoder.model={checkpoint}", "train.epochs=0.1", "train.learning_rate=1e-9")
    result = train(config)
    assert "continuing with the adapter" in caplog.text and "may have been trained on" not in caplog.text, "texts and seed are the same"
    assert result.scores.loss == pytest.approx(read_info(checkpoint).held_out.loss, rel=0.3)
    train(tiny_config(texts_file, labse, tmp_path / "more", f"decoder.model={checkpoint}", "train.epochs=0.1", "data.held_out=0.2"))
    assert "it may have been trained on texts that are now held out" in caplog.text
    few = tmp_path / "few.txt"
    few.write_text("".join(f"{text} Новость!\n" for text in SENTENCES[:40]), encoding="utf-8")
    train(tiny_config(few, labse, tmp_path / "few", f"decoder.model={checkpoint}", "train.epochs=0.1"))
    words, before = Lexicon.read(tmp_path / "few" / "lexicon.txt"), Lexicon.read(checkpoint / "lexicon.txt")
    assert words.place("новость") is not None and all(words.place(word) is not None for word in before.words)
    with pytest.raises(RequestError, match="vectors of 16 dimensions, but these have 8"):
        train(tiny_config(texts_file, build_labse(tmp_path / "narrow", 8, 1, 2), tmp_path / "other", f"decoder.model={checkpoint}"))


@pytest.mark.parametrize("fast", [False, True])
def test_training_in_bfloat16_warns_where_a_cpu_is_slow_at_it(monkeypatch, caplog, fast):
    monkeypatch.setattr("v2t_cli.training.prepare.has_fast_bfloat16", lambda device: fast)
    assert open_accelerator(load_config(None, ["device=cpu", "train.precision=bf16"])).mixed_precision == "bf16"
    assert ("this CPU has no fast bfloat16" in caplog.text) != fast


def test_weights_can_be_stored_in_half_the_size(tmp_path, texts_file, labse):
    train(tiny_config(texts_file, labse, tmp_path / "out", "train.epochs=0.1", "train.save_precision=float16"))
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert "lm_head.weight" not in stored, "the tied head is stored once"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float16"
    assert load_checkpoint(tmp_path / "out", torch.device("cpu")).inverter.lm.dtype == torch.float32
