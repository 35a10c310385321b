"""What fuzzing found worth keeping is read again by every run of the suite."""

import contextlib
from pathlib import Path

from allcnn_zoo import neon
from allcnn_zoo.errors import NeonError

CORPUS = sorted((Path(__file__).parents[1] / "fuzz" / "corpus").iterdir())


def test_every_input_is_understood_or_refused() -> None:
    assert len(CORPUS) > 100
    understood = 0
    for path in CORPUS:
        data = path.read_bytes()
        survey = neon.survey_bytes(data)
        with contextlib.suppress(NeonError):
            neon.read_pickle_bytes(data)
            assert survey.is_safe
            understood += 1
            neon.rescue(neon.read_model_bytes(data))
    assert 0 < understood < len(CORPUS)
