import json

import pytest

from v2t_cli.core.errors import RequestError
from v2t_cli.io.signature import EncoderIdentity, Signature

SETTINGS = {"texts": "abc", "seed": 1, "rates": (1e-3, 2e-3), "adapter": {"kind": "linear", "tokens": 2}, "prompt": None}
ENCODER = EncoderIdentity(name="labse", revision="r1", dim=2, prompt="query: ", probe=[1.0, 0.0])


def test_a_run_continues_itself():
    for encoder in (ENCODER, None):
        signature = Signature(settings=SETTINGS, encoder=encoder)
        stored = Signature.model_validate(json.loads(json.dumps({"size": 7, **signature.model_dump(mode="json")})))
        assert stored.encoder == encoder
        stored.check(signature, "out.txt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"seed": 2},
            r"out.txt: the interrupted run had other settings: seed \(was 1, now 2\); change them back, or start over with --overwrite",
        ),
        ({"adapter": {"kind": "mlp", "tokens": 2}}, r"settings: adapter.kind \(was linear, now mlp\);"),
        ({"rates": (1e-3, 3e-3)}, r"settings: rates \(was \[0.001, 0.002\], now \[0.001, 0.003\]\);"),
        ({"prompt": "q"}, r"settings: prompt \(was None, now q\);"),
        ({"new": 5}, r"settings: new \(was None, now 5\);"),
        ({"adapter": None}, r"adapter.kind \(was linear, now None\)"),
    ],
)
def test_differences_are_named(changes, message):
    before = Signature.model_validate(json.loads(json.dumps(Signature(settings=SETTINGS).model_dump(mode="json"))))
    with pytest.raises(RequestError, match=message):
        before.check(Signature(settings={**SETTINGS, **changes}), "out.txt")


def test_all_differences_are_named_at_once():
    with pytest.raises(RequestError) as caught:
        Signature(settings=SETTINGS).check(Signature(settings={**SETTINGS, "seed": 2, "texts": "def"}), "out.txt")
    assert "seed (was 1, now 2)" in str(caught.value) and "texts (was abc, now def)" in str(caught.value)


def test_a_setting_that_is_gone_is_a_difference():
    with pytest.raises(RequestError, match=r"seed \(was 1, now None\)"):
        Signature(settings=SETTINGS).check(Signature(settings={key: value for key, value in SETTINGS.items() if key != "seed"}), "out.txt")


def test_the_encoder_must_stay():
    renamed = ENCODER.model_copy(update={"name": "moved", "revision": None})
    Signature(settings={}, encoder=ENCODER).check(Signature(settings={}, encoder=renamed), "out.txt")
    other = ENCODER.model_copy(update={"name": "other", "probe": [0.0, 1.0]})
    with pytest.raises(RequestError, match="encoder 'other' does not match that of the run in out.txt, 'labse' .probe cosine 0.000"):
        Signature(settings={}, encoder=ENCODER).check(Signature(settings={}, encoder=other), "out.txt")
    with pytest.raises(RequestError, match="encoder .was labse, now None.; change them back"):
        Signature(settings={}, encoder=ENCODER).check(Signature(settings={}), "out.txt")
    with pytest.raises(RequestError, match="encoder .was None, now labse.; change them back"):
        Signature(settings={}).check(Signature(settings={}, encoder=ENCODER), "out.txt")


@pytest.mark.parametrize(
    "stored",
    [{}, {"encoder": None}, {"signature": None, "encoder": None}, {"signature": 5, "encoder": None}, {"signature": {}, "encoder": {}}],
)
def test_what_is_no_signature_raises_what_it_promises(stored):
    with pytest.raises(ValueError):
        Signature.model_validate(stored)


def test_widths_of_encoders_are_named():
    wide = EncoderIdentity(name="wide", dim=3, probe=[1.0, 0.0, 0.0])
    with pytest.raises(RequestError, match="'wide' does not match that of X, 'labse' .3 dimensions instead of 2.; use 'labse' instead"):
        ENCODER.check(wide, "X")
