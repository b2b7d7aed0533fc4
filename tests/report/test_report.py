"""The page: every section, nothing from outside, no markup from data, a sentence for what is missing."""

import base64
import io
import json
import shutil
from html.parser import HTMLParser

import pytest
from PIL import Image

from mmpt.downstream.result import Interval, ProbeResult, ProbeRow
from mmpt.errors import CheckpointError
from mmpt.report import write_report
from mmpt.report.markup import duration, short
from mmpt.report.results import kind_of
from mmpt.training.ledger import Lines

VOID = {"meta", "img"}
SECTIONS = ["Training", "Reconstructions", "Probes", "Diagnostics", "Ledger", "Parameters", "Recipe and environment"]


class Page(HTMLParser):
    """Checks that every element is closed in its turn, and keeps what tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.headings, self.text = [], [], [], [], []
        self.passages = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if ("class", "passage") in attrs:
            self.passages.append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if "article" in self.open and self.passages and {"table", "details"}.isdisjoint(self.open) and "p" in self.open:
            self.passages[-1] += data

    @property
    def plain(self):
        return " ".join(" ".join(self.text).split())

    def values(self, *names):
        return [value for name, value in self.attributes if name in names]


def page_of(run):
    return Page(write_report(run).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(small_run):
    return page_of(small_run)


def test_every_section_is_there_and_every_element_is_closed(page):
    assert page.headings == SECTIONS


def test_the_headline_says_name_state_steps_losses_and_totals(page):
    assert "small & <b>odd  complete" in " ".join(page.text)
    for figure in (
        "8 of 8",
        "final loss, text 3.25",
        "final loss, image 0.55",
        "samples seen 160",
        "tokens seen 4,000",
    ):
        assert figure in page.plain, figure
    assert "samples/s 40 tokens/s 1,000" in page.plain


def test_nothing_is_fetched_from_outside_and_no_script_is_there(page, small_run):
    text = (small_run / "report.html").read_text(encoding="utf-8")
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert all(value.startswith(("data:image/", "#")) for value in page.values("src", "href", "xlink:href", "action"))
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert all(part.startswith("#") for part in text.split("url(")[1:])
    assert len(text) < 3_000_000


def test_ids_are_unique_and_references_lead_somewhere(page):
    names = page.values("id")
    assert len(names) == len(set(names))
    assert {value[1:] for value in page.values("href", "xlink:href") if value.startswith("#")} <= set(names)


def test_curves_cover_losses_rate_norm_throughput_waiting_and_padding(page):
    titles = page.values("aria-label")
    assert titles[:3] == ["loss: text", "loss: image", "learning rate"]
    assert len(titles) == page.tags.count("svg") == 8


def test_experts_spreads_and_hard_tokens_have_charts_that_say_what_they_show(run):
    named = ("load_max", "load_min", "dropped", "entropy", "balance", "stream_information")
    named += ("text/load_max", "image/dropped", "text/entropy")
    figures = {f"experts/{name}": number / 10 for number, name in enumerate(named)}
    figures |= {f"image/{name}": 0.5 for name in ("spearman", "teacher_spearman", "hard_overlap")}
    figures |= {"image/hard_overlap_by_chance": 0.25, "image/latent_std": 0.7, "image/target_std": 0.6}
    lines = Lines(run / "metrics.jsonl", 8)
    lines.write(8, done=9, source="captioned", **figures)
    lines.sync()
    page = page_of(run)
    assert page.values("aria-label")[8:] == [
        "experts: load, 1 is a fair share",
        "experts: choices that found no place",
        "experts: entropy of the gate, 1 if all are as likely",
        "experts: balance loss, 1 if even",
        "experts: what they know of the stream, 1 if each is of one",
        "image: spread over tokens, near 0 is collapse",
        "image: rank correlation with the true losses",
        "image: hardest tokens that the teacher found",
    ]
    legends = ("load, 1 is a fair share most least most of text", "found no place all image", "as likely all text")
    legends += ("true losses predictor teacher", "found teacher by chance", "is collapse latents targets")
    for legend in legends:
        assert legend in page.plain


def test_each_block_s_experts_have_a_table_by_stream(run):
    """All streams are weighed by their tokens: 3 x 1.5 + 1 x 0.5 over 4 is 1.25."""
    image = {"tokens": 300, "load": [1.5, 0.5], "dropped": 0.25, "entropy": 0.5}
    text = {"tokens": 100, "load": [0.5, 1.5], "dropped": 0.05, "entropy": 0.9}
    lines = Lines(run / "metrics.jsonl", 8)
    lines.write(8, done=9, source="captioned", experts={"2": {"image": image}})
    lines.write(9, done=12, source="captioned", experts={"3": {"image": image, "<text>": text}, "4": {"image": image}})
    lines.sync()
    page = page_of(run)
    assert page.headings == [SECTIONS[0], "Experts", *SECTIONS[1:]]
    assert "Steps 10 to 12." in page.plain
    wanted = (
        "block 3 all streams image <text> expert 0 1.25 1.50 0.50 expert 1 0.75 0.50 1.50 dropped 0.200 0.250 0.050"
    )
    assert f"{wanted} entropy of the gate 0.600 0.500 0.900 block 4 all streams image" in page.plain
    shades = [style for style in page.values("style") if style.startswith("background:color-mix")]
    assert [shade.split(" ")[3] for shade in shades[:3]] == ["62%,", "75%,", "25%,"]


def test_single_steps_are_told_apart_by_source_and_mixed_windows_are_not(page, run):
    assert "loss: text prose captioned" in page.plain
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("log_every: 1", "log_every: 4"))
    mixed = page_of(run)
    assert "loss: text prose captioned" not in mixed.plain
    assert "the mean of 4 steps, over all 2 sources together" in mixed.plain


def test_pictures_decode(page):
    encoded = [value.split("base64,")[1] for value in page.values("src")]
    assert len(encoded) >= 3 * 6
    sizes = {Image.open(io.BytesIO(base64.b64decode(data))).size for data in encoded}
    assert sizes == {(16, 16)}


def test_passages_are_shown_as_they_are_with_markup_escaped(page, small_run):
    assert sum("<script>alert('&amp;')</script>" in passage for passage in page.passages) >= 3
    assert "<script" not in (small_run / "report.html").read_text(encoding="utf-8")


def test_the_page_explains_its_pictures_and_parameters_and_shows_recipe_and_environment(page):
    assert "predictions are shown on each patch's true mean and deviation" in page.plain
    for words in ("encoder text", "trunk", "100.0%", "masked_prediction", "drop_path: 0.1", "python", "torch"):
        assert words in page.plain


def test_the_same_run_gives_the_same_page_and_leaves_nothing_else(run):
    first = write_report(run).read_bytes()
    before = sorted(path.name for path in run.iterdir())
    assert write_report(run).read_bytes() == first
    assert sorted(path.name for path in run.iterdir()) == before


def test_shards_that_are_gone_or_others_get_a_sentence(run, report_shards, tmp_path):
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace(str(report_shards), str(tmp_path / "gone")))
    gone = page_of(run)
    assert gone.headings == SECTIONS
    assert "No samples can be shown:" in gone.plain
    assert "gone/text: there is no manifest.json" in gone.plain
    (run / "recipe.yaml").write_text(recipe)
    (run / "data.json").write_text('{"prose": "0", "captioned": "0"}')
    assert "these are not the shards that the run was trained on" in page_of(run).plain


def test_a_damaged_sample_is_passed_over(run, report_shards, tmp_path):
    shutil.copytree(report_shards, tmp_path / "shards")
    recipe = (run / "recipe.yaml").read_text().replace(str(report_shards), str(tmp_path / "shards"))
    (run / "recipe.yaml").write_text(recipe)
    tar = next((tmp_path / "shards" / "text").glob("*.tar"))
    data = bytearray(tar.read_bytes())
    for place in range(512, len(data) // 2, 512):
        data[place + 3] ^= 1
    tar.write_bytes(data)
    assert len(page_of(run).passages) >= 3


def test_a_run_that_has_just_begun_gets_a_page_too(run):
    shutil.rmtree(run / "checkpoints")
    for name in ("metrics.jsonl", "environment.json"):
        (run / name).unlink()
    page = page_of(run)
    assert page.headings == SECTIONS
    for sentence in (
        "no step yet",
        "no metrics.jsonl",
        "there is no checkpoint yet",
        "no probe of this run",
        "No sample was",
    ):
        assert sentence in page.plain


def test_a_stopped_run_says_where(run):
    (run / "checkpoints" / "step-000000008").rename(run / "checkpoints" / "step-000000003")
    Lines(run / "metrics.jsonl", 3)
    assert "stopped at step 3" in page_of(run).plain


def test_figures_that_are_not_finite_are_no_obstacle(run):
    Lines(run / "metrics.jsonl", 8).write(
        8, done=9, source="prose", **{"text/loss": float("nan"), "learning_rate": 0.0}
    )
    lines = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(lines.replace('"gradient_norm": 1.5', '"gradient_norm": Infinity'))
    assert "final loss, text nan" in page_of(run).plain


def test_a_folder_that_is_no_run_is_refused_and_left_alone(tmp_path):
    with pytest.raises(CheckpointError, match="not a run folder"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("score", "share", "whisker"),
    [("accuracy", "62.50", "left:50.00%;width:25.00%"), ("macro_f1", "37.50", "left:25.00%;width:25.00%")],
)
def test_probes_stand_beside_the_untrained_encoder_and_baselines(run, score, share, whisker):
    high, low, f1 = Interval(0.625, 0.5, 0.75), Interval(0.25, 0.125, 0.375), Interval(0.375, 0.25, 0.5)
    rows = (
        ProbeRow("pretrained", high, high, f1, high, high, f1),
        ProbeRow("untrained <i>", low, high, low),
        ProbeRow("commonest class", Interval(0.1, 0.05, 0.15), high, low),
    )
    sizes = {"train": 1200, "test": 60}
    result = ProbeResult(
        run="run",
        step=8,
        data="shards",
        label="label",
        streams=("text",),
        classes=("a", "b"),
        samples=sizes,
        groups=sizes,
        rows=rows,
        score=score,
        gain=high,
        chosen_by="validation",
        notes=("a note",),
        seed=0,
    )
    result.write(run, narrowed=False)
    (run / "probe-broken.json").write_text('{"streams": []}')
    page = page_of(run)
    for words in ("62.5 % 50.0 to 75.0", "untrained <i>", "25.0 %", "commonest class", "1,200 train", "a note"):
        assert words in page.plain
    assert f"width:{share}%" in page.values("style")
    assert whisker in page.values("style")
    assert f"chosen by {'accuracy' if score == 'accuracy' else 'macro-F1'} on validation" in page.plain
    assert "probe-broken.json can't be read" in page.plain


def test_the_ledger_is_summed_up_over_ranks_by_reason(run):
    first, second = Lines(run / "ledger.jsonl", 0), Lines(run / "ledger-rank00001.jsonl", 0)
    for lines, key, size in ((first, "7", 12), (first, "8", 99), (second, "7", 12)):
        reason = f"a/b.tar: sample {key}: member 'image': the tar ends {size} bytes too early (truncated)"
        lines.write(1, event="skipped sample", source="captioned", key=key, reason=reason)
    second.write(2, event="skipped update", objective="image", uids=[5, 6], samples=["captioned/7"])
    second.write(4, event="skipped update", objective=None, uids=[], samples=[])
    plain = page_of(run).plain
    assert "3 times a sample could not be read" in plain
    assert "member 'image': the tar ends # bytes too early (truncated) 3 2 a/b.tar: sample 7" in plain
    assert "2 updates were not finite" in plain
    assert "2 image 5, 6 captioned/7" in plain


def test_an_unreadable_environment_is_no_obstacle(run):
    (run / "environment.json").write_text("{")
    assert "no readable environment.json" in page_of(run).plain


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0, "0"), (0.5, "0.5"), (9999.0, "9,999"), (17234.0, "17.2 k"), (1.234e6, "1.23 M"), (5e11, "500 G")],
)
def test_numbers_are_shortened(number, text):
    assert short(number) == text


def test_durations_and_reasons_are_for_people():
    assert (duration(125.0), duration(3725.0)) == ("2:05", "1:02:05")
    assert kind_of("x/s.tar: sample 3: member 'text': not UTF-8 text (byte 0xff at 3)") == (
        "member 'text': not UTF-8 text (byte # at #)"
    )


def test_the_recipe_is_quoted_whole(page, small_run):
    assert " ".join((small_run / "recipe.yaml").read_text().split()) in page.plain
    assert json.loads((small_run / "environment.json").read_text())["python"] in page.plain
