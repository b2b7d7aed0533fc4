"""When a run says that its own targets collapse, and when it stops."""

import json
import warnings

import pytest

from mmpt.training.collapse import PATIENCE, CollapseError, CollapseWarning, CollapseWatch

LOW, HIGH = {"image/target_std": (0.5, 10.0)}, {"image/target_std": (5.0, 10.0)}
FLAT = {"image/target_std": (5.0, 10.0), "text/prediction_std": (0.09, 10.0)}


def looks(watch, *steps, progress=0.5):
    return [watch.look(step, progress) for step in steps]


def test_it_speaks_once_and_not_of_a_passing_state():
    watch = CollapseWatch("warn")
    assert not any(looks(watch, *[LOW] * (PATIENCE - 1), HIGH, *[LOW] * (PATIENCE - 1)))
    with pytest.warns(CollapseWarning, match="image/target_std is 0.05, below 0.1") as caught:
        ((sentence,),) = looks(watch, LOW)
    assert "lower training.optimizer.learning_rate" in sentence
    assert sentence == str(caught[0].message)
    assert not any(looks(watch, *[LOW] * 50))


def test_predictions_have_a_limit_of_their_own():
    watch = CollapseWatch("warn")
    assert not any(looks(watch, *[FLAT] * (PATIENCE - 1)))
    with pytest.warns(CollapseWarning, match="text/prediction_std is 0.009, below 0.01"):
        looks(watch, FLAT)


def test_latents_of_the_trunk_are_watched_too():
    watch = CollapseWatch("warn")
    looks(watch, *[{"ecg/latent_std": (0.4, 10.0)}] * (PATIENCE - 1))
    with pytest.warns(CollapseWarning, match=r"ecg/latent_std is 0.04, below 0.05 .* raise objective\.teacher\.start"):
        looks(watch, {"ecg/latent_std": (0.4, 10.0)})


def test_every_figure_of_every_stream_speaks_for_itself():
    """Two at the same step, and one that follows later."""
    watch, both = CollapseWatch("warn"), LOW | {"text/target_std": (0.5, 10.0), "image/latent_std": (5.0, 10.0)}
    with pytest.warns(CollapseWarning) as caught:
        said = looks(watch, *[both] * PATIENCE)
    assert [sentence.split()[0] for sentence in said[-1]] == ["image/target_std", "text/target_std"]
    assert [str(warning.message) for warning in caught] == said[-1]
    with pytest.warns(CollapseWarning, match="image/latent_std"):
        looks(watch, *[both | {"image/latent_std": (0.05, 10.0)}] * PATIENCE)


def test_what_was_said_is_not_said_again_by_a_run_that_goes_on():
    watch = CollapseWatch("warn")
    with pytest.warns(CollapseWarning):
        looks(watch, *[LOW] * PATIENCE)
    again = CollapseWatch("warn", **json.loads(json.dumps(watch.state())))
    assert not any(looks(again, *[LOW] * 50))
    with pytest.warns(CollapseWarning, match="text/prediction_std"):
        looks(again, *[LOW | FLAT] * PATIENCE)


def test_codes_are_watched_too():
    watch = CollapseWatch("warn")
    looks(watch, *[{"speech/code_perplexity": (15.0, 10.0)}] * (PATIENCE - 1))
    with pytest.warns(CollapseWarning, match=r"code_perplexity is 1.5, below 2 .* contrast\.diversity"):
        looks(watch, {"speech/code_perplexity": (15.0, 10.0)})


def test_it_stops_where_it_was_told_to_and_goes_on_where_it_was():
    watch = CollapseWatch("stop")
    looks(watch, *[LOW] * (PATIENCE - 1))
    again = CollapseWatch("stop", **json.loads(json.dumps(watch.state())))
    with pytest.raises(CollapseError, match=r"training\.collapse=warn goes on all the same"):
        looks(again, LOW)


def test_early_steps_absent_streams_and_runs_told_so_are_let_be():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not any(looks(CollapseWatch("warn"), *[LOW] * 100, progress=0.05))
        assert not any(looks(CollapseWatch("off"), *[LOW] * 100))
        absent = {"image/target_std": (0.0, 0.0), "image/loss": (0.0, 5.0)}
        assert not any(looks(CollapseWatch("stop"), *[absent] * 100))
