"""What a first user writes in Python: names instead of parts, one sample, arrays, the same fit again."""

import hashlib
import inspect

import numpy as np
import pytest
from walks import CLASSES, picture, prose, walk

import mmpt
from mmpt.downstream.encoder import CutWarning
from mmpt.errors import ConfigError, DataError
from mmpt.finetune import Classifier, MultiLabel, Retrieval, TokenTagger
from mmpt.finetune.class_weights import by_name
from mmpt.finetune.model import plain_model

QUICK = {"epochs": 1, "batch_size": 16, "strategy": "linear_probe"}


@pytest.fixture(scope="module")
def encoder(run):
    return mmpt.load(run)


def records(numbers):
    """Pictures of two classes, as dicts."""
    return [{"image": walk(n)["image"], "place": walk(n)["labels"]["place"], "group": str(n)} for n in numbers]


def test_a_pool_and_a_stream_may_be_said_by_name_or_as_in_a_recipe(encoder):
    task = Classifier(encoder, label="place", inputs="text", pool="attention")
    assert (task.inputs, task.pool.name) == (("text",), "attention")
    task = Retrieval(encoder, streams=["image", "text"], pool={"type": "attention", "heads": 2})
    assert task.pool.settings["heads"] == 2
    with pytest.raises(ConfigError, match=r"pool: expected a Pool \(.*\), got 'attentiv'; did you mean 'attention'"):
        Classifier(encoder, label="place", pool="attentiv")
    with pytest.raises(ConfigError, match="no stream 'txt'; it has text, image; did you mean 'text'"):
        Classifier(encoder, label="place", inputs=["txt"])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"epoch": 3}, "epoch: expected a setting of FitSettings .*did you mean 'epochs'"),
        ({"precision": "fp16"}, r"precision: expected a choice \(auto, bf16, fp32\), got 'fp16'"),
        (
            {"metric": "f1_macro"},
            r"metric: expected a metric \(accuracy, .*\), got 'f1_macro'; did you mean 'macro_f1'",
        ),
        ({"strategy": {"type": "full", "layer_decai": 0.5}}, "strategy.layer_decai: .*did you mean 'layer_decay'"),
    ],
)
def test_a_wrong_setting_of_a_fit_is_a_sentence_with_the_nearest_name(encoder, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Classifier(encoder, label="place").fit(records(range(8)), records(range(8, 12)), **settings)


def test_a_word_that_means_nothing_is_not_taken_for_the_other_choice(encoder):
    """Types are not checked where a user runs this, as they are in tests; so the functions below all checks."""
    said = {"label": "place", "stream": "text"}
    with pytest.raises(ConfigError, match=r"words: expected a choice \(tokenizer, space\), got 'spaces'; did you"):
        inspect.unwrap(TokenTagger.__init__)(object.__new__(TokenTagger), encoder, **said, words="spaces")
    for weights in ("balance", [1.0, 2.0]):
        with pytest.raises(ConfigError, match="class_weights: expected balanced, or a dict of a weight a class, got"):
            inspect.unwrap(by_name)(weights)
    with pytest.raises(ConfigError, match="label_smoothing: expected a share from 0 to 1"):
        Classifier(encoder, label="place", label_smoothing=1.5)


@pytest.mark.parametrize(
    ("sample", "sentence"),
    [
        ({"text": "a wave"}, "'text': expected a column, one value a sample, got a str; .* a list of one dict"),
        ({"image": picture(0, 0)}, "'image': expected a column, one value a sample, got a Image"),
        ({"text": {"a": "b"}}, "'text': expected a column, one value a sample, got a dict"),
        ({"text": 3}, "'text': expected a column, one value a sample, got a int"),
    ],
)
def test_one_sample_is_not_taken_for_columns_of_letters_or_keys(encoder, sample, sentence):
    with pytest.raises(DataError, match=sentence):
        Classifier(encoder, label="place").predict(sample)


def test_what_is_longer_than_the_encoder_takes_is_told_of(encoder):
    task = Classifier(encoder, label="place", inputs=["text"])
    task.facts = {"classes": list(CLASSES), "counts": [1, 1]}
    task.model = plain_model(task)
    long = [{"text": "tide " * 50, "place": "sea"}, {"text": "tide", "place": "sea"}]
    with pytest.warns(CutWarning, match=r"1 of 2 samples were cut, being longer than the encoder takes \(text 22\)"):
        task.predict(long)
    with pytest.warns(CutWarning, match="1 of 2 samples"):
        task.evaluate(long)
    train = [{"text": prose(n % 2, n), "place": CLASSES[n % 2]} for n in range(12)]
    notes = Classifier(encoder, label="place", inputs=["text"]).fit(train, long, **QUICK).notes
    assert notes == ("validation: 1 of 2 samples were cut, being longer than the encoder takes (text 22)",)


def test_predictions_are_numbers_where_labels_were(encoder):
    scores = [np.array([0.1, 0.9]), np.array([0.8, 0.2])]
    for labels, said in (([np.int64(3), 12, 3, 12], [3, 12]), (["3", "12", "3", "12"], ["3", "12"])):
        task = Classifier(encoder, label="place")
        task.facts = task.learn(labels)
        assert task.facts["classes"] == ["12", "3"]
        assert task.decode(scores) == said
        tagger = TokenTagger(encoder, label="place", stream="text")
        tagger.facts = tagger.learn([labels, [labels[0], None]])
        assert tagger.decode([np.stack(scores)]) == [said]


def test_names_in_an_array_are_a_list_of_names(encoder):
    task = MultiLabel(encoder, label="tags")  # what a column of lists in a Parquet file is read as
    assert task.parse(np.array(["a", "b"], dtype=object)) == {"a", "b"}
    with pytest.raises(DataError, match="expected a list of names"):
        task.parse(np.array([1, 0]))


def test_a_finished_fit_asked_for_again_predicts_and_other_weights_are_another_fit(encoder, run, tmp_path):
    def fit(own):
        task = Classifier(own, label="place", inputs=["image"])
        seed = np.int64(1)  # as a loop over np.arange has it
        return task, task.fit(records(range(24)), records(range(24, 36)), **QUICK, seed=seed, out=tmp_path / "fit")

    first, result = fit(encoder)
    again, told = fit(encoder)
    assert told.task is again
    assert told.metrics == result.metrics
    rows = [{"image": picture(1, 3)}, {"image": picture(0, 4)}]
    assert (again.predict_scores(rows) == first.predict_scores(rows)).all()
    assert set(again.predict(rows)) <= set(CLASSES)
    for own in (mmpt.load(run, step=1), mmpt.load(run, untrained=True)):
        with pytest.raises(ConfigError, match=r"holds a fit with weights step 2, not (step 1|untrained); use another"):
            fit(own)


def test_a_task_is_not_saved_over_the_run_it_began_with(encoder, run, tmp_path):
    def hashes(folder):
        return {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*") if path.is_file()}

    result = Classifier(encoder, label="place", inputs=["image"]).fit(
        records(range(24)), records(range(24, 36)), **QUICK
    )
    before = hashes(run)
    with pytest.raises(ConfigError, match="is not empty; choose another folder"):
        result.save(run)
    assert hashes(run) == before
    (tmp_path / "file").write_text("x")
    for name in ("file", "file/more"):
        with pytest.raises(DataError, match="is a file"):
            result.save(tmp_path / name)
