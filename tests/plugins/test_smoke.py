"""What counts as the same answer."""

import pytest

from evergreen import smoke

QUESTION = smoke.Question("0.jpg", b"", truth="7", label="7", probability=0.9)


def test_the_offline_answer_is_no_doubt() -> None:
    answer = smoke.parse(b'{"label": "7", "probability": 0.905, "model_version": "v"}')
    assert answer == smoke.Answer("7", 0.905, "v")
    assert smoke.doubt(QUESTION, answer) is None
    assert smoke.parse(b'{"label": "7", "probability": 1}').version is None


@pytest.mark.parametrize("answer", [smoke.Answer("1", 0.9, "v"), smoke.Answer("7", 0.92, "v")])
def test_another_label_or_probability_is_one(answer: smoke.Answer) -> None:
    assert smoke.doubt(QUESTION, answer) == (
        f"the endpoint answers {answer.label} ({answer.probability:.4f}) to 0.jpg, the model offline 7 (0.9000)"
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no label and probability"),
        (b"[1, 2]", "no label and probability"),
        (b'{"label": "7"}', "KeyError: 'probability'"),
        (b'{"label": "7", "probability": null}', "TypeError"),
        (b'{"label": "7", "probability": NaN}', "its probability is nan"),
    ],
)
def test_what_is_no_answer_is_said_to_be_none(body: bytes, words: str) -> None:
    with pytest.raises(smoke.AnswerError, match=words.replace("[", r"\[")):
        smoke.parse(body)
