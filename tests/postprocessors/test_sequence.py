"""Text recognisers from logits to tokens: the reference against a loop, and artifacts against the reference."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import pp_graph as pp
from pp_graph.errors import OpsetError, OutputRoleError, PostProcessorError
from pp_graph.postprocessors import RAW_LOGITS
from pp_graph.postprocessors.class_names import read_characters
from tests.models import run
from tests.recognisers import CHARACTERS, lines, recogniser

F32 = np.float32


def decoded(logits: np.ndarray, blank: int = 0) -> tuple[list[list[int]], list[list[float]]]:
    """Tokens and their probabilities, (N,T,C), one time after the other."""
    powers = np.exp(logits.astype(np.float64) - logits.max(2, keepdims=True))
    probabilities = (powers / powers.sum(2, keepdims=True)).max(2)
    tokens, probs = [], []
    for row, chances in zip(logits.argmax(2), probabilities, strict=True):
        first = [next(group) for _, group in itertools.groupby(enumerate(row), key=lambda pair: pair[1])]
        tokens.append([int(label) for _, label in first if label != blank])
        probs.append([chances[time] for time, label in first if label != blank])
    return tokens, probs


def test_reads_as_a_loop_does() -> None:
    x = np.random.default_rng(0).normal(0, 2, (40, 9, 4)).astype(F32)
    x[0, :, 3] = 99
    for blank in (0, 3, -1):
        found = pp.SequencePostProcessor(blank=blank)({RAW_LOGITS: x})
        tokens, probs = decoded(x, blank % 4)
        for index, (row, chances) in enumerate(zip(tokens, probs, strict=True)):
            count = len(row)
            assert found.token_ids[index].tolist() == row + [-1] * (9 - count)
            assert found.length[index] == count
            assert np.allclose(found.token_probs[index], chances + [0] * (9 - count))
            assert found.confidence[index] == pytest.approx(np.mean(chances) if count else 0, rel=1e-6)
            assert x[index].argmax(1)[found.token_times[index, :count]].tolist() == row
    assert found.length[0] == 0
    assert {array.dtype.name for array in found.values()} == {"int64", "float32"}


@pytest.mark.parametrize(
    ("layout", "times", "opset", "head"),
    [("NTC", "T", 17, None), ("TNC", 14, 17, None), ("NTC", "T", 9, "Softmax"), ("TNC", "T", 11, "LogSoftmax")],
)
def test_artifacts_read_as_the_reference(layout: str, times: int | str, opset: int, head: str | None) -> None:
    raw = recogniser(layout, times=times, opset=opset, head=head)
    fused = pp.fuse(raw, pp.SequencePostProcessor(labels=CHARACTERS))
    assert fused.provenance.parameters["activation"] == ("none" if head == "Softmax" else "softmax")
    assert fused.provenance.parameters["layout"] == layout
    tokens, _ = decoded(run(raw, {"image": lines()})["logits"].swapaxes(0, int(layout == "TNC")))
    found = run(fused, {"image": lines()})
    assert [[each for each in row if each >= 0] for row in found["token_ids"].tolist()] == tokens
    artifacts = [(fused, "f32")] if opset == 11 else [(fused, "f32"), (pp.convert(fused), "bf16")]
    for artifact, precision in artifacts:
        report = pp.verify(raw, artifact, lines(), inference_precision=precision, max_label_flips=None)
        assert report.postprocessing_exact, report.failures
        assert report.boundary.flips == 0
        assert [decision.name for decision in report.decisions] == ["token_ids"]
        if precision == "f32":
            assert report.drift_flips == 0


def test_drift_of_tokens_has_the_smallest_margin_of_the_text() -> None:
    raw = recogniser()
    artifact = pp.convert(pp.fuse(raw, pp.SequencePostProcessor()))
    report = pp.verify(raw, artifact, lines(60, 40), inference_precision="bf16", max_label_flips=None)
    drift = report.decisions[0].drift
    if not len(drift):
        pytest.skip("this CPU runs bf16 as f32")
    assert 0 <= drift.margin.max() < 0.1


def test_labels_give_every_class_a_character() -> None:
    raw = recogniser()
    for labels, blank, expected, at in (
        (CHARACTERS, None, ("", *CHARACTERS), 0),
        (CHARACTERS, -1, (*CHARACTERS, ""), 4),
        (("a", "b", "c"), None, ("", "a", "b", "c", " "), 0),
        (("a", "b", "<blank>", "c", "d"), None, ("a", "b", "", "c", "d"), 2),
    ):
        program = pp.SequencePostProcessor(labels=labels, blank=blank).bind(pp.RawModel.open(raw))
        assert program.predicted[0].class_names == expected
        assert program.post.parameters()["blank"] == at
    model = recogniser()
    onnx.helper.set_model_props(model, {"character": "a\nb\nc\n"})
    program = pp.SequencePostProcessor().bind(pp.RawModel.open(model))
    assert program.predicted[0].class_names == ("", "a", "b", "c", " ")


def test_strip_and_opening_again(tmp_path: Path) -> None:
    onnx.save(recogniser("TNC"), tmp_path / "raw.onnx")
    fused = pp.fuse(tmp_path / "raw.onnx", pp.SequencePostProcessor(labels=CHARACTERS)).save(tmp_path / "fused.onnx")
    assert pp.open(fused).program.predicted[0].class_names == ("", *CHARACTERS)
    pp.strip(fused).save(tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "raw.onnx").read_bytes()


def test_characters_in_files(tmp_path: Path) -> None:
    for name, text, expected in (
        ("a.txt", "a\n \n\u2028\n", ("a", " ", "\u2028")),
        ("a.txt", "\r\na\r\nb", ("", "a", "b")),
        ("a.json", '["", "a"]', ("", "a")),
        ("a.json", '{"a": 1, "<pad>": 0}', ("<pad>", "a")),
    ):
        (tmp_path / name).write_bytes(text.encode())
        assert read_characters(tmp_path / name) == expected
    (tmp_path / "a.json").write_text('{"a": 1}')
    with pytest.raises(PostProcessorError, match="are not JSON of characters"):
        read_characters(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "sigmoid"}, "activation is 'sigmoid', expected 'softmax' or 'none'"),
        ({"layout": "NCT"}, "layout is 'NCT', expected 'NTC' or 'TNC'"),
        ({"labels": "abc"}, "labels is not a list of texts"),
        ({"blank": 5}, "blank is 5, and output 'logits'.*has 5 classes, expected 0 to 4"),
        ({"labels": ("a", "b")}, "There are 2 labels, and output 'logits'.*has 5 classes"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        pp.SequencePostProcessor(**options).bind(pp.RawModel.open(recogniser()))


def test_models_that_do_not_fit() -> None:
    post = pp.SequencePostProcessor()
    with pytest.raises(OutputRoleError, match=r"\(N,T,C\) or as \(T,N,C\).*--layout"):
        pp.fuse(recogniser(times=1, batch=1), post)
    with pytest.raises(OutputRoleError, match="The layout is TNC, .* expected NTC. Leave the layout out"):
        pp.fuse(recogniser("NTC"), pp.SequencePostProcessor(layout="TNC"))
    with pytest.raises(PostProcessorError, match="activation is softmax, and output 'logits' holds probabilities"):
        pp.fuse(recogniser(head="Softmax"), pp.SequencePostProcessor(activation="softmax"))
    with pytest.raises(OpsetError, match="opset 8, expected 9 or later"):
        pp.fuse(recogniser(opset=8), post)
